"""AdamW: one tensor at a time, foreach, fused, during backward, and on float32 copies.

By default PyTorch updates one tensor at a time on a CPU and foreach on a GPU (``torch/optim/optimizer.py:
_default_to_fused_or_foreach``). Sources: ``torch/optim/adam.py``, which runs AdamW too,
``aten/src/ATen/native/ForeachOpsKernels.cpp``, ``aten/src/ATen/native/FusedAdam.cpp``. On CUDA all foreach operators of
a step work in place except ``_foreach_sqrt`` (``native/cuda/Foreach*.cu``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import ITEMSIZE, Ledger, Size, Tensor
from ...operators import wrapped_number
from .base import Optimizer, step_count


class AdamW(Optimizer):
    """``torch.optim.AdamW``: two moments in the parameter's dtype, and a step count."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (*step_count(p), p.nbytes, p.nbytes)

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        if ledger.device.foreach and not self.one_by_one:
            _foreach_step(parameters)
            return
        denominator: Tensor | None = None
        for p in parameters:
            root = ledger.empty(p.shape, p.dtype)
            number = wrapped_number(ledger, p.dtype)
            denominator = ledger.empty(p.shape, p.dtype)
            del root, number
        del denominator


class ForeachAdamW(AdamW):
    """``torch.optim.AdamW(foreach=True)``: the denominators of all parameters of a dtype are live at once."""

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        _foreach_step(parameters)


def _foreach_step(parameters: Sequence[Tensor]) -> None:
    """``_multi_tensor_adam``: for each dtype a list of roots, which become the denominators in place.

    A list is freed when that of the next dtype has been made.
    """
    groups: dict[str, list[Tensor]] = {}
    for p in parameters:
        groups.setdefault(p.dtype, []).append(p)
    roots: list[Tensor] = []
    for dtype, group in groups.items():
        roots = [p.ledger.empty((p.numel * p.copies,), dtype) for p in group]
    del roots


class FusedAdamW(AdamW):
    """``torch.optim.AdamW(fused=True)``: the kernel updates in place."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (*step_count(p, fused=True), p.nbytes, p.nbytes)

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """Nothing is allocated."""


class DeepSpeedCPUAdam(AdamW):
    """DeepSpeed's AdamW for the host, which updates in place and counts steps without a tensor."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return p.nbytes, p.nbytes

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """Nothing is allocated."""


class InBackwardAdamW(AdamW):
    """One AdamW per parameter, which runs as soon as the parameter has its gradient (PyTorch's tutorial "How to save
    memory by fusing the optimizer step into the backward pass").
    """

    in_backward = True

    def after_gradient(self, leaf: Tensor) -> None:
        if leaf.ledger.device.foreach:
            leaf.ledger.transient(leaf.nbytes)  # the root: foreach with a list of one
        else:
            super().step(leaf.ledger, [leaf])
        leaf.grad = None

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """Nothing is left to do."""


class MasterAdamW(Optimizer):
    """AdamW on a float32 copy of each 16-bit parameter (``estimator/witnesses/reference/optimizers.py``)."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        tensors = 2 if p.dtype == "float32" else 3
        return (*(p.numel * ITEMSIZE["float32"] for _ in range(tensors)), *step_count(p))

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        for p in parameters:
            gradient = None if p.dtype == "float32" else ledger.empty(p.shape, "float32")
            root = ledger.empty(p.shape, "float32")
            denominator = ledger.empty(p.shape, "float32")
            del gradient, root, denominator
