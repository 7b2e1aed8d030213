"""Stochastic gradient descent (``torch/optim/sgd.py``), which updates in place."""

from __future__ import annotations

from ...ledger import Size, Tensor
from .base import Optimizer


class SGD(Optimizer):
    """``torch.optim.SGD``, without states."""


class MomentumSGD(Optimizer):
    """``torch.optim.SGD(momentum=...)``, with one momentum buffer per parameter."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (p.nbytes,)
