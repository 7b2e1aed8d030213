"""Operators that look rows up or write rows."""

from __future__ import annotations

from ..ledger import Call, Ledger, Shape, Size, Tensor, record
from .casts import check_promotion
from .layout import Grads
from .views import contiguous, input_backward, reshape


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """``F.embedding(ids, weight)``: saves the ids if the weight requires a gradient (dense backward)."""
    shape = (*ids.shape, weight.shape[1])

    def run() -> Tensor:
        flat = reshape(ids, (ids.numel,))  # noqa: F841 (a copy if the ids are expanded)
        return weight.ledger.empty(shape, weight.dtype)

    return record("EmbeddingBackward0", run, (weight,), (ids,), embedding_dense_backward, weight.shape)


def embedding_dense_backward(call: Call) -> Grads:
    """The gradient of the whole weight [vocabulary, hidden]."""
    grad, ids = contiguous(call.grad), contiguous(call.saved[0])  # held while the kernel runs
    if call.ledger.device.sorts_ids and isinstance(ids.numel, int) and ids.numel > ATOMIC_IDS:
        return (_sorted_embedding_backward(call.ledger, call.args[0], grad.dtype, ids.numel),)
    return (call.ledger.empty(call.args[0], grad.dtype),)


ATOMIC_IDS = 3072
"""The most ids that CUDA does not sort (``Embedding.cu: embedding_dense_backward_cuda``)."""

SEGMENT = 10
"""Rows of one id that a CUDA thread sums (``EmbeddingBackwardKernel.cu: NROWS_PER_THREAD``)."""


def _sorted_embedding_backward(ledger: Ledger, shape: Shape, dtype: str, count: int) -> Tensor:
    """The gradient [vocabulary, hidden] of many ids: sorts the ids, then sums each id's rows in float32, ten at a time.

    The tile states of cub's scans (16 bytes for every few thousand ids) are left out.
    """
    vocabulary, hidden = shape

    def numbers(length: int) -> Tensor:
        return ledger.empty((length,), "int64")

    sorted_ids, origins, positions = numbers(count), numbers(count), numbers(count)
    ledger.transient(2 * 8 * count)  # DeviceRadixSort::SortPairs: a second buffer of keys and of values
    del positions
    out = ledger.empty(shape, dtype)
    segments = numbers(count), numbers(1)
    ledger.transient(8 * count)  # unique_by_key: the keys
    most = min(count, vocabulary) if isinstance(vocabulary, int) else count
    partials = numbers(most), numbers(most), numbers(1)
    rows = count // SEGMENT + most
    offsets = numbers(rows)
    sums = ledger.empty((rows, hidden), "float32")
    del sorted_ids, origins, segments, partials, offsets, sums
    return out


def index_put_(x: Tensor, indices: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """``x[:, *indices] = values`` for an ``x`` that needs no gradient: returns ``x`` itself, saves the indices."""
    return record("IndexPutBackward0", x.alias, (values,), indices, input_backward, values.shape)


def index_copy(x: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """``x.index_copy(0, index, source)``: a copy of ``x`` with some rows replaced; saves the rows and the index."""
    check_promotion((x, source))
    return record(
        "IndexCopyBackward0",
        lambda: x.ledger.empty(x.shape, x.dtype),
        (x, source),
        (index, source if source.requires_grad else None),
        _index_copy_backward,
        source.shape,
    )


def index_copy_(x: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """``x.index_copy_(-1, index, source)`` for an ``x`` that needs no gradient: returns ``x`` itself.

    Saves the index, and the source for its shape.
    """
    return record("IndexCopyBackward0", x.alias, (x, source), (index, source), _index_copy_backward, source.shape)


def _index_copy_backward(call: Call) -> Grads:
    # grad.index_fill(0, index, 0), grad.index_select(0, index)
    grad = call.grad
    return (
        call.ledger.empty(grad.shape, grad.dtype) if call.needs[0] else None,
        call.ledger.empty(call.args[0], grad.dtype) if call.needs[1] else None,
    )


def where(mask: Tensor, dtype: str) -> Tensor:
    """``torch.where(mask, 0, -inf)``: a contiguous additive mask in ``dtype``, even if the boolean one is expanded."""
    return mask.ledger.empty(mask.shape, dtype)


def searchsorted(boundaries: Tensor, values: Tensor, dtype: str = "int64") -> Tensor:
    """``torch.searchsorted(boundaries, values)``: has no derivative. Operands are copied if not contiguous."""
    out = values.ledger.empty(values.shape, dtype)
    copies = contiguous(boundaries.alias()), contiguous(values.alias())
    del copies
    return out


def bincount(x: Tensor, length: Size) -> Tensor:
    """``torch.bincount(x)``: has no derivative. ``length``, the largest number and one, is read from the data."""
    return x.ledger.empty((length,), "int64")
