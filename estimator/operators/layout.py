"""Shapes and strides of views and of elementwise results."""

from __future__ import annotations

from ..ledger import Call, Shape, Size, Tensor
from ..ledger.sizes import compared

Grads = tuple[Tensor | None, ...]


def gradients(call: Call, *inputs: Tensor) -> Grads:
    """A new tensor like each input that needs a gradient, contiguous."""
    needed = zip(inputs, call.needs, strict=True)
    return tuple(call.ledger.empty(x.shape, x.dtype) if need else None for x, need in needed)


def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides, in elements."""
    strides: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def strides_of(x: Tensor) -> Shape:
    """A tensor's strides, in elements."""
    return contiguous_strides(x.shape) if x.strides is None else x.strides


def normalised(shape: Shape, strides: Shape) -> Shape | None:
    """The strides, or ``None`` if they are contiguous. Dimensions of size one are ignored."""
    step: Size = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if stride != step:
            return strides
        step = step * size
    return None


def view_of(x: Tensor, shape: Shape, strides: Shape, keeps_strides: bool = False) -> Tensor:
    """A view of ``x``. ``keeps_strides``: even those of dimensions of size one, which ``linear`` compares."""
    return x.view(shape, x.dtype, strides if keeps_strides else normalised(shape, strides))


def view_strides(x: Tensor, shape: Shape) -> Shape | None:
    """Strides of ``x.view(shape)``, or ``None`` if only a copy can have that shape (``at::detail::computeStride``)."""
    if x.strides is None:
        return contiguous_strides(shape)
    old = [(n, s) for n, s in zip(x.shape, x.strides, strict=True) if n != 1]
    chunks: list[list[Size]] = []  # [elements, innermost stride], outermost chunk first
    for size, stride in old:
        if chunks and chunks[-1][1] == size * stride:
            chunks[-1] = [chunks[-1][0] * size, stride]
        else:
            chunks.append([size, stride])
    result: list[Size] = []
    position = len(chunks) - 1
    filled: Size = 1
    for size in reversed(shape):
        if size == 1:
            result.append(filled * chunks[position][1] if chunks and position >= 0 else 1)
            continue
        if position < 0:
            return None
        elements, stride = chunks[position]
        result.append(stride * filled)
        filled = filled * size
        if filled == elements:
            position, filled = position - 1, 1
        elif isinstance(filled, int) and isinstance(elements, int) and filled > elements:
            return None  # of symbols it never gets equal either
    if position >= 0:
        return None
    return tuple(reversed(result))


_CHANNELS_LAST = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}
"""The dimensions of images and volumes whose channels are innermost, innermost first."""


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x.suggest_memory_format()`` is ``channels_last``: its strides order the dimensions like that.

    Source: ``c10/core/MemoryFormat.h: is_channels_last_strides_2d``. A dimension of size one has any stride here.
    """
    if x.strides is None or len(x.shape) not in _CHANNELS_LAST:
        return False
    least: Size = 0
    for d in _CHANNELS_LAST[len(x.shape)]:
        if x.shape[d] == 1:
            continue
        if compared(x.strides[d], least) < 0:
            return False
        least = x.strides[d] * x.shape[d]
    return True


def channels_last_strides(shape: Shape) -> Shape | None:
    """Strides of a dense tensor whose channels are innermost; ``None`` if these are contiguous."""
    strides: list[Size] = [1] * len(shape)
    step: Size = 1
    for d in _CHANNELS_LAST[len(shape)]:
        strides[d] = step
        step = step * shape[d]
    return normalised(shape, tuple(strides))


def broadcast(*shapes: Shape) -> Shape:
    """The shape that the shapes broadcast to."""
    rank = max(len(s) for s in shapes)
    out: list[Size] = []
    for i in range(-rank, 0):
        size: Size = 1
        for shape in shapes:
            if len(shape) >= -i and shape[i] != 1:
                size = shape[i]
                break
        out.append(size)
    return tuple(out)


def elementwise_strides(shape: Shape, inputs: tuple[Tensor, ...]) -> Shape | None:
    """Strides of an elementwise result, ``None`` for contiguous (``TensorIteratorBase::reorder_dimensions``)."""
    if all(x.strides is None and x.shape == shape for x in inputs):
        return None
    rank = len(shape)
    table: list[list[Size]] = []
    for x in inputs:
        pad = rank - len(x.shape)
        row: list[Size] = [0] * pad
        for i, stride in enumerate(strides_of(x)):
            row.append(0 if x.shape[i] == 1 and shape[pad + i] != 1 else stride)
        table.append(row)
    order = list(range(rank - 1, -1, -1))

    def swap(inner: int, outer: int) -> int:
        for strides in table:
            a, b = strides[inner], strides[outer]
            if a == 0 or b == 0:
                continue
            if a == b:
                if compared(shape[inner], shape[outer]) > 0:
                    return 1
                continue
            return 1 if compared(a, b) > 0 else -1
        return 0

    for i in range(1, rank):
        at = i
        for j in range(i - 1, -1, -1):
            comparison = swap(order[j], order[at])
            if comparison > 0:
                order[j], order[at] = order[at], order[j]
                at = j
            elif comparison < 0:
                break
    strides: list[Size] = [0] * rank
    step: Size = 1
    for dim in order:
        strides[dim] = step
        step = step * shape[dim]
    return normalised(shape, tuple(strides))


def empty_like(x: Tensor, dtype: str | None = None) -> Tensor:
    """``torch.empty_like(x, dtype=dtype)``: ``x``'s strides if they are dense, else dense strides in the same order
    (``aten/src/ATen/ExpandUtils.cpp: infer_dense_strides``).
    """
    return x.ledger.empty(x.shape, dtype or x.dtype, x.strides if x.is_dense else elementwise_strides(x.shape, (x,)))
