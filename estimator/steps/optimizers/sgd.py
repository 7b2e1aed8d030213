"""Stochastic gradient descent (``torch/optim/sgd.py``), which updates in place."""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Size, Tensor
from .base import Optimizer


class SGD(Optimizer):
    """``torch.optim.SGD``, without states."""

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        for p in parameters:
            if p.grad is not None and p.grad.shape != p.shape:
                ledger.transient(p.nbytes)  # the part of a whole gradient that a process's part of the weight takes


class MomentumSGD(Optimizer):
    """``torch.optim.SGD(momentum=...)``, with one momentum buffer per parameter."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (p.nbytes,)
