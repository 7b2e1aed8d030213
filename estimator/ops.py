"""Operator rules: what PyTorch's operators allocate, save for backward, and allocate in backward.

Each function is one ATen operator (or a documented composite) on ``ledger.Tensor``. What is saved,
and under which condition on ``requires_grad``, follows ``tools/autograd/derivatives.yaml``; the
backward formulas follow ``torch/csrc/autograd/FunctionsManual.cpp``. Results are CPU kernels'
unless a rule says otherwise. ``tests/test_ops.py`` holds each rule against the real operator.
"""

from __future__ import annotations

from .ledger import FLOATING, RESULT, Call, Ledger, Shape, Tensor, record
from .symbols import Size, product, sample

_PRECISION = {"bool": 0, "uint8": 1, "int32": 2, "int64": 3, "float16": 4, "bfloat16": 4, "float32": 5, "float64": 6}
Grads = tuple[Tensor | None, ...]


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
    return x.ledger.empty(shape, x.dtype)


def narrow_last(x: Tensor, size: Size) -> Tensor:
    """A slice of the last dimension: a view."""
    shape = (*x.shape[:-1], size)
    return record("SliceBackward0", lambda: view_of(x, shape, strides_of(x)), (x,), (), _slice_backward, x.shape)


def _slice_backward(call: Call) -> Grads:
    # slice_backward: zeros of the input's shape, the gradient copied in.
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


# ---- elementwise -------------------------------------------------------------------------


def _promote(a: Tensor, b: Tensor) -> str:
    if _PRECISION[a.dtype] == _PRECISION[b.dtype] and a.dtype != b.dtype:
        return "float32"
    return a.dtype if _PRECISION[a.dtype] >= _PRECISION[b.dtype] else b.dtype


def elementwise(inputs: tuple[Tensor, ...], dtype: str) -> Tensor:
    """The result of an elementwise kernel. On a CPU ``TensorIterator`` first copies operands of
    another dtype than the common one, and lets go of the copies when the kernel is done.
    """
    casts = [x.ledger.empty(x.shape, dtype, x.strides) for x in inputs if x.dtype != dtype]  # noqa: F841
    shape = inputs[0].shape if len(inputs) == 1 else broadcast(*(x.shape for x in inputs))
    return inputs[0].ledger.empty(shape, dtype, elementwise_strides(shape, inputs))


def _binary(a: Tensor, b: Tensor) -> Tensor:
    return elementwise((a, b), _promote(a, b))


def wrapped_number(ledger: Ledger, dtype: str) -> tuple[Tensor, Tensor]:
    """A Python scalar as an operand: a 0-dim float64 tensor (``c10::scalar_to_tensor``) and, while
    the operator runs, its cast to the other operand's dtype.
    """
    return ledger.empty((), "float64"), ledger.empty((), dtype)


def _with_number(x: Tensor, dtype: str) -> Tensor:
    operand = wrapped_number(x.ledger, dtype)
    out = elementwise((x,), dtype)
    del operand
    return out


def add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``: saves nothing."""
    return record("AddBackward0", lambda: _binary(a, b), (a, b), (), _pass)


def add_scalar(x: Tensor) -> Tensor:
    """``x + number``: saves nothing."""
    return record("AddBackward0", lambda: _with_number(x, x.dtype), (x,), (), _pass)


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
    number, cast = wrapped_number(x.ledger, x.dtype)
    out = record("MulBackward0", lambda: elementwise((x,), x.dtype), (x,), (), _mul_scalar_backward)
    del cast
    if out.node is not None:
        out.node.keep(number)
    return out


def _mul_scalar_backward(call: Call) -> Grads:
    cast = call.ledger.empty((), call.grad.dtype)
    out = elementwise((call.grad,), call.grad.dtype)
    del cast
    return (out,)


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


def _to_backward(call: Call) -> Grads:
    return (to(call.grad, call.args[0]),)


def cat_last(parts: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """``torch.cat(parts, dim=-1)``: contiguous; the backward hands out views of the gradient."""
    ledger, dtype = parts[0].ledger, parts[0].dtype
    return record(
        "CatBackward0", lambda: ledger.empty(shape, dtype), parts, (), _cat_backward, tuple(p.shape for p in parts)
    )


def _cat_backward(call: Call) -> Grads:
    return tuple(
        view_of(call.grad, shape, strides_of(call.grad)) if need else None
        for shape, need in zip(call.args[0], call.needs, strict=True)
    )


def cat_growing(x: Tensor) -> Tensor:
    """``torch.cat([empty, x], dim=-2)``, a cache's first update: a contiguous copy."""
    return record("CatBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (), _cat_backward, (x.shape,))


def pow2(x: Tensor) -> Tensor:
    """``x.pow(2)``: saves ``x``."""
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
    return record("MeanBackward1", lambda: x.ledger.empty(shape, x.dtype), (x,), (), _mean_backward, x.shape)


def _mean_backward(call: Call) -> Grads:
    operand = wrapped_number(call.ledger, call.grad.dtype)
    out = call.ledger.empty(call.args[0], call.grad.dtype)
    del operand
    return (out,)


def rsqrt(x: Tensor) -> Tensor:
    """``torch.rsqrt(x)``: saves its result."""
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
    """``F.softmax(x, dim=-1, dtype=dtype)``: converts, then saves its result."""
    return _softmax(to(x, dtype), "SoftmaxBackward0")


def log_softmax(x: Tensor) -> Tensor:
    """``F.log_softmax(x, dim=1)``: saves its result."""
    return _softmax(x, "LogSoftmaxBackward0")


def _softmax(x: Tensor, name: str) -> Tensor:
    return record(name, lambda: x.ledger.empty(x.shape, x.dtype), (x,), (RESULT,), _softmax_backward)


def _softmax_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


def dropout(x: Tensor, p: float) -> Tensor:
    """``F.dropout(x, p)`` in train mode on a CPU (``_dropout_impl``): a noise tensor of ``x``'s dtype
    is drawn, scaled in place and multiplied; the product saves it if ``x`` requires a gradient.
    """
    if p == 0.0 or not x.ledger.training:
        return x
    ledger = x.ledger
    noise = ledger.empty(x.shape, x.dtype, x.strides)
    wrapped_number(ledger, x.dtype)  # noise.div_(1 - p)
    return mul(x, noise)


# ---- matrix products ---------------------------------------------------------------------


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
    saved = (weight if flat.requires_grad else None, flat if weight.requires_grad else None)
    name = "MmBackward0" if bias is None else "AddmmBackward0"
    out = record(name, lambda: x.ledger.empty(shape2, x.dtype), (bias, flat, weight), saved, _linear_backward)
    return _unsafe_view(out, (*x.shape[:-1], out_features)) if folded else out


def _linear_backward(call: Call) -> Grads:
    # MmBackward computes the second factor's gradient first, AddmmBackward the first one's. The
    # bias's gradient is the incoming one, which the engine then sums to the bias's shape.
    grad, needs_bias = call.grad, call.needs[0]
    grad_flat = _flat_gradient(call) if needs_bias else None
    grad_weight = None
    if call.needs[2]:
        grad_weight = call.ledger.empty((grad.shape[1], call.saved[1].shape[1]), grad.dtype)
        grad_weight.is_view = True  # t() of the product's gradient: never added to in place
    if not needs_bias:
        grad_flat = _flat_gradient(call)
    return (grad if needs_bias else None), grad_flat, grad_weight


def _flat_gradient(call: Call) -> Tensor | None:
    if not call.needs[1]:
        return None
    return call.ledger.empty((call.grad.shape[0], call.saved[0].shape[1]), call.grad.dtype)


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
    return record("BmmBackward0", lambda: a.ledger.empty(shape, a.dtype), (a, b), saved, _bmm_backward)


def _bmm_backward(call: Call) -> Grads:
    grad = call.grad
    grad_a = grad_b = None
    if call.needs[1]:
        grad_b = call.ledger.empty((grad.shape[0], call.saved[1].shape[2], grad.shape[2]), grad.dtype)
    if call.needs[0]:
        grad_a = call.ledger.empty((grad.shape[0], grad.shape[1], call.saved[0].shape[1]), grad.dtype)
    return grad_a, grad_b


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


# ---- embedding, attention, loss ------------------------------------------------------------


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """``F.embedding(ids, weight)``: saves the ids if the weight requires a gradient (dense backward)."""
    shape = (*ids.shape, weight.shape[1])
    return record(
        "EmbeddingBackward0",
        lambda: weight.ledger.empty(shape, weight.dtype),
        (weight,),
        (ids,),
        _embedding_backward,
        weight.shape,
    )


def _embedding_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.args[0], call.grad.dtype),)


def select_mask(mask: Tensor, dtype: str) -> Tensor:
    """``torch.where(mask, 0, -inf)``: an additive mask in ``dtype``, expanded dimensions made real."""
    return mask.ledger.empty(mask.shape, dtype)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``F.cross_entropy(logits, target)`` with mean reduction: log-softmax, then ``nll_loss``."""
    log_probabilities = log_softmax(logits)
    return nll_loss(log_probabilities, target)


def nll_loss(x: Tensor, target: Tensor) -> Tensor:
    """``F.nll_loss(x, target)``: saves input, target and the total weight (one number)."""
    total_weight = x.ledger.empty((), x.dtype)
    return record(
        "NllLossBackward0", lambda: x.ledger.empty((), x.dtype), (x,), (x, target, total_weight), _nll_backward
    )


def _nll_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.saved[0].shape, call.grad.dtype),)
