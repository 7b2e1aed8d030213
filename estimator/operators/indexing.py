"""Operators that look elements up, choose some, or write some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..ledger import ITEMSIZE, Beside, Call, Ledger, Shape, Size, Tensor, product, record
from ..ledger.sizes import ceiling, compared, is_so, smaller
from .casts import check_promotion
from .device import REDUCED, THREADS
from .elementwise import Operand, elementwise, maximum, scales, with_number, wrapped_number
from .in_place import write
from .layout import Grads, broadcast, elementwise_strides, empty_like, strides_of
from .reductions import amax
from .table import SHAPE, Kept, Result, first, operator, recorded, saves
from .views import contiguous, reshape

INDICES = Kept("the indices", because="they say where the gradient belongs")
_SOURCE = ("input", "source")


@operator("embedding", args=lambda out, weight, ids, *_, **__: (ids, weight))
@saves(
    "EmbeddingBackward0",
    Kept("the token ids", because="they say to which rows of the weight gradients are added"),
    inputs=("weight",),
)
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
    if call.ledger.device.sorts_ids and is_so(lambda count: count > ATOMIC_IDS, ids.numel):
        return (_sorted_embedding_backward(call.ledger, call.args[0], grad.dtype, ids.numel),)
    return (call.ledger.empty(call.args[0], grad.dtype),)


ATOMIC_IDS = 3072
"""The most ids that CUDA does not sort (``Embedding.cu: embedding_dense_backward_cuda``)."""

SEGMENT = 10
"""Rows of one id that a CUDA thread sums (``EmbeddingBackwardKernel.cu: NROWS_PER_THREAD``)."""


def _sorted_embedding_backward(ledger: Ledger, shape: Shape, dtype: str, count: Size) -> Tensor:
    """The gradient [vocabulary, hidden] of many ids: sorts the ids, then sums each id's rows in float32, ten at a time.

    The tile states of cub's scans (16 bytes for every few thousand ids) are left out.
    """
    vocabulary, hidden = shape

    def numbers(length: Size) -> Tensor:
        return ledger.empty((length,), "int64")

    sorted_ids, origins, positions = numbers(count), numbers(count), numbers(count)
    ledger.transient(2 * 8 * count)  # DeviceRadixSort::SortPairs: a second buffer of keys and of values
    del positions
    out = ledger.empty(shape, dtype)
    segments = numbers(count), numbers(1)
    ledger.transient(8 * count)  # unique_by_key: the keys
    most = smaller(count, vocabulary) if isinstance(vocabulary, int) else count
    partials = numbers(most), numbers(most), numbers(1)
    rows = ceiling(count - SEGMENT + 1, SEGMENT) + most
    offsets = numbers(rows)
    sums = ledger.empty((rows, hidden), "float32")
    del sorted_ids, origins, segments, partials, offsets, sums
    return out


@recorded("index")
def _index(out: Result, x: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    if any(index is not None and index.dtype == "bool" for index in indices):
        return index_by_mask(x, indices, out.shape)
    return index(x, indices)


@saves("IndexBackward0", INDICES)
def index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """``x[indices]`` with a tensor of integers, or ``None``, for each of the first dimensions: saves the tensors.

    The result's strides are ``TensorIterator``'s (``TensorAdvancedIndexing.cpp: index``). The memory in which CUDA's
    backward sorts the indices is that of ``_sort_indices``.
    """
    found = [i for i, index in enumerate(indices) if index is not None]
    given = tuple(index for index in indices if index is not None)
    picked = broadcast(*(index.shape for index in given))
    own, rank = strides_of(x), len(x.shape)
    adjacent = found[-1] - found[0] == len(found) - 1
    before = [i for i in range(found[0]) if adjacent]
    after = [i for i in range(rank) if i not in found and i not in before]
    shape = (*(x.shape[i] for i in before), *picked, *(x.shape[i] for i in after))
    strides = (*(own[i] for i in before), *(0 for _ in picked), *(own[i] for i in after))

    def make() -> Tensor:
        operands = [Tensor(x.storage, shape, x.dtype, strides)]
        for index in given:
            steps = [0] * (len(picked) - len(index.shape)) + [
                0 if size == 1 != wanted else step
                for size, wanted, step in zip(
                    index.shape, picked[len(picked) - len(index.shape) :], strides_of(index), strict=True
                )
            ]
            spread = (*(0 for _ in before), *steps, *(0 for _ in after))
            operands.append(Tensor(index.storage, shape, index.dtype, spread))
        return x.ledger.empty(shape, x.dtype, elementwise_strides(shape, tuple(operands)))

    return record("IndexBackward0", make, (x,), given, _index_backward, x.shape)


def _index_backward(call: Call) -> Grads:
    # index_backward: zeros.index_put_(indices, grad, accumulate=True)
    out = call.ledger.empty(call.args[0], call.grad.dtype)
    _sort_indices(call.ledger, broadcast(*(index.shape for index in call.saved)))
    return (out,)


def _sort_indices(ledger: Ledger, shape: Shape) -> None:
    """What a GPU allocates to add rows by index: sorted flat indices (``Indexing.cu: index_put_with_sort_kernel``).

    Left out: what makes the flat indices, and the flat indices of the dimensions before the indexed ones.
    """
    if ledger.device.sorts_ids:
        flat, ordered, origins = (ledger.empty(shape, "int64") for _ in range(3))
        ledger.transient(2 * flat.nbytes)  # cub's DeviceRadixSort: a second buffer of keys and of values
        del flat, ordered, origins


def index_by_mask(x: Tensor, indices: Sequence[Tensor | None], shape: Shape) -> Tensor:
    """``x[mask]`` with a mask for one or more of the dimensions, and a result of ``shape``: saves the mask.

    Its true elements are looked up each time (``IndexingUtils.h: expandTensors``).
    """
    given = tuple(index for index in indices if index is not None)
    before = next(i for i, index in enumerate(indices) if index is not None)
    rank, count = sum(len(index.shape) for index in given), shape[before]

    def make() -> Tensor:
        positions = x.ledger.empty((count, rank), "int64")
        out = x.ledger.empty(shape, x.dtype)
        del positions
        return out

    return record("IndexBackward0", make, (x,), given, _index_by_mask_backward, x.shape, (count, rank))


def _index_by_mask_backward(call: Call) -> Grads:
    out = call.ledger.empty(call.args[0], call.grad.dtype)
    call.ledger.empty(call.args[1], "int64")
    return (out,)


@operator("index_put")
@saves("IndexPutBackward0", INDICES, inputs=("input", "values"))
def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``x.index_put(indices, values)``: a copy; saves the indices."""
    given = tuple(index for index in indices if index is not None)
    return record(
        "IndexPutBackward0", lambda: empty_like(x), (x, values), given, _index_put_backward, values.shape, accumulate
    )


@operator("index_put_")
def index_put_(
    x: Tensor,
    indices: Sequence[Tensor | None],
    values: Operand,
    accumulate: bool = False,
    places: tuple[Size, Size] | None = None,
) -> Tensor:
    """``x[indices] = values`` in place: saves the indices.

    A boolean index beside other values than a number has ``places``, the number of its true elements, and its rank:
    these are looked up in each pass (``IndexingUtils.h: expandTensors``).
    """
    given = tuple(index for index in indices if index is not None)
    others = (values,) if isinstance(values, Tensor) else ()
    shape = values.shape if isinstance(values, Tensor) else ()

    def kernel() -> None:
        if places is not None:
            x.ledger.empty(places, "int64")

    return write(x, others, "IndexPutBackward0", given, _index_put_backward, shape, accumulate, places, kernel=kernel)


def _index_put_backward(call: Call) -> Grads:
    # grad.index_put(indices, zeros of the values), which accumulated is grad; grad.index(indices)
    grad, ledger, (shape, accumulate, *places) = call.grad, call.ledger, call.args
    looked_up = places[0] if places else None
    grad_x = grad if call.needs[0] and accumulate else None
    if call.needs[0] and not accumulate:
        zeros = ledger.empty(shape, grad.dtype)
        grad_x = empty_like(grad)
        if looked_up is not None:
            ledger.empty(looked_up, "int64")
        del zeros
    if len(call.needs) < 2 or not call.needs[1]:
        return (grad_x, None)[: len(call.needs)]
    if looked_up is None:
        return grad_x, ledger.empty(shape, grad.dtype)
    positions = ledger.empty(looked_up, "int64")
    picked = ledger.empty((looked_up[0], *grad.shape[looked_up[1] :]), grad.dtype)
    del positions
    return grad_x, picked


GRAIN = 32768
"""Elements below which a CPU's kernels do not share their work (``at::internal::GRAIN_SIZE``)."""


@operator("masked_select", args=lambda out, x, mask: (x, mask, out.shape))
@saves(
    "MaskedSelectBackward0", Kept("its input", because=SHAPE), Kept("the mask", because="it says where gradients go")
)
def masked_select(x: Tensor, mask: Tensor, shape: Shape) -> Tensor:
    """``x.masked_select(mask)`` with a result of ``shape``. Saves both."""

    def make() -> Tensor:
        ledger, whole_shape = x.ledger, broadcast(x.shape, mask.shape)
        integers = product(whole_shape) * ITEMSIZE["int64"]
        dense = x.strides is None and mask.strides is None and x.shape == mask.shape
        serial = dense and compared(x.numel, GRAIN) < 0
        if ledger.device.splits_by_thread:  # the mask is summed as integers (masked_select_out_impl_cpu)
            ledger.transient(integers)
        out = ledger.empty(shape, x.dtype)
        if ledger.device.splits_by_thread and not serial:  # the mask as integers, and their sums
            ledger.transient(integers, integers)
        return out

    return record("MaskedSelectBackward0", make, (x,), (x, mask), _masked_select_backward)


def _masked_select_backward(call: Call) -> Grads:
    # masked_select_backward: zeros_like(self).masked_scatter_(mask, grad)
    out = empty_like(call.saved[0])
    contiguous(call.grad)
    return (out,)


@operator("index_select")
@saves("IndexSelectBackward0", INDICES)
def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """``x.index_select(dim, index)``: a contiguous copy; saves the index."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], index.numel, *x.shape[dim + 1 :])

    def make() -> Tensor:
        read = selecting(index)
        out = x.ledger.empty(shape, x.dtype)
        del read
        if x.ledger.device.copies_to_select_columns and dim == 1 and x.strides is not None:
            x.ledger.transient(x.nbytes)
        return out

    return record(
        "IndexSelectBackward0",
        make,
        (x,),
        (index,),
        _index_select_backward,
        x.shape,
        dim,
    )


def selecting(index: Tensor) -> Tensor:
    """The index [n] as ``index_select`` reads it: a copy, if it is not contiguous and the device's kernel asks that."""
    return contiguous(index.alias()) if index.ledger.device.copies_strided_index else index


def _index_select_backward(call: Call) -> Grads:
    # index_select_backward: zeros.index_add_(dim, index, grad)
    shape, dim = call.args
    out = call.ledger.empty(shape, call.grad.dtype)
    _buffer_of_index_add(out, dim)
    return (out,)


def _buffer_of_index_add(x: Tensor, dim: int) -> None:
    """The float32 buffer of ``scatter_add_`` on a CPU: one row for each thread, if rows are added as a whole."""
    if x.ledger.device.buffers_scatters and x.dtype in REDUCED:
        numbers = THREADS * product(x.shape[1:]) if dim == 0 and len(x.shape) > 1 else x.numel
        x.ledger.transient(numbers * ITEMSIZE["float32"])


@operator("index_add")
@saves("IndexAddBackward0", INDICES, Kept("its source", because=SHAPE), inputs=_SOURCE)
def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """``x.index_add(dim, index, source)``: a contiguous copy; saves the index and the source."""
    dim %= len(x.shape)

    def make() -> Tensor:
        out = x.ledger.empty(x.shape, x.dtype)
        _buffer_of_index_add(out, dim)
        return out

    saved = (index, source) if source.requires_grad else ()
    return record("IndexAddBackward0", make, (x, source), saved, _index_add_backward, source.shape, scales(alpha))


@operator("index_add_")
def index_add_(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """``x.index_add_(dim, index, source)``: see ``index_add``."""
    saved = (index, source) if source.requires_grad else ()
    return write(
        x,
        (source,),
        "IndexAddBackward0",
        saved,
        _index_add_backward,
        source.shape,
        scales(alpha),
        kernel=lambda: _buffer_of_index_add(x, dim % len(x.shape)),
    )


def _index_add_backward(call: Call) -> Grads:
    # grad, grad.index_select(dim, index) * alpha
    shape, scaled = call.args
    picked = call.ledger.empty(shape, call.grad.dtype) if call.needs[1] else None
    if scaled and picked is not None:
        picked = with_number(picked, picked.dtype)
    return call.grad if call.needs[0] else None, picked


def _buffer(x: Tensor) -> None:
    """The float32 buffer of a gather or a scatter that writes 16-bit numbers to ``x`` on a CPU
    (``ScatterGatherKernel.cpp``).
    """
    if x.ledger.device.buffers_scatters and x.dtype in REDUCED:
        x.ledger.transient(x.numel * ITEMSIZE["float32"])


def _gathered(ledger: Ledger, shape: Shape, dtype: str) -> Tensor:
    out = ledger.empty(shape, dtype)
    _buffer(out)
    return out


@operator("gather")
@saves("GatherBackward0", INDICES, Kept("its input", because=SHAPE))
def gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``x.gather(dim, index)``: saves the index, and ``x`` for its shape."""
    return record(
        "GatherBackward0",
        lambda: _gathered(x.ledger, index.shape, x.dtype),
        (x,),
        (index, x),
        _gather_backward,
    )


def _gather_backward(call: Call) -> Grads:
    # gather_backward: zeros.scatter_add_(dim, index, grad)
    return (_gathered(call.ledger, call.saved[1].shape, call.grad.dtype),)


@operator("take_along_dim")
def take_along_dim(x: Tensor, indices: Tensor, dim: int) -> Tensor:
    """``torch.take_along_dim(x, indices, dim)``: a gather by the index modulo the size, which is a new tensor."""
    number = wrapped_number(x.ledger, indices.dtype)
    wrapped = elementwise((indices,), indices.dtype)
    del number
    return gather(x, dim, wrapped)


@operator("scatter")
@saves("ScatterBackward0", INDICES, inputs=_SOURCE)
def scatter(x: Tensor, dim: int, index: Tensor, src: Operand | None = None, value: Any = None) -> Tensor:
    """``x.scatter(dim, index, src)``, or with a number: a contiguous copy; saves the index."""
    others = (src,) if isinstance(src, Tensor) else ()
    return record(
        "ScatterBackward0",
        lambda: _gathered(x.ledger, x.shape, x.dtype),
        (x, *others),
        (index,),
        _scatter_backward,
    )


@operator("scatter_")
def scatter_(x: Tensor, dim: int, index: Tensor, src: Operand | None = None, value: Any = None) -> Tensor:
    """``x.scatter_(dim, index, src)``, or with a number: saves the index."""
    others = (src,) if isinstance(src, Tensor) else ()
    return write(x, others, "ScatterBackward0", (index,), _scatter_backward, kernel=lambda: _buffer(x))


def _scatter_backward(call: Call) -> Grads:
    # grad.scatter(dim, index, 0), grad.gather(dim, index)
    grad, ledger = call.grad, call.ledger
    own = _gathered(ledger, grad.shape, grad.dtype) if call.needs[0] else None
    if len(call.needs) == 1:
        return (own,)
    return own, _gathered(ledger, call.saved[0].shape, grad.dtype) if call.needs[1] else None


@operator("scatter_add")
@saves("ScatterAddBackward0", INDICES, inputs=_SOURCE)
def scatter_add(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``x.scatter_add(dim, index, src)``: a contiguous copy; saves the index."""
    return record(
        "ScatterAddBackward0",
        lambda: _gathered(x.ledger, x.shape, x.dtype),
        (x, src),
        (index if src.requires_grad else None,),
        _scatter_add_backward,
    )


@operator("scatter_add_")
def scatter_add_(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``x.scatter_add_(dim, index, src)``: saves the index."""
    saved = (index if src.requires_grad else None,)
    return write(x, (src,), "ScatterAddBackward0", saved, _scatter_add_backward, kernel=lambda: _buffer(x))


def _scatter_add_backward(call: Call) -> Grads:
    # grad, grad.gather(dim, index)
    own = call.grad if call.needs[0] else None
    return own, _gathered(call.ledger, call.saved[0].shape, call.grad.dtype) if call.needs[1] else None


@recorded("max", "min")
def _max(out: Result, x: Tensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    other = dim if isinstance(dim, Tensor) else other
    if other is not None:
        return maximum(x, other)
    return amax(x) if dim is None else selected(x, out.shape, "MaxBackward0")


@operator("kthvalue", args=lambda out, x, *_, **__: (x, out.shape, "KthvalueBackward0", _copies_to_order(x)))
@saves("KthvalueBackward0", INDICES)
@operator("topk", "mode", args=lambda out, x, *_, **__: (x, out.shape))
@saves("TopkBackward0", INDICES)
@saves("MaxBackward0", INDICES)
def selected(x: Tensor, shape: Shape, name: str = "TopkBackward0", kernel: Size = 0) -> tuple[Tensor, Tensor]:
    """Values that are chosen from ``x``, and their int64 indices, which are saved: ``topk``, ``max(dim)``, ``mode``.

    ``kernel`` is what the operator needs while it runs, in bytes. The workspace of CUDA's kernels is left out.
    """
    indices = x.ledger.empty(shape, "int64")

    def make() -> Tensor:
        out = x.ledger.empty(shape, x.dtype)
        x.ledger.transient(kernel)
        return out

    return record(name, make, (x,), (Beside(indices),), _selected_backward, x.shape), indices


def _selected_backward(call: Call) -> Grads:
    # value_selecting_reduction_backward: zeros.scatter_(dim, indices, grad)
    return (_gathered(call.ledger, call.args[0], call.grad.dtype),)


def _copies_to_order(x: Tensor) -> Size:
    """Bytes of the values and their indices that a CPU orders (``Sorting.cpp: kthvalue_out_impl_cpu``)."""
    return 0 if x.ledger.device.has_own_memory else x.nbytes + x.numel * ITEMSIZE["int64"]


@operator("cummax", "cummin", args=first)
@saves("CummaxBackward0", Kept("its input", because=SHAPE), INDICES)
def cummax(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.cummax(dim)`` or ``x.cummin(dim)``: saves ``x`` for its shape, and the int64 indices."""
    indices = x.ledger.empty(x.shape, "int64")
    out = record("CummaxBackward0", lambda: empty_like(x), (x,), (x, Beside(indices)), _selected_backward, x.shape)
    return out, indices


@recorded("argsort")
def _argsort(out: Result, x: Tensor, dim: int = -1, *_: Any, **__: Any) -> Tensor:
    with x.ledger.no_grad():
        return sort(x, dim)[1]


@operator("sort", args=lambda out, x, dim=-1, *_, **__: (x, dim))
@saves("SortBackward0", INDICES)
def sort(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``x.sort(dim)``: the values and the indices, which are saved.

    A CPU makes the numbers of one row first (``Sorting.cpp: sort``). The workspace of CUDA's kernels is left out.
    """
    row = 0 if x.ledger.device.has_own_memory else x.shape[dim] * ITEMSIZE["int64"]
    return selected(x, x.shape, "SortBackward0", row)


@recorded("_unique2")
def _unique(out: Result, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    if len(x.shape) != 1 or x.dtype == "bool" or any(shape != (0,) for _, shape, _ in out.all[1:]):
        raise InputError("unique has a rule for rows of numbers, without inverse and counts")
    return unique(x, out.shape[0]), *(x.ledger.empty(shape, dtype) for _, shape, dtype in out.all[1:])


def unique(x: Tensor, count: Size) -> Tensor:
    """``x.unique()`` of numbers: has no derivative. ``count`` of them differ, which is read from the data.

    All are sorted first (``Unique.cpp: unique_cpu_sorted_template``).
    """
    with x.ledger.no_grad():
        ordered = sort(x, 0) if x.shape[0] != 0 else ()
        out = x.ledger.empty((count,), x.dtype)
    del ordered
    return out


@operator("index_copy", args=lambda out, x, dim, index, source: (x, index, source))
@saves("IndexCopyBackward0", INDICES, Kept("its source", because=SHAPE), inputs=_SOURCE)
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


@operator("index_copy_", args=lambda out, x, dim, index, source: (x, index, source))
def index_copy_(x: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """``x.index_copy_(dim, index, source)``: see ``index_copy``."""
    saved = index, source if source.requires_grad else None
    return write(x, (source,), "IndexCopyBackward0", saved, _index_copy_backward, source.shape)


def _index_copy_backward(call: Call) -> Grads:
    # grad.index_fill(0, index, 0), grad.index_select(0, index)
    grad = call.grad
    return (
        call.ledger.empty(grad.shape, grad.dtype) if call.needs[0] else None,
        call.ledger.empty(call.args[0], grad.dtype) if call.needs[1] else None,
    )


@operator("searchsorted", args=lambda out, boundaries, input, **_: (boundaries, input, out.dtype))
@operator("bucketize", args=lambda out, values, boundaries, **_: (boundaries, values, out.dtype))
def searchsorted(boundaries: Tensor, values: Tensor, dtype: str = "int64") -> Tensor:
    """``torch.searchsorted(boundaries, values)``: has no derivative. Operands are copied if not contiguous."""
    out = values.ledger.empty(values.shape, dtype)
    copies = contiguous(boundaries.alias()), contiguous(values.alias())
    del copies
    return out


@operator("bincount", args=lambda out, x, *_, **__: (x, out.shape[0]))
def bincount(x: Tensor, length: Size) -> Tensor:
    """``torch.bincount(x)``: has no derivative. ``length``, the largest number and one, is read from the data."""
    return x.ledger.empty((length,), "int64")
