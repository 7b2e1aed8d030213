"""Stochastic gradient descent (``torch/optim/sgd.py``): updates in place."""

from __future__ import annotations

from ...ledger import Size, Tensor
from .base import Optimizer


class SGD(Optimizer):
    """``torch.optim.SGD``: no states."""


class MomentumSGD(Optimizer):
    """``torch.optim.SGD(momentum=...)``: one momentum buffer."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (p.nbytes,)
