"""GaLore (arXiv 2403.03507): AdamW on gradients projected to a low rank, as in the authors' ``galore_torch``.

A matrix in a layer is projected along its shorter side. In the first step, and every 200 steps, the gradient's singular
value decomposition gives a new projector. The step here is one of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import ITEMSIZE, Ledger, Shape, Size, Tensor, product, whole
from .base import Optimizer, is_hidden_matrix, transposed_copy


class GaloreAdamW(Optimizer):
    """``galore_torch.GaLoreAdamW`` with ``proj_type`` std: moments in the parameter's dtype, no step tensor."""

    open_sizes = False

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        low = self._projected(p)
        if low is None:
            return p.nbytes, p.nbytes
        side = min(map(whole, p.shape))
        # A float32 projector is a slice of all singular vectors of its side, so these stay live.
        vectors = side if p.dtype == "float32" else min(self.rank, side)
        return tuple(count * ITEMSIZE[p.dtype] for count in (vectors * side, product(low), product(low)))

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        gradient = denominator = update = None
        # The authors' parameter groups: those that are not projected come first.
        for p in sorted(parameters, key=lambda p: self._projected(p) is not None):
            low = self._projected(p)
            gradient = None
            if low is not None:
                _decompose(p)
                gradient = ledger.empty(low, p.dtype)
            shape = low or p.shape
            denominator = ledger.empty(shape, p.dtype)
            update = ledger.empty(shape, p.dtype)
            if low is not None:
                update = _project_back(p)
        del gradient, denominator, update

    def _projected(self, p: Tensor) -> Shape | None:
        """The sides of the projected gradient, the longer one first; ``None`` if the gradient is not projected."""
        if not is_hidden_matrix(p.name, len(p.shape)):
            return None
        rows, columns = map(whole, p.shape)
        rank = min(self.rank, rows, columns)
        return (max(rows, columns), rank)


def _decompose(p: Tensor) -> None:
    """``torch.linalg.svd(grad.float(), full_matrices=False)``. The new vectors replace the old ones."""
    ledger, (rows, columns) = p.ledger, map(whole, p.shape)
    side = min(rows, columns)
    cast = None if p.dtype == "float32" else ledger.empty(p.shape, "float32")
    results = [ledger.empty(shape, "float32") for shape in ((rows, side), (side,), (side, columns))]
    columnwise = ledger.empty(p.shape, "float32")  # LAPACK works in place on a column-major copy
    transposed_copy(columnwise)
    del cast, results, columnwise


def _project_back(p: Tensor) -> Tensor:
    full = p.ledger.empty(p.shape, p.dtype)  # noqa: F841
    return p.ledger.empty(p.shape, p.dtype)
