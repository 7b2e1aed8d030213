"""AdamW with block-wise 8-bit states (arXiv 2110.02861), as bitsandbytes runs it on a CPU.

Sources: ``bitsandbytes/optim/optimizer.py: Optimizer2State``, ``bitsandbytes/backends/cpu/ops.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Tensor
from ...symbols import Size
from .base import Optimizer, whole

SMALLEST = 4096
"""Elements of a parameter from which its states are quantised (``min_8bit_size``)."""
BLOCK = 256
"""Elements that share a float32 maximum, for each of the two states."""
TABLES_BYTES = 2 * 256 * 4
"""The quantisation maps, one for signed and one for unsigned states, shared by all parameters."""


class AdamW8bit(Optimizer):
    """``bitsandbytes.optim.AdamW8bit``: smaller parameters have states in float32, whatever their dtype."""

    open_sizes = False

    def states(self, p: Tensor) -> Size:
        count = whole(p.numel)
        return 8 * count if count < SMALLEST else 2 * (count + 4 * -(-count // BLOCK))

    def state_bytes(self, parameters: Sequence[Tensor]) -> Size:
        quantised = any(whole(p.numel) >= SMALLEST for p in parameters)
        return super().state_bytes(parameters) + TABLES_BYTES * quantised

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        for p in parameters:
            _update_8bit(p) if whole(p.numel) >= SMALLEST else _update_32bit(p)


class PagedAdamW8bit(AdamW8bit):
    """``bitsandbytes.optim.PagedAdamW8bit``: on a CPU it warns and keeps its states like ``AdamW8bit``."""

    warnings = ("paged-adamw-8bit pages nothing on a CPU: bitsandbytes keeps the states as adamw-8bit does",)


def _float(p: Tensor) -> Tensor | None:
    """``p.float()``: nothing where it is float32 already."""
    return None if p.dtype == "float32" else p.ledger.empty(p.shape, "float32")


def _scaled_gradient(p: Tensor) -> Tensor:
    """``g.float() * gnorm_scale``."""
    gradient = _float(p)  # noqa: F841
    return p.ledger.empty(p.shape, "float32")


def _update_32bit(p: Tensor) -> None:
    """``_optimizer_update_32bit_cpu``."""
    ledger = p.ledger
    gradient = _scaled_gradient(p)
    parameter = _float(p)
    root = ledger.empty(p.shape, "float32")
    denominator = ledger.empty(p.shape, "float32")
    del root
    update = ledger.empty(p.shape, "float32")
    del gradient, parameter, denominator, update


def _update_8bit(p: Tensor) -> None:
    """``_optimizer_update_8bit_blockwise_cpu``; quantising afterwards takes less than the root before."""
    ledger = p.ledger
    states = [ledger.empty(p.shape, "float32") for _ in range(2)]
    gradient = _scaled_gradient(p)
    parameter = _float(p)
    root = ledger.empty(p.shape, "float32")
    denominator = ledger.empty(p.shape, "float32")
    del states, gradient, parameter, root, denominator
