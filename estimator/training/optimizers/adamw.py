"""AdamW: one tensor at a time (PyTorch's choice on a CPU), foreach, fused, in backward, on float32 copies.

Sources: ``torch/optim/adam.py`` (AdamW is a case of it), ``aten/src/ATen/native/ForeachOpsKernels.cpp``,
``aten/src/ATen/native/FusedAdam.cpp``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import ITEMSIZE, Ledger, Tensor
from ...ops import wrapped_number
from ...symbols import Size
from .base import STEP_BYTES, Optimizer


class AdamW(Optimizer):
    """``torch.optim.AdamW(foreach=False)``: two moments in the parameter's dtype, and a step count."""

    def states(self, p: Tensor) -> Size:
        return 2 * p.nbytes + STEP_BYTES

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        denominator: Tensor | None = None
        for p in parameters:
            root = ledger.empty(p.shape, p.dtype)
            number = wrapped_number(ledger, p.dtype)
            denominator = ledger.empty(p.shape, p.dtype)
            del root, number
        del denominator


class ForeachAdamW(AdamW):
    """``torch.optim.AdamW(foreach=True)``: each dtype's denominators are all alive at once."""

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        elements: dict[str, Size] = {}
        for p in parameters:
            elements[p.dtype] = elements.get(p.dtype, 0) + p.numel * p.copies
        denominators: Tensor | None = None
        for dtype, count in elements.items():
            denominators = ledger.empty((count,), dtype)
        del denominators


class FusedAdamW(AdamW):
    """``torch.optim.AdamW(fused=True)``: the kernel updates in place."""

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """Nothing is allocated."""


class InBackwardAdamW(AdamW):
    """One AdamW per parameter, stepped as soon as its gradient is there (PyTorch's tutorial
    "How to save memory by fusing the optimizer step into the backward pass").
    """

    in_backward = True

    def after_gradient(self, leaf: Tensor) -> None:
        super().step(leaf.ledger, [leaf])
        leaf.grad = None

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """Nothing is left to do."""


class MasterAdamW(Optimizer):
    """AdamW on a float32 copy of each 16-bit parameter (``estimator/reference/optimizers.py``)."""

    def states(self, p: Tensor) -> Size:
        copies = 2 if p.dtype == "float32" else 3
        return copies * p.numel * ITEMSIZE["float32"] + STEP_BYTES

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        for p in parameters:
            gradient = None if p.dtype == "float32" else ledger.empty(p.shape, "float32")
            root = ledger.empty(p.shape, "float32")
            denominator = ledger.empty(p.shape, "float32")
            del gradient, root, denominator
