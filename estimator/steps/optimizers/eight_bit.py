"""bitsandbytes' AdamW, with block-wise 8-bit states (arXiv 2110.02861) or paged.

Sources: ``bitsandbytes/optim/optimizer.py: Optimizer2State``, ``bitsandbytes/backends/cpu/ops.py``. The CUDA kernels
update in place (``backends/cuda/ops.py: _optimizer_update_8bit_blockwise_impl``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Size, Tensor, whole
from .base import Optimizer

SMALLEST = 4096
"""Parameters with at least so many elements have 8-bit states (``min_8bit_size``)."""
BLOCK = 256
"""Elements of a state that share a float32 maximum."""
TABLE_BYTES = 256 * 4
"""Bytes of a quantisation map. All parameters share two: for signed and for unsigned states."""
SMALLEST_PAGED = 100_000
"""Parameters with at least so many elements have paged states (``Optimizer8bit.get_state_buffer``)."""


class AdamW8bit(Optimizer):
    """``bitsandbytes.optim.AdamW8bit``. Parameters below ``SMALLEST`` have float32 states, whatever their dtype, and
    ``wide`` ones.
    """

    open_sizes = False

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        count = whole(p.numel)
        if not self._in_8bit(p):
            return 4 * count, 4 * count
        maxima = 4 * -(-count // BLOCK)
        return count, count, maxima, maxima

    def shared_sizes(self, parameters: Sequence[Tensor]) -> tuple[Size, ...]:
        return (TABLE_BYTES, TABLE_BYTES) if any(map(self._in_8bit, parameters)) else ()

    def _in_8bit(self, p: Tensor) -> bool:
        return whole(p.numel) >= SMALLEST and p.name not in self.wide

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        if ledger.device.compiled_bitsandbytes:
            return
        for p in parameters:
            _update_8bit(p) if self._in_8bit(p) else _update_32bit(p)


class PagedAdamW8bit(AdamW8bit):
    """``bitsandbytes.optim.PagedAdamW8bit``. On a CPU it warns, and its states are those of ``AdamW8bit``.

    On a GPU the states of large parameters, but not their maxima, are managed memory (``cudaMallocManaged``). The
    driver moves that to the host if it must, and PyTorch's allocator does not know of it.
    """

    warnings = ("a paged optimizer pages nothing on a CPU: bitsandbytes keeps the states there as any others",)

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return super().state_sizes(p)[2:] if _paged(p) else super().state_sizes(p)


class PagedAdamW(Optimizer):
    """``bitsandbytes.optim.PagedAdamW``: float32 moments; on a GPU those of large parameters are managed memory."""

    open_sizes = False
    warnings = PagedAdamW8bit.warnings

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return () if _paged(p) else (4 * p.numel, 4 * p.numel)

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        for p in parameters:
            if not ledger.device.compiled_bitsandbytes:
                _update_32bit(p)


def _paged(p: Tensor) -> bool:
    return p.ledger.device.has_own_memory and whole(p.numel) >= SMALLEST_PAGED


def _float(p: Tensor) -> Tensor | None:
    """``p.float()``, which allocates nothing if ``p`` is float32."""
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
    """``_optimizer_update_8bit_blockwise_cpu``. Quantising the states at its end takes less than the root does."""
    ledger = p.ledger
    states = [ledger.empty(p.shape, "float32") for _ in range(2)]
    gradient = _scaled_gradient(p)
    parameter = _float(p)
    root = ledger.empty(p.shape, "float32")
    denominator = ledger.empty(p.shape, "float32")
    del states, gradient, parameter, root, denominator
