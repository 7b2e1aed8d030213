"""Operator rules: what PyTorch's operators allocate, save for backward, and allocate in backward.

Each function is one ATen operator (or a documented composite) on ``ledger.Tensor``. What is saved,
and under which condition on ``requires_grad``, follows ``tools/autograd/derivatives.yaml``; the
backward formulas follow ``torch/csrc/autograd/FunctionsManual.cpp``: neither depends on the device.
Where kernels do, a rule asks ``Ledger.device``. ``tests/test_ops.py`` holds each rule against the real
operator on a CPU; what is said of CUDA is read in ``aten/src/ATen/native/cuda`` (file and function in place).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import ParamSpec

from .errors import InputError
from .ledger import (
    FLOATING,
    ITEMSIZE,
    RESULT,
    Call,
    Counted,
    Ledger,
    Shape,
    Tensor,
    record,
    record_views,
    summed_dimensions,
)
from .symbols import Size, product, sample

_PRECISION = {
    "bool": 0,
    "uint8": 1,
    "int8": 1,
    "int32": 2,
    "int64": 3,
    "float16": 4,
    "bfloat16": 4,
    "float32": 5,
    "float64": 6,
}
Grads = tuple[Tensor | None, ...]
P = ParamSpec("P")
THREADS = 2
"""Intra-op threads of the reference step; some kernels' workspace grows with them."""


# ---- shapes and strides ------------------------------------------------------------------


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


def _normalise(shape: Shape, strides: Shape) -> Shape | None:
    """``None`` for strides that are contiguous (dimensions of size one do not count)."""
    step: Size = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 1:
            continue
        if stride != step:
            return strides
        step = step * size
    return None


def view_of(x: Tensor, shape: Shape, strides: Shape) -> Tensor:
    """A view sharing ``x``'s storage."""
    return Tensor(x.storage, shape, x.dtype, _normalise(shape, strides), is_view=True)


def _view_strides(x: Tensor, shape: Shape) -> Shape | None:
    """Strides of ``x.view(shape)``, or ``None`` where a copy is needed (``at::detail::computeStride``)."""
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
            return None
    if position >= 0:
        return None
    return tuple(reversed(result))


def broadcast(*shapes: Shape) -> Shape:
    """The broadcast shape."""
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
    """Layout of an elementwise result (``TensorIteratorBase::reorder_dimensions``)."""
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
                if sample(shape[inner]) > sample(shape[outer]):
                    return 1
                continue
            return 1 if sample(a) > sample(b) else -1
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
    return _normalise(shape, tuple(strides))


# ---- views -------------------------------------------------------------------------------


def transpose(x: Tensor, a: int, b: int) -> Tensor:
    """``x.transpose(a, b)``: a view."""
    rank = len(x.shape)
    a, b = a % rank, b % rank
    shape, strides = list(x.shape), list(strides_of(x))
    shape[a], shape[b] = shape[b], shape[a]
    strides[a], strides[b] = strides[b], strides[a]
    return record(
        "TransposeBackward0", lambda: view_of(x, tuple(shape), tuple(strides)), (x,), (), _transpose_backward, a, b
    )


def _transpose_backward(call: Call) -> Grads:
    return (transpose(call.grad, *call.args),)


def view(x: Tensor, shape: Shape) -> Tensor:
    """``x.view(shape)``: a view; ``x`` must allow it."""
    strides = _view_strides(x, shape)
    if strides is None:
        raise ValueError(f"shape {x.shape} with strides {x.strides} cannot be viewed as {shape}")
    return record("ViewBackward0", lambda: view_of(x, shape, strides), (x,), (), _reshape_backward, x.shape)


def reshape(x: Tensor, shape: Shape) -> Tensor:
    """``x.reshape(shape)``: a view where strides allow it, else a contiguous copy seen through a view."""
    if _view_strides(x, shape) is not None:
        return view(x, shape)
    copy = clone_contiguous(x)
    return _unsafe_view(copy, shape)


def _reshape_backward(call: Call) -> Grads:
    return (reshape(call.grad, call.args[0]),)


def _unsafe_view(x: Tensor, shape: Shape) -> Tensor:
    strides = contiguous_strides(shape)
    return record("UnsafeViewBackward0", lambda: view_of(x, shape, strides), (x,), (), _reshape_backward, x.shape)


def clone_contiguous(x: Tensor) -> Tensor:
    """``x.clone(memory_format=torch.contiguous_format)``."""
    return record("CloneBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), _pass)


def _pass(call: Call) -> Grads:
    return tuple(call.grad if need else None for need in call.needs)


def contiguous(x: Tensor) -> Tensor:
    """``x.contiguous()``: ``x`` itself where it already is."""
    return x if x.strides is None else clone_contiguous(x)


def split_first(x: Tensor, size: Size, count: int) -> list[Tensor]:
    """``count`` of the views of ``x.split(size)``, first dimension; the backward joins all of their gradients."""
    shape = (size, *x.shape[1:])
    return record_views(
        "SplitBackward0", lambda: view_of(x, shape, strides_of(x)), count, x, _join_views_backward, x.shape, x.dtype
    )


def split_sizes(x: Tensor, sizes: Sequence[Size], dim: int = -1) -> list[Tensor]:
    """``x.split(sizes, dim)``: views; the backward joins all of their gradients."""
    dim %= len(x.shape)
    rest = iter(sizes)

    def part() -> Tensor:
        return view_of(x, (*x.shape[:dim], next(rest), *x.shape[dim + 1 :]), strides_of(x))

    return record_views("SplitWithSizesBackward0", part, len(sizes), x, _join_views_backward, x.shape, x.dtype)


def split_equal(x: Tensor, dim: int, size: Size) -> list[Tensor]:
    """``x.split(size, dim)``; the last part may be shorter. The dimension's size is a number."""
    total = x.shape[dim]
    assert isinstance(total, int)
    assert isinstance(size, int)
    return split_sizes(x, [min(size, total - start) for start in range(0, total, size)], dim)


def unbind(x: Tensor, count: int) -> list[Tensor]:
    """``x.unbind(0)`` to ``count`` views; the backward stacks their gradients."""
    shape, strides = x.shape[1:], strides_of(x)[1:]
    return record_views(
        "UnbindBackward0", lambda: view_of(x, shape, strides), count, x, _join_views_backward, x.shape, x.dtype
    )


def _join_views_backward(call: Call) -> Grads:
    return (call.ledger.empty(*call.args),)


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """``x.unsqueeze(dim)``: a view."""
    dim %= len(x.shape) + 1
    strides = strides_of(x)
    step: Size = x.shape[dim] * strides[dim] if dim < len(x.shape) else 1
    shape, strides = (*x.shape[:dim], 1, *x.shape[dim:]), (*strides[:dim], step, *strides[dim:])
    return record("UnsqueezeBackward0", lambda: view_of(x, shape, strides), (x,), (), _reshape_backward, x.shape)


def expand(x: Tensor, shape: Shape) -> Tensor:
    """``x.expand(shape)``: a view with stride zero along expanded dimensions."""
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
    return (sum_to(call.grad, call.args[0]),)


def sum_to(x: Tensor, shape: Shape) -> Tensor:
    """``at::sum_to``: ``x`` itself, a view, or a new reduced tensor."""
    if x.shape == shape:
        return x
    if product(x.shape) == product(shape):
        return view_of(x, shape, contiguous_strides(shape))
    total = x.ledger.empty(shape, x.dtype)
    x.ledger.reduction(x, summed_dimensions(x.shape, shape))
    total.is_view = len(x.shape) > len(shape)  # of the sum that keeps its dimensions
    return total


def permute(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """``x.permute(order)``: a view."""
    shape, strides = tuple(x.shape[i] for i in order), strides_of(x)
    strides = tuple(strides[i] for i in order)
    return record("PermuteBackward0", lambda: view_of(x, shape, strides), (x,), (), _permute_backward, order)


def _permute_backward(call: Call) -> Grads:
    (order,) = call.args
    return (permute(call.grad, tuple(order.index(i) for i in range(len(order)))),)


def narrow(x: Tensor, dim: int, size: Size) -> Tensor:
    """A slice of one dimension: a view."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
    return record("SliceBackward0", lambda: view_of(x, shape, strides_of(x)), (x,), (), _slice_backward, x.shape)


def last_token(x: Tensor) -> Tensor:
    """``x[:, -1:, :]`` of [B, S, H]: a view, which keeps its strides where B is 1, too."""
    out = narrow(x, 1, 1)
    out.strides = strides_of(x)
    return out


def select(x: Tensor, dim: int) -> Tensor:
    """One index of a dimension, which goes: a view."""
    dim %= len(x.shape)
    shape, strides = list(x.shape), list(strides_of(x))
    del shape[dim], strides[dim]
    return record(
        "SelectBackward0", lambda: view_of(x, tuple(shape), tuple(strides)), (x,), (), _slice_backward, x.shape
    )


def _slice_backward(call: Call) -> Grads:
    # slice_backward, select_backward: zeros of the input's shape, the gradient copied in.
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


# ---- elementwise -------------------------------------------------------------------------


def _promote(a: Tensor, b: Tensor) -> str:
    if bool(a.shape) != bool(b.shape) and a.dtype in FLOATING and b.dtype in FLOATING:
        return a.dtype if a.shape else b.dtype  # a tensor of no dimension does not widen another one
    if _PRECISION[a.dtype] == _PRECISION[b.dtype] and a.dtype != b.dtype:
        return "float32"
    return a.dtype if _PRECISION[a.dtype] >= _PRECISION[b.dtype] else b.dtype


def elementwise(inputs: tuple[Tensor, ...], dtype: str) -> Tensor:
    """The result of an elementwise kernel. On a CPU ``TensorIterator`` first copies operands of
    another dtype than the common one, and lets go of the copies when the kernel is done; a GPU's
    kernels convert as they load.
    """
    if inputs[0].ledger.device == "cpu":
        casts = [x.ledger.empty(x.shape, dtype, x.strides) for x in inputs if x.dtype != dtype]  # noqa: F841
    shape = inputs[0].shape if len(inputs) == 1 else broadcast(*(x.shape for x in inputs))
    return inputs[0].ledger.empty(shape, dtype, elementwise_strides(shape, inputs))


def _binary(a: Tensor, b: Tensor) -> Tensor:
    return elementwise((a, b), _promote(a, b))


def wrapped_number(ledger: Ledger, dtype: str) -> tuple[Tensor, Tensor]:
    """A Python scalar as an operand: a 0-dim float64 tensor (``c10::scalar_to_tensor``) and, while
    the operator runs, its cast to the other operand's dtype. It stays on the host.
    """
    if ledger.device != "cpu":
        return ledger.empty((0,), "float64"), ledger.empty((0,), dtype)
    return ledger.empty((), "float64"), ledger.empty((), dtype)


def _with_number(x: Tensor, dtype: str) -> Tensor:
    operand = wrapped_number(x.ledger, dtype)
    out = elementwise((x,), dtype)
    del operand
    return out


def add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``: saves nothing."""
    return record("AddBackward0", lambda: _binary(a, b), (a, b), (), _pass)


def add_(a: Tensor, b: Tensor, scaled: bool = False) -> Tensor:
    """``a.add_(b)``, ``scaled`` with an alpha that is not one: in ``a``'s storage. A CPU that computes in
    another dtype does so on copies, of the result too.
    """

    def make() -> Tensor:
        dtype = _promote(a, b)
        if a.ledger.device == "cpu":
            copies = [x.ledger.empty(x.shape, dtype, x.strides) for x in (a, a, b) if x.dtype != dtype]
            del copies
        return Tensor(a.storage, a.shape, a.dtype, a.strides, is_view=a.is_view)

    return record("AddBackward0", make, (a, b), (), _add_scaled_backward, scaled)


def _add_scaled_backward(call: Call) -> Grads:
    grad, scaled = call.grad, call.args[0]
    other = None if not call.needs[1] else _with_number(grad, grad.dtype) if scaled else grad
    return (grad if call.needs[0] else None), other


def add_scalar(x: Tensor) -> Tensor:
    """``x + number``: saves nothing."""
    return record("AddBackward0", lambda: _with_number(x, x.dtype), (x,), (), _pass)


def sub(a: Tensor, b: Tensor) -> Tensor:
    """``a - b``: saves nothing."""
    return record("SubBackward0", lambda: _binary(a, b), (a, b), (), _sub_backward)


def _sub_backward(call: Call) -> Grads:
    grad = call.grad
    return (
        grad if call.needs[0] else None,
        elementwise((grad,), grad.dtype) if call.needs[1] else None,
    )


def div(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``: saves the divisor, and the dividend if the divisor requires a gradient."""
    saved = (a if b.requires_grad else None, b)
    return record("DivBackward0", lambda: _binary(a, b), (a, b), saved, _div_backward)


def _div_backward(call: Call) -> Grads:
    a, b = call.saved
    grad_b = _div_other_backward(call.grad, a, b) if call.needs[1] else None
    grad_a = _binary(call.grad, b) if call.needs[0] else None
    return grad_a, grad_b


def _div_other_backward(grad: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # div_tensor_other_backward: -grad * ((self / other) / other), temporaries held to the end
    quotient = _binary(a, b)
    twice = _binary(quotient, b)
    negative = elementwise((grad,), grad.dtype)
    return _binary(negative, twice)


def div_scalar(x: Tensor) -> Tensor:
    """``x / number``: keeps the wrapped number in the graph, as ``mul_scalar`` does."""
    return _scaled(x, "DivBackward0")


def mul(a: Tensor, b: Tensor) -> Tensor:
    """``a * b``: saves each factor if the other requires a gradient."""
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    return record("MulBackward0", lambda: _binary(a, b), (a, b), saved, _mul_backward)


def _mul_backward(call: Call) -> Grads:
    grad_b = _binary(call.grad, call.saved[1]) if call.needs[1] else None
    grad_a = _binary(call.grad, call.saved[0]) if call.needs[0] else None
    return grad_a, grad_b


def mul_scalar(x: Tensor) -> Tensor:
    """``x * number``: keeps the wrapped number (8 B, never shown to saved-tensor hooks) in the graph."""
    return _scaled(x, "MulBackward0")


def _scaled(x: Tensor, name: str) -> Tensor:
    number, cast = wrapped_number(x.ledger, x.dtype)
    out = record(name, lambda: elementwise((x,), x.dtype), (x,), (), _scaled_backward)
    del cast
    if out.node is not None:
        out.node.keep(number)
    return out


def _scaled_backward(call: Call) -> Grads:
    cast = wrapped_number(call.ledger, call.grad.dtype)[1]
    out = elementwise((call.grad,), call.grad.dtype)
    del cast
    return (out,)


def index_put_(x: Tensor, indices: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """``x[:, *indices] = values`` for an ``x`` without gradient: saves the indices, gives ``x`` itself."""
    return record("IndexPutBackward0", x.alias, (values,), indices, _index_put_backward, values.shape)


def _index_put_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


def repeat_first(x: Tensor, count: Size) -> Tensor:
    """``x.repeat(count, 1, 1)`` of a matrix [n, m] or [1, n, m]."""
    shape = (count, *x.shape[-2:])
    return record("RepeatBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (), _repeat_backward, x.shape)


def _repeat_backward(call: Call) -> Grads:
    return (sum_to(call.grad, call.args[0]),)


def mul_view_(x: Tensor, factor: Tensor) -> Tensor:
    """``x *= factor`` for a view ``x`` of a whole result and a factor without gradient: saves the factor.

    Autograd puts the product behind the view's base (``CopySlices``) and makes the view anew from it.
    """

    def product_in_place() -> Tensor:
        if x.ledger.device == "cpu" and _promote(x, factor) != x.dtype:
            _binary(x, factor)  # computed in the wider dtype, of a copy, and copied back
        return view_of(x, x.shape, strides_of(x))

    base = record("CopySlices", product_in_place, (x,), (factor if x.requires_grad else None,), _copy_slices_backward)
    return record("AsStridedBackward0", lambda: view_of(base, x.shape, strides_of(x)), (base,), (), _restrided_backward)


def _copy_slices_backward(call: Call) -> Grads:
    # torch/csrc/autograd/functions/tensor.cpp: the function runs on a clone of the gradient's slice
    grad, factor = call.grad, call.saved[0]
    result = call.ledger.empty(grad.shape, grad.dtype)
    clone = call.ledger.empty(grad.shape, grad.dtype)
    product = _binary(clone, factor)
    del clone, product
    return (result,)


def _restrided_backward(call: Call) -> Grads:
    # as_strided_backward: the gradient copied into zeros of the storage's shape
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


def neg(x: Tensor) -> Tensor:
    """``-x``: saves nothing."""
    return record("NegBackward0", lambda: elementwise((x,), x.dtype), (x,), (), _neg_backward)


def _neg_backward(call: Call) -> Grads:
    return (elementwise((call.grad,), call.grad.dtype),)


def to(x: Tensor, dtype: str) -> Tensor:
    """``x.to(dtype)``: ``x`` itself where the dtype is the same; saves nothing."""
    if x.dtype == dtype:
        return x
    return record(
        "ToCopyBackward0",
        lambda: x.ledger.empty(x.shape, dtype, elementwise_strides(x.shape, (x,))),
        (x,),
        (),
        _to_backward,
        x.dtype,
    )


def from_host(x: Tensor, dtype: str) -> Tensor:
    """``x.to(device, dtype)`` of a tensor without gradient that stays on the host: a GPU gets a copy, of which the
    host has changed the dtype already (``Copy.cu: copy_kernel_cuda``, copies that block).
    """
    return to(x, dtype) if x.ledger.device == "cpu" else x.ledger.empty(x.shape, dtype)


def _to_backward(call: Call) -> Grads:
    return (to(call.grad, call.args[0]),)


def cat(parts: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """``torch.cat(parts)`` to a result of ``shape``: contiguous; the backward hands out views of the gradient.

    Autocast promotes the parts to the widest dtype.
    """
    _check_promotion(parts)
    ledger, dtype = parts[0].ledger, max((p.dtype for p in parts), key=_PRECISION.__getitem__)
    parts = tuple(to(p, dtype) for p in parts)
    return record(
        "CatBackward0", lambda: ledger.empty(shape, dtype), parts, (), _cat_backward, tuple(p.shape for p in parts)
    )


def _check_promotion(parts: tuple[Tensor, ...]) -> None:
    """Raises ``InputError``: autocast joins its own dtype and float32 only (``at::autocast::prioritize``)."""
    autocast = parts[0].ledger.autocast
    for part in parts:
        if autocast and part.dtype in ("bfloat16", "float16") and part.dtype != autocast:
            raise InputError(
                f"autocast {autocast} fails in PyTorch where it has to join {part.dtype} tensors, as here; "
                f"use autocast {part.dtype}, or weights in float32"
            )


def _cat_backward(call: Call) -> Grads:
    return tuple(
        view_of(call.grad, shape, strides_of(call.grad)) if need else None
        for shape, need in zip(call.args[0], call.needs, strict=True)
    )


def split(x: Tensor, dim: int, sizes: Sequence[tuple[Size, Size]]) -> list[tuple[Tensor, Size]]:
    """``x.split(sizes, dim)`` of a contiguous tensor whose dimensions before ``dim`` are one: views.

    ``sizes`` are (length, how often); the result is (part, how often). The backward concatenates the parts'
    gradients, which live until then.
    """
    gathered = Counted(x.ledger)
    parts: list[tuple[Tensor, Size]] = []
    for length, copies in sizes:
        shape = (*x.shape[:dim], length, *x.shape[dim + 1 :])
        strides = contiguous_strides(x.shape)  # a first dimension of one keeps its own, which ``linear`` looks at
        backward, args = (_gather_backward, (gathered, copies)) if parts else (_split_backward, (gathered, x.shape))
        part = record("SplitBackward0", partial(_part_of, x, shape, strides), (x,), (), backward, *args)
        if parts and part.node is not None:
            part.node.edges.clear()  # the first part's node, which runs last, passes the whole gradient on
        parts.append((part, copies))
    return parts


def _part_of(x: Tensor, shape: Shape, strides: Shape) -> Tensor:
    return Tensor(x.storage, shape, x.dtype, strides if shape[0] == 1 else None, is_view=True)


def _gather_backward(call: Call) -> Grads:
    gathered, copies = call.args
    gathered.add(call.grad, copies)
    return ()


def _split_backward(call: Call) -> Grads:
    gathered = call.args[0]
    out = call.ledger.empty(call.args[1], call.grad.dtype)
    gathered.clear()
    return (out,)


def stack(a: Tensor, b: Tensor) -> Tensor:
    """``torch.stack((a, b), dim=1)``: contiguous; the backward hands out views of the gradient."""
    shape = (a.shape[0], 2, *a.shape[1:])
    return record("StackBackward0", lambda: a.ledger.empty(shape, a.dtype), (a, b), (), _stack_backward)


def _stack_backward(call: Call) -> Grads:
    return tuple(select(call.grad, 1) if need else None for need in call.needs)


def repeat(x: Tensor, times: Size) -> Tensor:
    """``x.repeat(times, 1, ...)``, the first dimension repeated: a copy; the backward sums."""
    shape = (times * x.shape[0], *x.shape[1:])
    return record(
        "RepeatBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (), _repeat_rows_backward, x.shape, times
    )


def _repeat_rows_backward(call: Call) -> Grads:
    shape, times = call.args
    if times == 1:
        return (call.grad,)
    grad = reshape(call.grad, (times, *shape))  # a copy, where strides ask for one
    return (_reduced(grad, 0, shape),)


def repeat_interleave(x: Tensor, repeats: Size, dim: int) -> Tensor:
    """``torch.repeat_interleave(x, repeats, dim)``: always a contiguous copy."""
    dim %= len(x.shape)
    spread = (*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :])
    x = clone_contiguous(expand(unsqueeze(x, dim + 1), spread))
    return view(x, (*spread[:dim], spread[dim] * repeats, *spread[dim + 2 :]))


def cat_growing(x: Tensor) -> Tensor:
    """``torch.cat([empty, x], dim=-2)``, a cache's first update: a contiguous copy."""
    return record("CatBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), _cat_backward, (x.shape,))


def _widened(x: Tensor) -> Tensor:
    """The operand of an operator that autocast runs in float32 on a GPU: those of ``AT_FORALL_FP32`` and
    ``AT_FORALL_FP32_SET_OPT_DTYPE`` (``aten/src/ATen/autocast_mode.h``); a CPU's list has none of them.
    """
    widened = x.ledger.device == "cuda" and x.ledger.autocast and x.dtype in ("bfloat16", "float16")
    return to(x, "float32") if widened else x


def _reduced(x: Tensor, dim: int | None, shape: Shape, dtype: str | None = None) -> Tensor:
    """A sum, mean or norm of ``x`` over one dimension, or over all: the result of ``shape``.

    CUDA's accumulators are float32 and read any dtype (``gpu_reduce_kernel``): no copy is made of ``x``.
    """
    out = x.ledger.empty(shape, dtype or x.dtype)
    x.ledger.reduction(x, [dim is None or i == dim for i in range(len(x.shape))])
    return out


def pow2(x: Tensor) -> Tensor:
    """``x.pow(2)``: saves ``x``."""
    x = _widened(x)
    return record("PowBackward0", lambda: elementwise((x,), x.dtype), (x,), (x,), _pow2_backward)


def _pow2_backward(call: Call) -> Grads:
    # pow_backward: grad * (exponent * self.pow(exponent - 1))
    x = call.saved[0]
    power = elementwise((x,), x.dtype)
    scaled = _with_number(power, x.dtype)
    return (elementwise((call.grad, scaled), x.dtype),)


def mean_last(x: Tensor) -> Tensor:
    """``x.mean(-1, keepdim=True)``: saves nothing."""
    shape = (*x.shape[:-1], 1)
    return record("MeanBackward1", lambda: _mean(x, len(x.shape) - 1, shape), (x,), (), _mean_backward, x.shape)


def _mean_backward(call: Call) -> Grads:
    operand = wrapped_number(call.ledger, call.grad.dtype)
    out = call.ledger.empty(call.args[0], call.grad.dtype)
    del operand
    return (out,)


def sum_dim(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """``x.sum(dim)``: saves nothing; the backward expands the gradient.

    Under a GPU's autocast the sum of a 16-bit tensor is float32, taken without a copy.
    """
    dim %= len(x.shape)
    wide = x.ledger.device == "cuda" and x.ledger.autocast and x.dtype in ("bfloat16", "float16")
    dtype = "float32" if wide else x.dtype
    shape = (*x.shape[:dim], *((1,) if keepdim else ()), *x.shape[dim + 1 :])
    return record(
        "SumBackward1", lambda: _reduced(x, dim, shape, dtype), (x,), (), _sum_backward, x.shape, dim, keepdim
    )


def _sum_backward(call: Call) -> Grads:
    shape, dim, keepdim = call.args
    grad = call.grad if keepdim else unsqueeze(call.grad, dim)
    return (expand(grad, shape),)


def mean_dim(x: Tensor, dim: int) -> Tensor:
    """``x.mean(dim)``: saves nothing."""
    dim %= len(x.shape)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    return record("MeanBackward1", lambda: _mean(x, dim, shape), (x,), (), _mean_backward, x.shape)


def _mean(x: Tensor, dim: int, shape: Shape) -> Tensor:
    # mean_kernel_impl: a CPU takes 16-bit sums in float32, of a copy
    ledger = x.ledger
    out = _reduced(x, dim, shape)
    if ledger.device == "cpu" and x.dtype in ("bfloat16", "float16"):
        total, wide = ledger.empty(shape, "float32"), ledger.empty(x.shape, "float32")
        del total, wide
    return out


def sqrt(x: Tensor) -> Tensor:
    """``torch.sqrt(x)``: saves its result."""
    return record("SqrtBackward0", lambda: elementwise((x,), x.dtype), (x,), (RESULT,), _sqrt_backward)


def _sqrt_backward(call: Call) -> Grads:
    # grad / (2 * result)
    twice = _with_number(call.saved[0], call.grad.dtype)
    return (_binary(call.grad, twice),)


def vector_norm(x: Tensor, dim: int | None = None) -> Tensor:
    """``torch.linalg.vector_norm(x, dim=dim)``, p = 2: saves its input and its result."""
    x = _widened(x)
    dim = None if dim is None else dim % len(x.shape)
    shape = () if dim is None else (*x.shape[:dim], *x.shape[dim + 1 :])
    return record(
        "LinalgVectorNormBackward0",
        lambda: _reduced(x, dim, shape),
        (x,),
        (x, RESULT),
        _vector_norm_backward,
    )


def _vector_norm_backward(call: Call) -> Grads:
    # norm_backward: grad * (self / norm).masked_fill_(norm == 0, 0)
    x, norm = call.saved
    zero = call.ledger.empty(norm.shape, "bool")
    quotient = elementwise((x,), x.dtype)
    out = elementwise((quotient,), x.dtype)
    del zero
    return (out,)


def clamp(x: Tensor) -> Tensor:
    """``torch.clamp(x, min=number)``: saves its input."""
    return record("ClampBackward1", lambda: elementwise((x,), x.dtype), (x,), (x,), _clamp_backward)


def _clamp_backward(call: Call) -> Grads:
    # where(self >= min, grad, 0)
    grad, x = call.grad, call.saved[0]
    mask = call.ledger.empty(x.shape, "bool", elementwise_strides(x.shape, (x,)))
    out = call.ledger.empty(x.shape, grad.dtype, elementwise_strides(x.shape, (mask, grad)))
    del mask
    return (out,)


def cos(x: Tensor) -> Tensor:
    """``torch.cos(x)``: saves its input."""
    return record("CosBackward0", lambda: elementwise((x,), x.dtype), (x,), (x,), _cos_backward)


def _cos_backward(call: Call) -> Grads:
    # grad * -self.sin()
    sine = elementwise((call.saved[0],), call.grad.dtype)
    negative = elementwise((sine,), call.grad.dtype)
    return (elementwise((call.grad, negative), call.grad.dtype),)


def sin(x: Tensor) -> Tensor:
    """``torch.sin(x)``: saves its input."""
    return record("SinBackward0", lambda: elementwise((x,), x.dtype), (x,), (x,), _sin_backward)


def _sin_backward(call: Call) -> Grads:
    # grad * self.cos()
    cosine = elementwise((call.saved[0],), call.grad.dtype)
    return (elementwise((call.grad, cosine), call.grad.dtype),)


def sigmoid(x: Tensor) -> Tensor:
    """``torch.sigmoid(x)``: saves its result."""
    return record("SigmoidBackward0", lambda: elementwise((x,), x.dtype), (x,), (RESULT,), _silu_backward)


def tanh(x: Tensor) -> Tensor:
    """``torch.tanh(x)``: saves its result."""
    return record("TanhBackward0", lambda: elementwise((x,), x.dtype), (x,), (RESULT,), _silu_backward)


def relu(x: Tensor) -> Tensor:
    """``F.relu(x)``: saves its result."""
    return record("ReluBackward0", lambda: elementwise((x,), x.dtype), (x,), (RESULT,), _relu_backward)


def _relu_backward(call: Call) -> Grads:
    return (elementwise((call.saved[0], call.grad), call.grad.dtype),)


def gelu(x: Tensor) -> Tensor:
    """``F.gelu(x)``: saves its input."""
    return record("GeluBackward0", lambda: elementwise((x,), x.dtype), (x,), (x,), _silu_backward)


def exp(x: Tensor) -> Tensor:
    """``torch.exp(x)``: saves its result."""
    x = _widened(x)
    return record("ExpBackward0", lambda: elementwise((x,), x.dtype), (x,), (RESULT,), _silu_backward)


def rsqrt(x: Tensor) -> Tensor:
    """``torch.rsqrt(x)``: saves its result."""
    x = _widened(x)
    return record("RsqrtBackward0", lambda: elementwise((x,), x.dtype), (x,), (RESULT,), _rsqrt_backward)


def _rsqrt_backward(call: Call) -> Grads:
    # -0.5 * grad * result.pow(3)
    result = call.saved[0]
    cube = elementwise((result,), result.dtype)
    scaled = _with_number(call.grad, result.dtype)
    return (elementwise((scaled, cube), result.dtype),)


def silu(x: Tensor) -> Tensor:
    """``F.silu(x)``: saves its input."""
    return record("SiluBackward0", lambda: elementwise((x,), x.dtype), (x,), (x,), _silu_backward)


def _silu_backward(call: Call) -> Grads:
    return (elementwise((call.grad, call.saved[0]), call.grad.dtype),)


def softmax_last(x: Tensor, dtype: str) -> Tensor:
    """``F.softmax(x, dim=-1, dtype=dtype)``: converts, then saves its result. A GPU reads float16 and writes
    float32 without a copy between (``at::softmax``; not so bfloat16), and its backward the other way round.
    """
    converts = x.ledger.device == "cpu" or (x.dtype, dtype) != ("float16", "float32")
    inputs = (to(x, dtype) if converts else x,)
    return record(
        "SoftmaxBackward0",
        lambda: x.ledger.empty(x.shape, dtype),
        inputs,
        (RESULT,),
        _softmax_backward,
        inputs[0].dtype,
    )


def _softmax_backward(call: Call) -> Grads:
    out = call.ledger.empty(call.grad.shape, call.args[0])
    if call.ledger.device == "cuda":  # softmax_backward_cuda_out: grad * output
        call.ledger.transient(call.grad.nbytes)
    return (out,)


def log_softmax(x: Tensor) -> Tensor:
    """``F.log_softmax(x, dim=1)``: saves its result."""
    x = _widened(x)
    return record(
        "LogSoftmaxBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (RESULT,), _log_softmax_backward
    )


def _log_softmax_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


def dropout(x: Tensor, p: float) -> Tensor:
    """``F.dropout(x, p)`` in train mode on a CPU (``_dropout_impl``): a noise tensor of ``x``'s dtype
    is drawn, scaled in place and multiplied; the product saves it if ``x`` requires a gradient.
    """
    if p == 0.0 or not x.ledger.training:
        return x
    ledger = x.ledger
    if ledger.device == "cuda":
        return _native_dropout(x)
    noise = ledger.empty(x.shape, x.dtype, x.strides)
    wrapped_number(ledger, x.dtype)  # noise.div_(1 - p)
    return mul(x, noise)


def _native_dropout(x: Tensor) -> Tensor:
    """``at::native_dropout`` (CUDA): saves a mask of one byte per element."""
    mask = x.ledger.empty(x.shape, "bool", x.strides)
    return record(
        "NativeDropoutBackward0",
        lambda: x.ledger.empty(x.shape, x.dtype, x.strides),
        (x,),
        (mask,),
        _neg_backward,
    )


# ---- matrix products ---------------------------------------------------------------------


def _product_of(x: Tensor, shape: Shape, inner: Size) -> Tensor:
    """The result of a matrix product that ``x`` is a factor of, summed over ``inner`` elements."""

    def make() -> Tensor:
        x.ledger.multiply(*shape, inner)
        return x.ledger.empty(shape, x.dtype)

    return x.ledger.product(make)


def _holds_operands(operator: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """An operator whose call holds what it was given until it returns, beside the casts that autocast makes."""

    @wraps(operator)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return operator(*args, **kwargs)

    return call


@_holds_operands
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``: folds leading dimensions and multiplies by ``weight.t()``.

    Saves the folded input if the weight requires a gradient, the weight if the input does
    (``at::native::linear``, ``matmul``). Under autocast both are cast first; casts of trainable
    leaves are cached until the context ends (``aten/src/ATen/autocast_mode.cpp``).
    """
    bias = None if bias is None else autocast(bias)
    weight = autocast(weight)
    x = autocast(x)
    out_features = weight.shape[0]
    rows: Size = product(x.shape[:-1])
    folded = len(x.shape) > 2
    flat = reshape(x, (rows, x.shape[-1])) if folded else x
    shape2 = (rows, out_features)
    factor = view_of(weight, (weight.shape[1], out_features), (1, weight.shape[1]))  # weight.t()
    factor.requires_grad = weight.requires_grad  # which hooks ask
    saved = (factor if flat.requires_grad else None, flat if weight.requires_grad else None)
    name = "MmBackward0" if bias is None else "AddmmBackward0"

    def make() -> Tensor:
        out = _product_of(x, shape2, flat.shape[1])
        launch_cublas(flat, weight)
        if bias is None and not weight.requires_grad and _packs(x):
            # bmm, whose operands oneDNN wants contiguous: of the weight, a copy for each of the batch
            copies = product(x.shape[:-2])
            x.ledger.transient(copies * weight.nbytes + (0 if copies == 1 else x.nbytes))
        return out

    out = record(name, make, (bias, flat, weight), saved, _linear_backward)
    return _unsafe_view(out, (*x.shape[:-1], out_features)) if folded else out


def _packs(x: Tensor) -> bool:
    return x.ledger.device == "cpu" and x.dtype == "bfloat16" and not _folds(x)


def _folds(x: Tensor) -> bool:
    """``at::native::should_fold`` of an input whose weight needs no gradient; dimensions of one count."""
    strides = strides_of(x)
    return all(strides[i] == strides[i + 1] * x.shape[i + 1] for i in range(len(x.shape) - 2))


def _linear_backward(call: Call) -> Grads:
    # MmBackward computes the second factor's gradient first, AddmmBackward the first one's. The
    # bias's gradient is the incoming one, which the engine then sums to the bias's shape.
    grad, needs_bias = call.grad, call.needs[0]
    grad_flat = _flat_gradient(call) if needs_bias else None
    grad_weight = None
    if call.needs[2]:
        grad_weight = call.ledger.empty((grad.shape[1], call.saved[1].shape[1]), grad.dtype)
        call.ledger.multiply(*grad.shape, call.saved[1].shape[1])
        launch_cublas(grad, call.saved[1])
        grad_weight.is_view = True  # t() of the product's gradient: never added to in place
    if not needs_bias:
        grad_flat = _flat_gradient(call)
    return (grad if needs_bias else None), grad_flat, grad_weight


def _flat_gradient(call: Call) -> Tensor | None:
    if not call.needs[1]:
        return None
    call.ledger.multiply(*call.grad.shape, call.saved[0].shape[0])
    out = call.ledger.empty((call.grad.shape[0], call.saved[0].shape[0]), call.grad.dtype)
    launch_cublas(call.grad, call.saved[0])
    return out


def mm(a: Tensor, b: Tensor) -> Tensor:
    """``a.mm(b)``: saves each factor if the other requires a gradient."""
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    shape = (a.shape[0], b.shape[1])
    args = _column_major(a), _column_major(b)

    def make() -> Tensor:
        out = _product_of(a, shape, a.shape[1])
        launch_cublas(a, b)
        return out

    return record("MmBackward0", make, (a, b), saved, _mm_backward, *args)


def _column_major(x: Tensor) -> bool:
    return x.strides is not None and x.strides[0] == 1 and x.strides[1] == x.shape[0]


def _mm_backward(call: Call) -> Grads:
    # mm_mat2_grad, mm_mat1_grad: for a transposed factor the transpose of a product, so a view.
    grad, (b, a) = call.grad, call.saved
    grad_a = grad_b = None
    if call.needs[1]:
        grad_b = _product((a.shape[1], grad.shape[1]), grad, transposed=call.args[1])
        grad.ledger.multiply(*grad.shape, a.shape[1])
        launch_cublas(a, grad)
    if call.needs[0]:
        grad_a = _product((grad.shape[0], b.shape[0]), grad, transposed=call.args[0])
        grad.ledger.multiply(*grad.shape, b.shape[0])
        launch_cublas(grad, b)
    return grad_a, grad_b


def _product(shape: Shape, grad: Tensor, transposed: bool) -> Tensor:
    if transposed:
        return transpose(grad.ledger.empty(shape[::-1], grad.dtype), 0, 1)
    return grad.ledger.empty(shape, grad.dtype)


@_holds_operands
def autocast_mm(a: Tensor, b: Tensor) -> Tensor:
    """``torch.mm(a, b)`` as autocast runs it: the second factor is cast first."""
    b = autocast(b)
    return mm(autocast(a), b)


@_holds_operands
def matmul_2d(x: Tensor, b: Tensor) -> Tensor:
    """``x @ b`` of [..., n] and [n, m]: folds leading dimensions (``at::native::should_fold``)."""
    b = autocast(b)
    x = autocast(x)
    flat = reshape(x, (product(x.shape[:-1]), x.shape[-1])) if len(x.shape) > 2 else x
    out = mm(flat, b)
    return _unsafe_view(out, (*x.shape[:-1], b.shape[1])) if len(x.shape) > 2 else out


@_holds_operands
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``torch.matmul`` of two 4-dimensional tensors: expand, reshape to 3 dimensions, ``bmm``."""
    b = autocast(b)
    a = autocast(a)
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    count = product(batch)
    a3 = reshape(expand(a, (*batch, *a.shape[-2:])), (count, *a.shape[-2:]))
    b3 = reshape(expand(b, (*batch, *b.shape[-2:])), (count, *b.shape[-2:]))
    return _unsafe_view(bmm(a3, b3), (*batch, a.shape[-2], b.shape[-1]))


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """``a.bmm(b)``: saves each factor if the other requires a gradient."""
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    shape = (a.shape[0], a.shape[1], b.shape[2])
    return record(
        "BmmBackward0",
        lambda: a.ledger.product(lambda: _batched_product(shape, a, b)),
        (a, b),
        saved,
        _bmm_backward,
    )


def _bmm_backward(call: Call) -> Grads:
    grad, (b, a) = call.grad, call.saved
    grad_a = grad_b = None
    if call.needs[1]:
        grad_b = _batched_product((grad.shape[0], a.shape[2], grad.shape[2]), a, grad)
    if call.needs[0]:
        grad_a = _batched_product((grad.shape[0], grad.shape[1], b.shape[1]), grad, b)
    return grad_a, grad_b


def _batched_product(shape: Shape, a: Tensor, b: Tensor) -> Tensor:
    a.ledger.multiply(*shape, a.shape[2])
    out = a.ledger.empty(shape, a.dtype)
    launch_cublas(a, b)
    if a.ledger.device == "cpu" and (copies := _packed_bytes(a) + _packed_bytes(b)):
        a.ledger.transient(copies)
    return out


def launch_cublas(*operands: Tensor) -> None:
    """What a GPU's product takes once its result is there: contiguous clones of operands whose last two dimensions
    are neither row- nor column-major (``prepare_matrix_for_cublas`` in ``cuBlasCommonArgs.h``,
    ``prepare_batch_matrix_for_cublas`` in ``Blas.cpp``), and in its thread's first product a workspace, whose
    place the log notes.
    """
    ledger = operands[0].ledger
    if ledger.device == "cpu":
        return
    clones = [ledger.empty(x.shape, x.dtype) for x in operands if not _row_or_column_major(x)]
    if ledger.events is not None:
        thread = "backward" if ledger.phase in ("backward", "recomputation") else "main"
        ledger.events.products.setdefault(thread, len(ledger.events.order))
    del clones


def _row_or_column_major(x: Tensor) -> bool:
    if x.strides is None:
        return True
    (rows, columns), (row, column) = x.shape[-2:], x.strides[-2:]
    return (column == 1 and sample(row) >= sample(columns)) or (row == 1 and sample(column) >= sample(rows))


def _packed_bytes(x: Tensor) -> Size:
    """Bytes of the contiguous copy that oneDNN's bfloat16 ``bmm`` takes of an operand [b, n, m] whose matrices are
    neither row- nor column-major (``mkldnn_matmul: is_mkldnn_optimized_format``; above 4096 multiplications).
    A processor with AVX512-FP16 does so with float16 too, which is left out: a plan names no processor.
    """
    if x.dtype != "bfloat16" or x.strides is None or x.strides == (x.shape[1] * x.shape[2], 1, x.shape[1]):
        return 0
    return x.nbytes


def conv1d(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv1d`` of x [B, c, T] by a weight [n, c / groups, 1]: saves both; takes contiguous copies of its operands
    while it runs. What oneDNN or cuDNN takes beside that depends on the algorithm it chooses, and has no rule.
    """

    def run() -> Tensor:
        copy = contiguous(x.alias())
        x.ledger.multiply(*shape, weight.shape[1])
        out = x.ledger.empty(shape, x.dtype)
        del copy
        return out

    shape = (x.shape[0], weight.shape[0], x.shape[2])
    return record("ConvolutionBackward0", run, (x, weight), (x, weight), _conv1d_backward)


def _conv1d_backward(call: Call) -> Grads:
    # thnn and oneDNN: contiguous copies of input and gradient first
    grad, (x, weight) = call.grad, call.saved
    copies = contiguous(x), contiguous(grad)
    for need in call.needs:
        if need:
            call.ledger.multiply(*grad.shape, weight.shape[1])
    grad_x = call.ledger.empty(x.shape, x.dtype) if call.needs[0] else None
    grad_weight = call.ledger.empty(weight.shape, weight.dtype) if call.needs[1] else None
    del copies
    return grad_x, grad_weight


def kron(a: Tensor, b: Tensor) -> Tensor:
    """``torch.kron`` of two matrices: views [m, 1, n, 1] and [1, p, 1, q], their product seen as [m p, n q]."""
    (m, n), (p, q) = a.shape, b.shape
    product = mul(_unsafe_view(a, (m, 1, n, 1)), _unsafe_view(b, (1, p, 1, q)))
    return _unsafe_view(product, (m * p, n * q))


def solve_right(a: Tensor, b: Tensor) -> Tensor:
    """``torch.linalg.solve(a, b, left=False)`` of [n, m, m]: saves ``a``, its factors and pivots, and the result."""
    ledger = a.ledger
    factors, pivots = ledger.empty(a.shape, a.dtype), ledger.empty(a.shape[:2], "int32")

    def solve() -> Tensor:
        out = ledger.empty(b.shape, b.dtype)
        info = ledger.empty(a.shape[:1], "int32")
        ledger.empty(pivots.shape, "bool")  # linalg_lu_solve looks for pivots out of range
        del info
        return out

    return record("LinalgSolveExBackward0", solve, (a, b), (a, factors, pivots, RESULT), _solve_right_backward)


def _solve_right_backward(call: Call) -> Grads:
    # linalg_solve_backward: B's gradient from the factors, A's as -X^T gB; both are computed
    grad = call.grad
    grad_b = call.ledger.empty(grad.shape, grad.dtype)
    call.ledger.empty(call.saved[2].shape, "bool")
    if not call.needs[0]:
        return None, grad_b
    product = call.ledger.empty(grad.shape, grad.dtype)
    return elementwise((product,), grad.dtype), grad_b


def block_diagonal(x: Tensor) -> Tensor:
    """``torch.block_diag(*torch.unbind(x))`` of [n, m, m]: saves nothing; backward stacks slices."""
    side = x.shape[0] * x.shape[1]
    return record(
        "BlockDiagBackward0", lambda: x.ledger.empty((side, side), x.dtype), (x,), (), _block_diagonal_backward, x.shape
    )


def _block_diagonal_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


@_holds_operands
def rotate_blocks(x: Tensor, blocks: Tensor) -> Tensor:
    """``torch.einsum("...rk,rkc->...rc", x, blocks)`` of x [B, S, r, k]: one ``bmm`` over the blocks.

    ``at::einsum``'s ``sumproduct_pair`` permutes the operands to [r, B S, k] and [r, k, c], which are
    views, and the product back; what follows sees blocks that are not neighbours.
    """
    blocks = autocast(blocks)
    x = autocast(x)
    batch, seq, count, size = x.shape
    left = reshape(permute(x, (2, 0, 1, 3)), (count, batch * seq, size))
    product = view(bmm(left, blocks), (count, batch, seq, size))
    return permute(product, (1, 2, 0, 3))


def autocast(x: Tensor) -> Tensor:
    """``cached_cast`` to the ledger's autocast dtype (floating tensors only)."""
    ledger = x.ledger
    dtype = ledger.autocast
    if dtype is None or x.dtype == dtype or x.dtype not in FLOATING:
        return x
    cacheable = x.requires_grad and x.node is None and not x.is_view and x.dtype == "float32"
    if not cacheable or ledger.inference_mode:
        return to(x, dtype)
    if id(x) not in ledger.autocast_cache:
        ledger.autocast_cache[id(x)] = ledger.autocast_casts.add(to(x, dtype))
    return ledger.autocast_cache[id(x)]


# ---- norms ---------------------------------------------------------------------------------


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.layer_norm(x, (n,), weight, bias)``: saves its input and the mean and reciprocal deviation of each row.

    CUDA keeps these in float32 (``layer_norm_kernel.cu: layer_norm_cuda``).
    """
    x, weight, bias = _widened(x), _widened(weight), _widened(bias)
    rows = (*x.shape[:-1], 1)
    ledger = x.ledger
    statistics = weight.dtype if ledger.device == "cpu" else "float32"
    mean, deviation = ledger.empty(rows, statistics), ledger.empty(rows, statistics)
    return record(
        "NativeLayerNormBackward0",
        lambda: ledger.empty(x.shape, x.dtype),
        (x, weight, bias),
        (x, mean, deviation, weight, bias),
        _layer_norm_backward,
    )


def _layer_norm_backward(call: Call) -> Grads:
    x, _, _, weight, bias = call.saved
    tensors = (x, weight, bias)
    grads = tuple(
        call.ledger.empty(t.shape, t.dtype) if need else None for t, need in zip(tensors, call.needs, strict=True)
    )
    if call.ledger.device == "cpu" and (call.needs[1] or call.needs[2]):
        call.ledger.transient(THREADS * 2 * weight.numel * ITEMSIZE[weight.dtype])  # each thread's share
    return grads


# ---- other operators of adapters -----------------------------------------------------------


def pad_last(x: Tensor, count: int) -> Tensor:
    """``F.pad(x, (0, count))``: a wider copy; the backward copies the part that was there."""
    shape = (*x.shape[:-1], x.shape[-1] + count)
    return record("ConstantPadNdBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (), _pad_backward, x.shape)


def _pad_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


def repeat_last(x: Tensor, count: int) -> Tensor:
    """``x.repeat(1, count)`` of [rows, n]: a copy; the backward sums over the repeats."""
    rows, n = x.shape
    return record(
        "RepeatBackward0",
        lambda: x.ledger.empty((rows, n * count), x.dtype),
        (x,),
        (),
        _repeat_last_backward,
        x.shape,
        count,
    )


def _repeat_last_backward(call: Call) -> Grads:
    (rows, n), count = call.args
    if count == 1:
        return (call.grad,)
    return (sum_dim(reshape(call.grad, (rows, count, n)), 1),)


def add_to_view_(a: Tensor, b: Tensor) -> Tensor:
    """``a += b`` where ``a`` is a view, as a linear layer's output is if there is a bias: autograd then
    writes the gradient into the base's (``CopySlices`` in ``torch/csrc/autograd/functions/tensor.cpp``).
    """
    base = record("CopySlices", lambda: _same(a), (a, b), (), _add_slices_backward)
    return record("AsStridedBackward0", lambda: _same(base), (base,), (), _as_strided_backward)


def _same(x: Tensor) -> Tensor:
    return Tensor(x.storage, x.shape, x.dtype, x.strides)


def _add_slices_backward(call: Call) -> Grads:
    grad = call.grad
    whole = call.ledger.empty(grad.shape, grad.dtype)
    part = call.ledger.empty(grad.shape, grad.dtype)
    return whole if call.needs[0] else None, part if call.needs[1] else None


def _as_strided_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


def add_sparse_(dense: Tensor, values: Tensor) -> Tensor:
    """``dense += torch.sparse_coo_tensor(indices, values, dense.shape)`` with int32 indices [2, n].

    The sparse tensor holds the indices as int64 and saves itself; a dense tensor of another dtype is
    added to as a copy in the common one (``add_dense_sparse_worker_cpu``).
    """
    ledger = dense.ledger
    indices = ledger.empty((2, values.numel), "int64")
    sparse = record(
        "SparseCooTensorWithDimsAndTensorsBackward0",
        lambda: Tensor(values.storage, dense.shape, values.dtype),
        (values,),
        (indices, values),
        _sparse_backward,
    )
    if ledger.device != "cpu":
        _add_entries(dense, values)
    elif values.dtype != dense.dtype:
        ledger.transient(dense.numel * ITEMSIZE[values.dtype])
    return record("AddBackward0", lambda: _same(dense), (dense, sparse), (), _pass)


def _add_entries(dense: Tensor, values: Tensor) -> None:
    """``SparseCUDATensorMath.cu: add_out_dense_sparse_cuda``: the result and the dense tensor in the common dtype,
    if it is another one, and the indices flattened.
    """
    ledger, count = dense.ledger, values.numel
    wide = [ledger.empty(dense.shape, values.dtype) for _ in range(2) if values.dtype != dense.dtype]
    scaled = ledger.empty((2, count), "int64")
    flat = ledger.empty((count,), "int64")
    del wide, scaled, flat


def _sparse_backward(call: Call) -> Grads:
    # grad.sparse_mask(result): the gradient's entries, times a mask of ones that takes copies of the indices
    indices, values = call.saved
    entries = call.ledger.empty(values.shape, values.dtype)
    copied = call.ledger.empty(indices.shape, indices.dtype)
    out = call.ledger.empty(values.shape, values.dtype)
    del entries, copied
    return (out,)


def ifft2(x: Tensor) -> Tensor:
    """``torch.fft.ifft2(x)`` of a real tensor: transforms a complex copy, saves nothing."""

    def make() -> Tensor:
        copy = x.ledger.empty(x.shape, "complex64")
        out = x.ledger.empty(x.shape, "complex64")
        del copy
        return out

    return record("FftC2CBackward0", make, (x,), (), _ifft2_backward)


def _ifft2_backward(call: Call) -> Grads:
    return (real(call.ledger.empty(call.grad.shape, "complex64")),)


def real(x: Tensor) -> Tensor:
    """``x.real`` of a complex64 tensor: a view with every other float32."""
    strides = tuple(2 * stride for stride in strides_of(x))

    def make() -> Tensor:
        return Tensor(x.storage, x.shape, "float32", strides, is_view=True)

    return record("SelectBackward0", make, (x,), (), _real_backward)


def _real_backward(call: Call) -> Grads:
    # select_backward of view_as_real: zeros, the gradient copied in
    return (call.ledger.empty(call.grad.shape, "complex64"),)


# ---- embedding, attention, loss ------------------------------------------------------------


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """``F.embedding(ids, weight)``: saves the ids if the weight requires a gradient (dense backward)."""
    shape = (*ids.shape, weight.shape[1])

    def run() -> Tensor:
        flat = reshape(ids, (ids.numel,))  # noqa: F841 (a copy of ids that were expanded)
        return weight.ledger.empty(shape, weight.dtype)

    return record(
        "EmbeddingBackward0",
        run,
        (weight,),
        (ids,),
        _embedding_backward,
        weight.shape,
    )


def _embedding_backward(call: Call) -> Grads:
    grad, ids = contiguous(call.grad), contiguous(call.saved[0])  # held while the kernel runs
    if call.ledger.device == "cuda" and isinstance(ids.numel, int) and ids.numel > ATOMIC_IDS:
        return (_sorted_embedding_backward(call.ledger, call.args[0], grad.dtype, ids.numel),)
    return (call.ledger.empty(call.args[0], grad.dtype),)


ATOMIC_IDS = 3072
"""Up to so many ids CUDA adds the rows up where they belong (``Embedding.cu: embedding_dense_backward_cuda``)."""
SEGMENT = 10
"""Rows of one id that a CUDA thread sums (``EmbeddingBackwardKernel.cu: NROWS_PER_THREAD``)."""


def _sorted_embedding_backward(ledger: Ledger, shape: Shape, dtype: str, count: int) -> Tensor:
    """The gradient [vocabulary, hidden] of more ids: sorts them, sums each id's rows in float32, ten at a time.

    The tile states of cub's scans (16 bytes per some thousand ids) are left out.
    """
    vocabulary, hidden = shape

    def numbers(length: int) -> Tensor:
        return ledger.empty((length,), "int64")

    sorted_ids, origins, positions = numbers(count), numbers(count), numbers(count)
    ledger.transient(2 * 8 * count)  # DeviceRadixSort::SortPairs: keys and values once more
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


def index_copy(x: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """``x.index_copy(0, index, source)``: a copy of ``x`` with some rows replaced; saves the rows and the index."""
    _check_promotion((x, source))
    return record(
        "IndexCopyBackward0",
        lambda: x.ledger.empty(x.shape, x.dtype),
        (x, source),
        (index, source if source.requires_grad else None),
        _index_copy_backward,
        source.shape,
    )


def index_copy_last_(x: Tensor, index: Tensor, source: Tensor) -> Tensor:
    """``x.index_copy_(-1, index, source)`` for an ``x`` without gradient: saves the source, for its shape, and the
    index; gives ``x`` itself.
    """
    return record("IndexCopyBackward0", x.alias, (x, source), (index, source), _index_copy_backward, source.shape)


def _index_copy_backward(call: Call) -> Grads:
    # grad.index_fill(0, index, 0), grad.index_select(0, index)
    grad = call.grad
    return (
        call.ledger.empty(grad.shape, grad.dtype) if call.needs[0] else None,
        call.ledger.empty(call.args[0], grad.dtype) if call.needs[1] else None,
    )


def select_mask(mask: Tensor, dtype: str) -> Tensor:
    """``torch.where(mask, 0, -inf)``: an additive mask in ``dtype``, expanded dimensions made real."""
    return mask.ledger.empty(mask.shape, dtype)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``F.cross_entropy(logits, target)`` with mean reduction: log-softmax, then ``nll_loss``."""
    log_probabilities = log_softmax(logits)
    return nll_loss(log_probabilities, target)


def cross_entropy_each(logits: Tensor, target: Tensor) -> Tensor:
    """``F.cross_entropy(logits, target, reduction="none")`` of [N, V]."""
    x = log_softmax(logits)
    total_weight = x.ledger.empty((), x.dtype)
    return record(
        "NllLossBackward0",
        lambda: x.ledger.empty(target.shape, x.dtype),
        (x,),
        (x, target, total_weight),
        _nll_backward,
    )


def nll_loss(x: Tensor, target: Tensor) -> Tensor:
    """``F.nll_loss(x, target)``: saves input, target and the total weight (one number)."""
    x = _widened(x)
    total_weight = x.ledger.empty((), x.dtype)
    return record(
        "NllLossBackward0", lambda: x.ledger.empty((), x.dtype), (x,), (x, target, total_weight), _nll_backward
    )


def _nll_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.saved[0].shape, call.grad.dtype),)


GRADIENTS: dict[str, Callable[[Call], Grads]] = {"embedding": _embedding_backward, "softmax": _softmax_backward}
"""Backward rules of kernels that take memory inside, for a step without rules (``estimator/trace_cuda.py``)."""
