"""Lion (arXiv 2302.06675), as in its authors' ``lion_pytorch.py`` (google/automl).

The momentum of bitsandbytes' ``Lion`` is float32 instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Size, Tensor
from .base import Optimizer


class Lion(Optimizer):
    """One state, the momentum, in the parameter's dtype."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (p.nbytes,)

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        update: Tensor | None = None
        for p in parameters:
            momentum = ledger.empty(p.shape, p.dtype)
            gradient = ledger.empty(p.shape, p.dtype)
            update = ledger.empty(p.shape, p.dtype)
            del momentum, gradient
        del update
