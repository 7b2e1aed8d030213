"""Adafactor (arXiv 1804.04235), PyTorch's: no first moment, no momentum; one tensor at a time.

Source: ``torch/optim/_adafactor.py``. transformers' own ``Adafactor`` differs: it casts 16-bit gradients and
parameters to float32 and keeps its row and column sums in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import ITEMSIZE, Ledger, Shape, Tensor
from ...symbols import Size, product
from .base import STEP_BYTES, Optimizer


def _row(shape: Shape) -> Shape:
    return (*shape[:-1], 1)


def _column(shape: Shape) -> Shape:
    return (*shape[:-2], 1, shape[-1])


class Adafactor(Optimizer):
    """``torch.optim.Adafactor``: a row and a column of a matrix's second moments, all of a vector's."""

    def states(self, p: Tensor) -> Size:
        if len(p.shape) < 2:
            return p.nbytes + STEP_BYTES
        return (product(_row(p.shape)) + product(_column(p.shape))) * ITEMSIZE[p.dtype] + STEP_BYTES

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        row_mean = column_mean = squared = variance = update = None
        for p in parameters:
            if len(p.shape) > 1:
                row_mean = ledger.empty(_row(p.shape), p.dtype)
                column_mean = ledger.empty(_column(p.shape), p.dtype)
                variance = ledger.empty(p.shape, p.dtype)
                if p.dtype != "float32":
                    ledger.transient(product(_row(p.shape)) * ITEMSIZE["float32"])  # the mean's cast on a CPU
            else:
                squared = ledger.empty(p.shape, p.dtype)
                variance = ledger.empty(p.shape, p.dtype)
            update = variance
        del row_mean, column_mean, squared, variance, update
