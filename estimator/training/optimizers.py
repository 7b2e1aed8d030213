"""Optimizers: the states they keep and what a step takes and gives back.

Source: ``torch/optim/adamw.py`` and ``sgd.py``, single-tensor forms, which PyTorch uses on a CPU.
"""

from __future__ import annotations

from ..ledger import Ledger, Tensor
from ..ops import wrapped_number
from ..symbols import Size

STEP_BYTES = 4
"""AdamW keeps its step count as one float32 tensor per parameter."""

STATES = {"adamw": 2, "sgd": 0, "sgd-momentum": 1}
"""State tensors per trainable parameter, each of the parameter's shape and dtype."""


def state_bytes(name: str, parameters: list[Tensor]) -> Size:
    """Bytes of all states after the first step."""
    total: Size = 0
    for p in parameters:
        total = total + p.nbytes * p.copies * STATES[name]
        if name == "adamw":
            total = total + p.copies * STEP_BYTES
    return total


def step(name: str, ledger: Ledger, parameters: list[Tensor]) -> None:
    """``optimizer.step()``: AdamW's denominator of one parameter lives until the next one's is ready."""
    ledger.phase, ledger.scope = "step", "optimizer"
    if name != "adamw":
        return
    denominator: Tensor | None = None
    for p in parameters:
        root = ledger.empty(p.shape, p.dtype)
        number = wrapped_number(ledger, p.dtype)
        denominator = ledger.empty(p.shape, p.dtype)
        del root, number
    del denominator
