"""Operators that copy their operands into a larger result."""

from __future__ import annotations

from functools import reduce
from typing import Any

from ..ledger import Call, Ledger, Shape, Size, Tensor, record
from .casts import check_promotion, promote_types, to
from .elementwise import sub, zeros_backward
from .in_place import write
from .indexing import index_select
from .layout import Grads, channels_last_strides, empty_like, is_channels_last, strides_of, view_of
from .reductions import summed
from .table import Result, first, flattened, operator, recorded
from .views import clone, contiguous_backward, expand, input_backward, narrow, reshape, select, unsqueeze, view


@operator("cat", same=("concat", "concatenate"), args=lambda out, tensors, dim=0, axis=0: (tensors, out.shape))
def cat(parts: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """``torch.cat(parts)`` with a contiguous result of ``shape``. Each part's gradient is a view of the result's.

    Autocast promotes the parts to the widest dtype.
    """
    check_promotion(parts)
    ledger, dtypes = parts[0].ledger, {p.dtype for p in parts}
    dtype = reduce(promote_types, dtypes)
    parts = tuple(to(p, dtype) for p in parts)
    return record(
        "CatBackward0", lambda: ledger.empty(shape, dtype), parts, (), _cat_backward, tuple(p.shape for p in parts)
    )


def _cat_backward(call: Call) -> Grads:
    return tuple(
        view_of(call.grad, shape, strides_of(call.grad)) if need else None
        for shape, need in zip(call.args[0], call.needs, strict=True)
    )


@operator("stack")
def stack(tensors: tuple[Tensor, ...], dim: int = 0) -> Tensor:
    """``torch.stack(tensors, dim)`` with a contiguous result of the widest dtype. Each gradient is a view of the
    result's, or a copy in the tensor's own dtype.
    """
    first, dtypes = tensors[0], tuple(x.dtype for x in tensors)
    dim %= len(first.shape) + 1
    shape, dtype = (*first.shape[:dim], len(tensors), *first.shape[dim:]), reduce(promote_types, dtypes)

    def make() -> Tensor:
        out = first.ledger.empty(shape, dtype)
        for x in tensors:
            if x.dtype != dtype:  # cat copies it, then converts
                first.ledger.transient(x.nbytes)
        return out

    return record("StackBackward0", make, tensors, (), _stack_backward, dim, dtypes)


def _stack_backward(call: Call) -> Grads:
    dim, dtypes = call.args
    return tuple(
        to(select(call.grad, dim), dtype) if need else None for need, dtype in zip(call.needs, dtypes, strict=True)
    )


@operator("repeat", args=lambda out, x, *given, repeats=(): (x, *flattened(given or repeats)))
def repeat(x: Tensor, *repeats: Size) -> Tensor:
    """``x.repeat(*repeats)``: a copy. The backward sums over the repeats."""
    padded = (*(1,) * (len(repeats) - len(x.shape)), *x.shape)
    shape = tuple(times * size for times, size in zip(repeats, padded, strict=True))
    return record(
        "RepeatBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (), _repeat_backward, x.shape, repeats
    )


def _repeat_backward(call: Call) -> Grads:
    # repeat_backward: sums over the new dimensions, then over the repeats of each old dimension
    (shape, repeats), grad = call.args, call.grad
    for _ in range(len(repeats) - len(shape)):
        grad = summed(grad, (0,), grad.shape[1:])
    spread: list[Size] = []
    dims: list[int] = []
    for times, size in zip(repeats[len(repeats) - len(shape) :], shape, strict=True):
        if times != 1:
            dims.append(len(spread))
            spread.append(times)
        spread.append(size)
    return (summed(reshape(grad, tuple(spread)), dims, shape) if dims else grad,)


def repeat_interleave(x: Tensor, repeats: Size, dim: int) -> Tensor:
    """``torch.repeat_interleave(x, repeats, dim)``: always a contiguous copy."""
    dim %= len(x.shape)
    spread = (*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :])
    x = clone(expand(unsqueeze(x, dim + 1), spread))
    return view(x, (*spread[:dim], spread[dim] * repeats, *spread[dim + 2 :]))


@recorded("repeat_interleave")
def _repeat_interleave(out: Result, x: Tensor, repeats: Any = None, dim: Any = None, output_size: Any = None) -> Tensor:
    if isinstance(repeats, Tensor):
        index = _repeated(x.ledger, repeats, out.shape[0 if dim is None else dim])
        return index_select(reshape(x, (x.numel,)) if dim is None else x, dim or 0, index)
    if repeats is None:
        return _repeated(x.ledger, x, out.shape[0])
    return repeat_interleave(reshape(x, (x.numel,)) if dim is None else x, repeats, dim or 0)


def _repeated(ledger: Ledger, repeats: Tensor, count: Size) -> Tensor:
    """Each index as often as a tensor says, beside the repeats' sums (``Repeat.cpp: repeat_interleave_common``)."""
    sums = ledger.empty(repeats.shape, "int64")
    out = ledger.empty((count,), repeats.dtype)
    del sums
    return out


@operator("pad", args=lambda out, x, *_, **__: (x, out.shape))
def pad(x: Tensor, shape: Shape) -> Tensor:
    """``F.pad(x, ...)`` with a constant, to ``shape``: a copy in ``x``'s memory format, or with ``x``'s own strides
    where nothing is added, as a clone has them (``constant_pad_nd``).

    The backward copies ``x``'s part of the gradient.
    """
    strides = channels_last_strides(shape) if is_channels_last(x) else None
    if shape == x.shape and x.is_dense:
        strides = x.strides
    return record(
        "ConstantPadNdBackward0", lambda: x.ledger.empty(shape, x.dtype, strides), (x,), (), input_backward, x.shape
    )


@operator("block_diag", args=lambda out, tensors: tensors)
def block_diag(*tensors: Tensor) -> Tensor:
    """``torch.block_diag(*tensors)`` of matrices: saves nothing. Each one's gradient is a view of the result's."""
    first = tensors[0]
    side = tuple(sum(x.shape[d] for x in tensors) for d in (0, 1))
    shapes = tuple(x.shape for x in tensors)
    return record(
        "BlockDiagBackward0", lambda: first.ledger.empty(side, first.dtype), tensors, (), _cat_backward, shapes
    )


def block_diag_of(x: Tensor) -> Tensor:
    """``torch.block_diag(*torch.unbind(x))`` of x [n, m, m]: saves nothing. The backward stacks slices."""
    side = x.shape[0] * x.shape[1]
    return record(
        "BlockDiagBackward0", lambda: x.ledger.empty((side, side), x.dtype), (x,), (), input_backward, x.shape
    )


@operator("triu", "tril")
def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """``x.triu(diagonal)`` or ``x.tril(diagonal)``: a contiguous copy. So is the gradient."""
    return record("TriuBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), contiguous_backward)


@operator("roll", args=first)
def roll(x: Tensor) -> Tensor:
    """``x.roll(shifts, dims)`` of one dimension: a contiguous copy. So is the gradient."""
    return record("RollBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), contiguous_backward)


@operator("triu_", "tril_")
def triu_(x: Tensor, diagonal: int = 0) -> Tensor:
    """``x.triu_(diagonal)`` or ``x.tril_(diagonal)``. The gradient is a contiguous copy."""
    return write(x, (), "TriuBackward0", (), contiguous_backward)


@operator("flip", args=first)
def flip(x: Tensor) -> Tensor:
    """``x.flip(dims)``: a copy with ``x``'s strides."""
    return record("FlipBackward0", lambda: empty_like(x), (x,), (), zeros_backward)


@operator("diff", args=lambda out, x, n=1, dim=-1, prepend=None, append=None: (x, dim, (prepend, append)))
def diff(x: Tensor, dim: int, added: tuple[Tensor | None, Tensor | None] = (None, None)) -> Tensor:
    """``torch.diff(x, dim=dim, prepend=..., append=...)``: the difference of two views of ``x``, joined with others."""
    dim %= len(x.shape)
    before, after = added
    parts = tuple(part for part in (before, x, after) if part is not None)
    if len(parts) > 1:
        size: Size = 0
        for part in parts:
            size = size + part.shape[dim]
        x = cat(parts, (*x.shape[:dim], size, *x.shape[dim + 1 :]))
    last = narrow(x, dim, x.shape[dim] - 1)  # C++ makes a call's last argument first
    return sub(narrow(x, dim, x.shape[dim] - 1), last)
