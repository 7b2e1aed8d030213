"""The tensors that a loop makes for one forward pass."""

from __future__ import annotations

from ..ledger import Ledger, Tensor
from ..programs import Inputs
from ..programs.heads import batch_of

Batch = dict[str, Tensor]
"""What a loop gives to the model, by the names of its arguments. A module of the user's own makes its inputs itself."""


def make_batch(ledger: Ledger, inputs: Inputs) -> Batch:
    """The batch of a forward pass."""
    ledger.phase, ledger.scope = "forward", "inputs"
    if inputs.makes_own:
        return {}
    sizes = inputs.step.sizes(inputs.batch, inputs.seq)
    return batch_of(inputs.step.inputs(), lambda one: ledger.empty(one.sized(sizes), one.dtype))
