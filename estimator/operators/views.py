"""Operators whose result is a view of their operand, and the copies where no view is possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ledger import ITEMSIZE, Call, Shape, Size, Tensor, product, record, record_views, sum_to, whole
from ..ledger.sizes import compared
from .layout import Grads, empty_like, normalised, strides_of, view_of, view_strides
from .table import Result, flattened, operator, recorded


@operator("transpose", same=("swapaxes", "swapdims"))
def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """``x.transpose(dim0, dim1)``: a view."""
    rank = len(x.shape)
    a, b = dim0 % rank, dim1 % rank
    shape, strides = list(x.shape), list(strides_of(x))
    shape[a], shape[b] = shape[b], shape[a]
    strides[a], strides[b] = strides[b], strides[a]
    return record(
        "TransposeBackward0", lambda: view_of(x, tuple(shape), tuple(strides)), (x,), (), _transpose_backward, a, b
    )


@recorded("t", "T", "mT", "adjoint")
def _matrix_transpose(out: Result, x: Tensor) -> Tensor:
    return transpose(x, -2, -1) if len(x.shape) > 1 else alias(x)


def _transpose_backward(call: Call) -> Grads:
    return (transpose(call.grad, *call.args),)


def view(x: Tensor, shape: Shape) -> Tensor:
    """``x.view(shape)``: a view. Raises ``ValueError`` if the strides allow none."""
    strides = view_strides(x, shape)
    if strides is None:
        raise ValueError(f"shape {x.shape} with strides {x.strides} cannot be viewed as {shape}")
    return record("ViewBackward0", lambda: view_of(x, shape, strides), (x,), (), _reshape_backward, x.shape)


@operator(
    "reshape", "view", "flatten", "unflatten", "view_as", "reshape_as",
    args=lambda out, x, *_, **__: (x, out.shape),
)  # fmt: skip
def reshape(x: Tensor, shape: Shape) -> Tensor:
    """``x.reshape(shape)``: a view if the strides allow one, else a view of a contiguous copy."""
    if view_strides(x, shape) is not None:
        return view(x, shape)
    copy = clone(x)
    return unsafe_view(copy, shape)


def _reshape_backward(call: Call) -> Grads:
    return (reshape(call.grad, call.args[0]),)


def unsafe_view(x: Tensor, shape: Shape) -> Tensor:
    """``at::_unsafe_view`` of a contiguous tensor that nothing else uses."""

    def make() -> Tensor:  # autograd does not know it as a view
        return Tensor(x.storage, shape, x.dtype)

    return record("UnsafeViewBackward0", make, (x,), (), _reshape_backward, x.shape)


@operator("clone", args=lambda out, x, *, memory_format="preserve_format": (x, memory_format == "preserve_format"))
def clone(x: Tensor, preserve: bool = False) -> Tensor:
    """``x.clone(memory_format=torch.contiguous_format)``; ``preserve``: ``x.clone()``, with ``x``'s strides."""
    return record(
        "CloneBackward0",
        lambda: empty_like(x) if preserve else x.ledger.empty(x.shape, x.dtype),
        (x,),
        (),
        pass_on,
    )


def pass_on(call: Call) -> Grads:
    """The incoming gradient for every input that needs one."""
    return tuple(call.grad if need else None for need in call.needs)


@operator("contiguous", args=lambda out, x, **_: (x,))
def contiguous(x: Tensor) -> Tensor:
    """``x.contiguous()``: ``x`` itself if it is contiguous, else a copy."""
    return x if x.strides is None else clone(x)


def split(x: Tensor, split_size: Size, dim: int = 0, count: int | None = None) -> list[Tensor]:
    """``x.split(split_size, dim)``: views, the last of which may be shorter. The backward joins their gradients.

    The dimension's size must be a number, unless ``count`` equal views are asked for.
    """
    if count is None:
        total, split_size = whole(x.shape[dim]), whole(split_size)
        return split_with_sizes(x, [min(split_size, total - start) for start in range(0, total, split_size)], dim)
    return split_with_sizes(x, [split_size] * count, dim)


@operator(
    "split_with_sizes", "split", "chunk",
    args=lambda out, x, sizes=None, dim=0, **_: (x, [shape[dim] for _, shape, _ in out.all], dim),
)  # fmt: skip
def split_with_sizes(x: Tensor, split_sizes: Sequence[Size], dim: int = 0) -> list[Tensor]:
    """``x.split(split_sizes, dim)``: views. The backward joins their gradients."""
    return _split(x, dim, [(size, 1) for size in split_sizes])


def split_counted(x: Tensor, dim: int, sizes: Sequence[tuple[Size, Size]]) -> list[tuple[Tensor, Size]]:
    """``x.split`` along ``dim`` into counted views. ``sizes`` are (length, copies); returns (view, copies)."""
    return [(part, copies) for part, (_, copies) in zip(_split(x, dim, sizes, True), sizes, strict=True)]


def _split(x: Tensor, dim: int, sizes: Sequence[tuple[Size, Size]], keeps_strides: bool = False) -> list[Tensor]:
    dim %= len(x.shape)
    shapes = [(*x.shape[:dim], length, *x.shape[dim + 1 :]) for length, _ in sizes]
    left = iter(shapes)

    def part() -> Tensor:
        return view_of(x, next(left), strides_of(x), keeps_strides=keeps_strides)

    copies = [count for _, count in sizes]
    numbers = [product(shape) * count for shape, count in zip(shapes, copies, strict=True)]
    return record_views("SplitWithSizesBackward0", part, copies, x, _split_backward, x.shape, numbers)


def _split_backward(call: Call) -> Grads:
    # split_with_sizes_backward: a view that gets no gradient has one of zeros; then all are joined
    shape, numbers = call.args
    missing: list[Size] = [n for n, grad in zip(numbers, call.grads, strict=True) if grad is None]
    dtype = next(grad.dtype for grad in call.grads if grad is not None)
    zeros = [call.ledger.empty((n,), dtype) for n in missing]
    out = call.ledger.empty(shape, dtype)
    del zeros
    return (out,)


@operator("unbind")
def unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    """``x.unbind(dim)``, where that dimension is a number: views. The backward stacks their gradients."""
    dim %= len(x.shape)
    count = whole(x.shape[dim])
    shape, own = (*x.shape[:dim], *x.shape[dim + 1 :]), strides_of(x)
    strides = (*own[:dim], *own[dim + 1 :])
    return record_views(
        "UnbindBackward0", lambda: view_of(x, shape, strides), [1] * count, x, _join_views_backward, x.shape, x.dtype
    )


def _join_views_backward(call: Call) -> Grads:
    return (call.ledger.empty(*call.args),)


@operator("as_strided", args=lambda out, x, size, stride, *_, **__: (x, out.shape, tuple(stride)))
def as_strided(x: Tensor, shape: Shape, strides: tuple[Size, ...]) -> Tensor:
    """``x.as_strided(shape, strides)`` of a dense tensor: a view, of which parts may overlap. Saves nothing."""
    return record("AsStridedBackward0", lambda: view_of(x, shape, strides), (x,), (), _as_strided_backward, x.shape)


def _as_strided_backward(call: Call) -> Grads:
    # as_strided_backward: zeros, index_add_ by flat places where parts overlap
    grad, ledger = call.grad, call.ledger
    out = ledger.empty(call.args[0], grad.dtype)
    if compared(grad.numel, out.numel) > 0:
        places = ledger.empty((out.numel,), "int64")
        taken = ledger.empty((grad.numel,), "int64")
        copy = contiguous(grad)
        del places, taken, copy
    return (out,)


@operator("unsqueeze", "unsqueeze_")
def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """``x.unsqueeze(dim)``: a view."""
    dim %= len(x.shape) + 1
    strides = strides_of(x)
    step: Size = x.shape[dim] * strides[dim] if dim < len(x.shape) else 1
    shape, strides = (*x.shape[:dim], 1, *x.shape[dim:]), (*strides[:dim], step, *strides[dim:])
    return record("UnsqueezeBackward0", lambda: view_of(x, shape, strides), (x,), (), _reshape_backward, x.shape)


@operator("expand", "expand_as", "broadcast_to", args=lambda out, x, *_, **__: (x, out.shape))
def expand(x: Tensor, shape: Shape) -> Tensor:
    """``x.expand(shape)``: a view whose stride is zero in the expanded dimensions."""
    if x.shape == shape:
        strides = strides_of(x)
    else:
        pad = len(shape) - len(x.shape)
        own = strides_of(x)
        strides = tuple(
            0 if i < pad or (x.shape[i - pad] == 1 and shape[i] != 1) else own[i - pad] for i in range(len(shape))
        )
    return record("ExpandBackward0", lambda: view_of(x, shape, strides), (x,), (), _expand_backward, x.shape)


def _expand_backward(call: Call) -> Grads:
    shape = call.args[0]
    return (call.grad if call.grad.shape == shape else sum_to(call.grad, shape),)


@operator(
    "permute", args=lambda out, x, *given, dims=(): (x, tuple(d % len(x.shape) for d in flattened(given or dims)))
)
def permute(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """``x.permute(order)``: a view."""
    shape, strides = tuple(x.shape[i] for i in order), strides_of(x)
    strides = tuple(strides[i] for i in order)
    return record("PermuteBackward0", lambda: view_of(x, shape, strides), (x,), (), _permute_backward, order)


def _permute_backward(call: Call) -> Grads:
    (order,) = call.args
    return (permute(call.grad, tuple(order.index(i) for i in range(len(order)))),)


@operator("narrow", args=lambda out, x, dim, start, length: (x, dim, length))
def narrow(x: Tensor, dim: int, length: Size, keeps_strides: bool = False) -> Tensor:
    """``x.narrow(dim, start, length)``: a view. ``keeps_strides``: see ``layout.view_of``."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], length, *x.shape[dim + 1 :])
    return record(
        "SliceBackward0", lambda: view_of(x, shape, strides_of(x), keeps_strides), (x,), (), input_backward, x.shape
    )


@operator("select", args=lambda out, x, dim, index=0: (x, dim))
def select(x: Tensor, dim: int) -> Tensor:
    """``x.select(dim, index)``: a view without that dimension."""
    dim %= len(x.shape)
    shape, strides = list(x.shape), list(strides_of(x))
    del shape[dim], strides[dim]
    return record(
        "SelectBackward0", lambda: view_of(x, tuple(shape), tuple(strides)), (x,), (), input_backward, x.shape
    )


def input_backward(call: Call) -> Grads:
    """A new gradient of the input's shape (``Call.args[0]``), into which the incoming one is copied or added."""
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


def contiguous_backward(call: Call) -> Grads:
    """A contiguous gradient of the incoming one's shape."""
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


@operator("real")
def real(x: Tensor) -> Tensor:
    """``x.real`` of a complex64 tensor: a float32 view of every other number."""
    strides = tuple(2 * stride for stride in strides_of(x))

    def make() -> Tensor:
        return Tensor(x.storage, x.shape, "float32", strides, is_view=True)

    return record("SelectBackward0", make, (x,), (), complex_backward)


def complex_backward(call: Call) -> Grads:
    """A gradient of complex numbers, such as the zeros that ``select_backward`` of ``view_as_real`` copies into."""
    return (call.ledger.empty(call.grad.shape, "complex64"),)


@operator("view_as_real")
def view_as_real(x: Tensor) -> Tensor:
    """``torch.view_as_real(x)`` of complex64: a float32 view with a last dimension of two."""
    strides = (*(2 * stride for stride in strides_of(x)), 1)

    def make() -> Tensor:
        return x.view((*x.shape, 2), "float32", normalised((*x.shape, 2), strides))

    return record("ViewAsRealBackward0", make, (x,), (), _view_as_real_backward)


def _view_as_real_backward(call: Call) -> Grads:
    return (view_as_complex(call.grad),)


@operator("view_as_complex")
def view_as_complex(x: Tensor) -> Tensor:
    """``torch.view_as_complex(x)`` of float32 [..., 2]: a complex64 view."""
    shape = x.shape[:-1]
    strides = None if x.strides is None else tuple(whole(stride) // 2 for stride in x.strides[:-1])
    return record(
        "ViewAsComplexBackward0",
        lambda: x.view(shape, "complex64", strides),
        (x,),
        (),
        _view_as_complex_backward,
    )


def _view_as_complex_backward(call: Call) -> Grads:
    return (view_as_real(call.grad),)


@operator(
    "unfold",
    args=lambda out, x, dimension, size, step: (x, dimension, size, step, out.shape[dimension % len(x.shape)]),
)
def unfold(x: Tensor, dim: int, size: Size, step: Size, count: Size) -> Tensor:
    """``x.unfold(dim, size, step)``: a view of ``count`` windows. The backward adds them up in a new gradient.

    While it runs it holds the numbers of the dimension (``UnfoldBackward.cpp: unfold_backward``).
    """
    dim %= len(x.shape)
    own = strides_of(x)
    shape = (*x.shape[:dim], count, *x.shape[dim + 1 :], size)
    strides = (*own[:dim], own[dim] * step, *own[dim + 1 :], own[dim])
    return record(
        "UnfoldBackward0", lambda: view_of(x, shape, strides), (x,), (), _unfold_backward, x.shape, x.shape[dim]
    )


def _unfold_backward(call: Call) -> Grads:
    shape, size = call.args
    out = call.ledger.empty(shape, call.grad.dtype)
    call.ledger.transient(size * ITEMSIZE["int64"])
    return (out,)


@operator("alias")
def alias(x: Tensor) -> Tensor:
    """``at::alias(x)``, as ``x[:]`` gives: a view of all of it."""
    return record("AliasBackward0", lambda: view_of(x, x.shape, strides_of(x)), (x,), (), pass_on)


def slice(x: Tensor, dim: int, length: Size, step: int = 1) -> Tensor:
    """``x[..., start:stop:step]``: a view with ``length`` elements in ``dim``; of all elements, ``x`` itself.

    Source: ``TensorIndexing.h: applySlice``.
    """
    dim %= len(x.shape)
    if (length, step) == (x.shape[dim], 1):
        return x
    shape, strides = (*x.shape[:dim], length, *x.shape[dim + 1 :]), list(strides_of(x))
    strides[dim] = strides[dim] * step
    return record("SliceBackward0", lambda: view_of(x, shape, tuple(strides)), (x,), (), input_backward, x.shape)


@operator("squeeze", args=lambda out, x, dim=None: (x, out.shape))
def squeeze(x: Tensor, shape: Shape) -> Tensor:
    """``x.squeeze(dims)``: a view of ``shape``, without some dimensions of size one."""
    strides = [stride for size, stride in zip(x.shape, strides_of(x), strict=True) if size != 1]
    own = iter(strides)
    kept = tuple(1 if size == 1 else next(own) for size in shape)
    return record("SqueezeBackward0", lambda: view_of(x, shape, kept), (x,), (), _reshape_backward, x.shape)


@recorded("detach", "data")
def _detach(out: Result, x: Tensor) -> Tensor:
    return x.alias()


@recorded("conj")
def _conj(out: Result, x: Tensor) -> Tensor:
    return x


@recorded("slice")
def _slice(out: Result, x: Tensor, dim: int, length: Size, step: int) -> Tensor:
    if length == 1 and step == 1 and x.ledger.inference_mode:  # the last token's states, whose strides a product sees
        return narrow(x, dim, length, keeps_strides=True)
    return slice(x, dim, length, step)


@recorded("meshgrid")
def _meshgrid(out: Result, *tensors: Any, **_: Any) -> list[Tensor]:
    given = flattened(tensors)
    views = [view(x, tuple(x.numel if i == place else 1 for i in range(len(given)))) for place, x in enumerate(given)]
    return _broadcast_tensors(out, *views)


@recorded("broadcast_tensors")
def _broadcast_tensors(out: Result, *tensors: Any) -> list[Tensor]:
    return [expand(x, shape) for x, (_, shape, _) in zip(flattened(tensors), out.all, strict=True)]


@recorded("movedim", "moveaxis")
def _movedim(out: Result, x: Tensor, source: Any, destination: Any) -> Tensor:
    rank = len(x.shape)
    sources = [d % rank for d in (source if isinstance(source, tuple) else (source,))]
    targets = [d % rank for d in (destination if isinstance(destination, tuple) else (destination,))]
    rest = iter(d for d in range(rank) if d not in sources)
    return permute(x, tuple(sources[targets.index(d)] if d in targets else next(rest) for d in range(rank)))
