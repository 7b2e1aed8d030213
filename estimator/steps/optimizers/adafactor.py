"""PyTorch's Adafactor (arXiv 1804.04235), without a first moment. It updates one tensor at a time.

Source: ``torch/optim/_adafactor.py``. transformers' ``Adafactor`` differs: it casts 16-bit gradients and parameters to
float32, and its row and column sums are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import ITEMSIZE, Ledger, Shape, Size, Tensor, product
from .base import Optimizer, step_count


def _row(shape: Shape) -> Shape:
    return (*shape[:-1], 1)


def _column(shape: Shape) -> Shape:
    return (*shape[:-2], 1, shape[-1])


class Adafactor(Optimizer):
    """``torch.optim.Adafactor``. States are a row and a column for a matrix, and the second moments of a vector."""

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        if len(p.shape) < 2:
            return (*step_count(p), p.nbytes)
        return (*step_count(p), *(product(shape(p.shape)) * ITEMSIZE[p.dtype] for shape in (_row, _column)))

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        row_mean = column_mean = squared = variance = update = None
        for p in parameters:
            _norm(p)
            if len(p.shape) > 1:
                row_mean = ledger.empty(_row(p.shape), p.dtype)
                column_mean = ledger.empty(_column(p.shape), p.dtype)
                gone = [i == len(p.shape) - 2 for i in range(len(p.shape))]
                ledger.transient(*ledger.device.workspace_of_sum(p, gone))
                variance = ledger.empty(p.shape, p.dtype)
                if not ledger.device.converts_on_load and p.dtype != "float32":
                    ledger.transient(product(_row(p.shape)) * ITEMSIZE["float32"])  # a CPU's cast for the mean
            else:
                squared = ledger.empty(p.shape, p.dtype)
                variance = ledger.empty(p.shape, p.dtype)
            update = variance
            _norm(p)
        del row_mean, column_mean, squared, variance, update


def _norm(p: Tensor) -> None:
    """``norm(2)``, which is at once made a Python number."""
    if p.ledger.device.foreach:
        number = p.ledger.empty((), p.dtype)
        p.ledger.transient(*p.ledger.device.workspace_of_sum(p, [True] * len(p.shape)))
        del number
