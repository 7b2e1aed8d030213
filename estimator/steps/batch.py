"""The tensors that a loop makes for one forward pass."""

from __future__ import annotations

from typing import NamedTuple

from ..ledger import Ledger, Tensor
from ..programs import Inputs


class Batch(NamedTuple):
    """What a loop gives to the model, each int64 [B, S]. A module of the user's own makes its inputs itself."""

    ids: Tensor | None = None
    labels: Tensor | None = None
    """The ids themselves, or a tensor of their own."""
    mask: Tensor | None = None
    position_ids: Tensor | None = None
    seq_idx: Tensor | None = None
    """In int32: of a packed row, the number of each token's sequence."""


def make_batch(ledger: Ledger, inputs: Inputs) -> Batch:
    """The batch of a forward pass."""
    ledger.phase, ledger.scope = "forward", "inputs"
    if inputs.makes_own:
        return Batch()
    shape, step = (inputs.batch, inputs.seq), inputs.step
    ids = ledger.empty(shape, "int64")
    mask = ledger.empty(shape, "int64") if step.takes_mask else None
    labels = ledger.empty(shape, "int64") if step.data_collator or step.packing else ids
    position_ids = ledger.empty(shape, "int64") if step.packing else None
    return Batch(ids, labels, mask, position_ids, ledger.empty(shape, "int32") if step.return_seq_idx else None)
