"""The tensors that a loop makes for one forward pass."""

from __future__ import annotations

from ..ledger import Ledger, Tensor
from ..programs import Inputs

Batch = dict[str, Tensor]
"""What a loop gives to the model, by the names of its arguments. A module of the user's own makes its inputs itself."""


def make_batch(ledger: Ledger, inputs: Inputs) -> Batch:
    """The batch of a forward pass."""
    ledger.phase, ledger.scope = "forward", "inputs"
    batch: Batch = {}
    if inputs.makes_own:
        return batch
    sizes = inputs.step.sizes(inputs.batch, inputs.seq)
    for one in inputs.step.inputs():
        batch[one.name] = batch[one.same_as] if one.same_as else ledger.empty(one.sized(sizes), one.dtype)
    return batch
