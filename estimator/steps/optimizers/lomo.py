"""LOMO (arXiv 2306.09782): SGD during backward, without loss scaling and clipping.

Source: its authors' ``lomo_optim/lomo.py``. Its hook runs before a gradient is stored, and applies the gradient that
was stored before. So two gradients are live at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Tensor
from .base import Optimizer


class Lomo(Optimizer):
    """LOMO has no states. It casts 16-bit gradients and parameters to float32 for the update."""

    in_backward = True

    def __init__(self, rank: int = 1) -> None:
        super().__init__(rank)
        self._stored: Tensor | None = None

    def before_gradient(self, leaf: Tensor) -> None:
        self._update()

    def after_gradient(self, leaf: Tensor) -> None:
        self._stored = leaf

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        """Apply the last gradient."""
        self._update()

    def _update(self) -> None:
        p, self._stored = self._stored, None
        if p is None:
            return
        cast = p.dtype != "float32"
        gradient = p.ledger.empty(p.shape, "float32") if cast else p.grad
        p.grad = None
        parameter = p.ledger.empty(p.shape, "float32") if cast else None
        del gradient, parameter
