"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..ledger import ITEMSIZE, RESULT, Backward, Call, Ledger, Tensor, record
from .casts import promote, widened
from .layout import Grads, broadcast, elementwise_strides, empty_like, strides_of, view_of
from .views import pass_on


class Scalar:
    """A Python number as an operand. Memory does not depend on its value, so it has none."""


SCALAR = Scalar()
Operand = Tensor | Scalar


def _casts(operands: tuple[Tensor, ...], dtype: str) -> Sequence[Tensor]:
    """``TensorIterator``'s copies of operands without the common dtype, which live until the kernel is done."""
    if operands[0].ledger.device.converts_on_load:
        return ()
    return [x.ledger.empty(x.shape, dtype, x.strides) for x in operands if x.dtype != dtype]


def elementwise(inputs: tuple[Tensor, ...], dtype: str) -> Tensor:
    """Allocate the result of an elementwise kernel."""
    casts = _casts(inputs, dtype)  # noqa: F841
    shape = inputs[0].shape if len(inputs) == 1 else broadcast(*(x.shape for x in inputs))
    return inputs[0].ledger.empty(shape, dtype, elementwise_strides(shape, inputs))


def binary(a: Tensor, b: Tensor) -> Tensor:
    """Allocate the result of a kernel of two operands, in their common dtype."""
    return elementwise((a, b), promote(a, b))


def wrapped_number(ledger: Ledger, dtype: str) -> tuple[Tensor, Tensor]:
    """A Python number as an operand: a 0-dim float64 tensor (``c10::scalar_to_tensor``) and its cast to ``dtype``.

    Both are on the host, so with a GPU they take zero bytes. The cast lives while the operator runs.
    """
    if ledger.device.has_own_memory:
        return ledger.empty((0,), "float64"), ledger.empty((0,), dtype)
    return ledger.empty((), "float64"), ledger.empty((), dtype)


def with_number(x: Tensor, dtype: str) -> Tensor:
    """Allocate the result of a kernel of ``x`` and a number."""
    operand = wrapped_number(x.ledger, dtype)
    out = elementwise((x,), dtype)
    del operand
    return out


def add(a: Tensor, b: Operand) -> Tensor:
    """``a + b``: saves nothing."""
    if isinstance(b, Scalar):
        return record("AddBackward0", lambda: with_number(a, a.dtype), (a,), (), pass_on)
    return record("AddBackward0", lambda: binary(a, b), (a, b), (), pass_on)


def add_(a: Tensor, b: Tensor, scaled: bool = False) -> Tensor:
    """``a.add_(b)``: the result has ``a``'s storage. ``scaled``: with an ``alpha`` other than one.

    A CPU kernel that needs another dtype than ``a``'s copies the result as well as the operands.
    """

    def make() -> Tensor:
        _casts((a, a, b), promote(a, b))
        return Tensor(a.storage, a.shape, a.dtype, a.strides, is_view=a.is_view)

    return record("AddBackward0", make, (a, b), (), _add_scaled_backward, scaled)


def _add_scaled_backward(call: Call) -> Grads:
    grad, scaled = call.grad, call.args[0]
    other = None if not call.needs[1] else with_number(grad, grad.dtype) if scaled else grad
    return (grad if call.needs[0] else None), other


def add_to_view_(a: Tensor, b: Tensor) -> Tensor:
    """``a += b`` where ``a`` is a view, as the output of a linear layer with a bias is.

    Autograd copies the gradient into one of the view's base (``autograd/functions/tensor.cpp: CopySlices``).
    """

    def make() -> Tensor:
        _casts((b,), a.dtype)
        return a.alias()

    base = record("CopySlices", make, (a, b), (), _add_slices_backward)
    return record("AsStridedBackward0", base.alias, (base,), (), _copied_backward)


def _add_slices_backward(call: Call) -> Grads:
    whole, part = (call.ledger.empty(call.grad.shape, call.grad.dtype) for _ in range(2))
    return whole if call.needs[0] else None, part if call.needs[1] else None


def _copied_backward(call: Call) -> Grads:
    # as_strided_backward copies the gradient into zeros of the storage's shape
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)


def add_sparse_(dense: Tensor, values: Tensor) -> Tensor:
    """``dense += torch.sparse_coo_tensor(indices, values, dense.shape)`` with int32 indices [2, n].

    Saves the sparse tensor, which has int64 indices. If ``dense`` has not the common dtype, the sum is made in a copy
    that has (``add_dense_sparse_worker_cpu``).
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
    if ledger.device.flattens_indices:
        _add_entries(dense, values)
    elif values.dtype != dense.dtype:
        ledger.transient(dense.numel * ITEMSIZE[values.dtype])
    return record("AddBackward0", dense.alias, (dense, sparse), (), pass_on)


def _add_entries(dense: Tensor, values: Tensor) -> None:
    """The temporaries of ``SparseCUDATensorMath.cu: add_out_dense_sparse_cuda``.

    They are the flat indices and, if ``dense`` has not the common dtype, copies of it and of the result that have.
    """
    ledger, count = dense.ledger, values.numel
    wide = [ledger.empty(dense.shape, values.dtype) for _ in range(2) if values.dtype != dense.dtype]
    scaled = ledger.empty((2, count), "int64")
    flat = ledger.empty((count,), "int64")
    del wide, scaled, flat


def _sparse_backward(call: Call) -> Grads:
    # grad.sparse_mask(result): the gradient's entries times a mask of ones, which has copies of the indices
    indices, values = call.saved
    entries = call.ledger.empty(values.shape, values.dtype)
    copied = call.ledger.empty(indices.shape, indices.dtype)
    out = call.ledger.empty(values.shape, values.dtype)
    del entries, copied
    return (out,)


def without_gradient(operands: tuple[Tensor, ...], dtype: str) -> Tensor:
    """Allocate the result of an operator that has no derivative: a comparison, a logical or a bitwise one."""
    common = operands[0].dtype if len(operands) == 1 else promote(*operands)
    casts = _casts(operands, common)  # noqa: F841
    shape = broadcast(*(x.shape for x in operands))
    return operands[0].ledger.empty(shape, dtype, elementwise_strides(shape, operands))


def sub(a: Tensor, b: Operand) -> Tensor:
    """``a - b``: saves nothing."""
    if isinstance(b, Scalar):
        return record("SubBackward0", lambda: with_number(a, a.dtype), (a,), (), pass_on)
    return record("SubBackward0", lambda: binary(a, b), (a, b), (), _sub_backward)


def _sub_backward(call: Call) -> Grads:
    grad = call.grad
    return (
        grad if call.needs[0] else None,
        elementwise((grad,), grad.dtype) if call.needs[1] else None,
    )


def mul(a: Tensor, b: Operand) -> Tensor:
    """``a * b``: saves each factor if the other requires a gradient.

    A number becomes a float64 tensor (8 B). The graph holds it, and saved-tensor hooks do not see it.
    """
    if isinstance(b, Scalar):
        return _scaled(a, "MulBackward0")
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    return record("MulBackward0", lambda: binary(a, b), (a, b), saved, _mul_backward)


def _mul_backward(call: Call) -> Grads:
    grad_b = binary(call.grad, call.saved[1]) if call.needs[1] else None
    grad_a = binary(call.grad, call.saved[0]) if call.needs[0] else None
    return grad_a, grad_b


def _scaled(x: Tensor, name: str) -> Tensor:
    number, cast = wrapped_number(x.ledger, x.dtype)
    out = record(name, lambda: elementwise((x,), x.dtype), (x,), (), _scaled_backward)
    del cast
    if out.node is not None:
        out.node.hold(number)
    return out


def _scaled_backward(call: Call) -> Grads:
    cast = wrapped_number(call.ledger, call.grad.dtype)[1]
    out = elementwise((call.grad,), call.grad.dtype)
    del cast
    return (out,)


def mul_view_(x: Tensor, factor: Tensor) -> Tensor:
    """``x *= factor``, where ``x`` is a view and ``factor`` needs no gradient: saves the factor.

    Autograd records the product on the view's base (``CopySlices``) and makes the view again from it.
    """

    def product_in_place() -> Tensor:
        if not x.ledger.device.converts_on_load and promote(x, factor) != x.dtype:
            binary(x, factor)  # computed in the wider dtype, then copied back
        return view_of(x, x.shape, strides_of(x))

    base = record("CopySlices", product_in_place, (x,), (factor if x.requires_grad else None,), _copy_slices_backward)
    return record("AsStridedBackward0", lambda: view_of(base, x.shape, strides_of(x)), (base,), (), _copied_backward)


def _copy_slices_backward(call: Call) -> Grads:
    # CopySlices::apply (torch/csrc/autograd/functions/tensor.cpp) runs the product's backward on a clone of the slice
    grad, factor = call.grad, call.saved[0]
    result = call.ledger.empty(grad.shape, grad.dtype)
    clone = call.ledger.empty(grad.shape, grad.dtype)
    product = binary(clone, factor)
    del clone, product
    return (result,)


def div(a: Tensor, b: Operand) -> Tensor:
    """``a / b``: saves the divisor, and the dividend if the divisor requires a gradient. A number: see ``mul``."""
    if isinstance(b, Scalar):
        return _scaled(a, "DivBackward0")
    saved = (a if b.requires_grad else None, b)
    return record("DivBackward0", lambda: binary(a, b), (a, b), saved, _div_backward)


def _div_backward(call: Call) -> Grads:
    a, b = call.saved
    grad_b = _div_other_backward(call.grad, a, b) if call.needs[1] else None
    grad_a = binary(call.grad, b) if call.needs[0] else None
    return grad_a, grad_b


def _div_other_backward(grad: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # div_tensor_other_backward: -grad * ((self / other) / other); its temporaries live until it returns
    quotient = binary(a, b)
    twice = binary(quotient, b)
    negative = elementwise((grad,), grad.dtype)
    return binary(negative, twice)


def pow(x: Tensor, exponent: Scalar) -> Tensor:
    """``x.pow(exponent)``: saves ``x``."""
    return _pow(x)


def _pow_backward(call: Call) -> Grads:
    # pow_backward: grad * (exponent * self.pow(exponent - 1))
    x = call.saved[0]
    power = elementwise((x,), x.dtype)
    scaled = with_number(power, x.dtype)
    return (elementwise((call.grad, scaled), x.dtype),)


def _sqrt_backward(call: Call) -> Grads:
    # grad / (2 * result)
    twice = with_number(call.saved[0], call.grad.dtype)
    return (binary(call.grad, twice),)


def _rsqrt_backward(call: Call) -> Grads:
    # -0.5 * grad * result.pow(3)
    result = call.saved[0]
    cube = elementwise((result,), result.dtype)
    scaled = with_number(call.grad, result.dtype)
    return (elementwise((scaled, cube), result.dtype),)


def _clamp_backward(call: Call) -> Grads:
    # where(self >= min, grad, 0)
    grad, x = call.grad, call.saved[0]
    mask = call.ledger.empty(x.shape, "bool", elementwise_strides(x.shape, (x,)))
    out = call.ledger.empty(x.shape, grad.dtype, elementwise_strides(x.shape, (mask, grad)))
    del mask
    return (out,)


def _cos_backward(call: Call) -> Grads:
    # grad * -self.sin()
    sine = elementwise((call.saved[0],), call.grad.dtype)
    negative = elementwise((sine,), call.grad.dtype)
    return (elementwise((call.grad, negative), call.grad.dtype),)


def _sin_backward(call: Call) -> Grads:
    # grad * self.cos()
    cosine = elementwise((call.saved[0],), call.grad.dtype)
    return (elementwise((call.grad, cosine), call.grad.dtype),)


def _one_kernel_backward(call: Call) -> Grads:
    return (elementwise((call.grad, call.saved[0]), call.grad.dtype),)


def _relu_backward(call: Call) -> Grads:
    # threshold_backward(grad, result): the kernel's first operand, which decides the layout, is the result
    return (elementwise((call.saved[0], call.grad), call.grad.dtype),)


def _negative_backward(call: Call) -> Grads:
    return (elementwise((call.grad,), call.grad.dtype),)


def _unary(
    node: str, saves: Literal["input", "result", "nothing"], backward: Backward, widens: bool = False
) -> Callable[[Tensor], Tensor]:
    """The rule of an operator with one operand. ``widens``: a GPU's autocast runs it in float32."""

    def operator(x: Tensor) -> Tensor:
        x = widened(x) if widens else x
        saved = (x,) if saves == "input" else (RESULT,) if saves == "result" else ()
        return record(node, lambda: elementwise((x,), x.dtype), (x,), saved, backward)

    return operator


neg = _unary("NegBackward0", "nothing", _negative_backward)
exp = _unary("ExpBackward0", "result", _one_kernel_backward, widens=True)
sqrt = _unary("SqrtBackward0", "result", _sqrt_backward)
rsqrt = _unary("RsqrtBackward0", "result", _rsqrt_backward, widens=True)
cos = _unary("CosBackward0", "input", _cos_backward)
sin = _unary("SinBackward0", "input", _sin_backward)
clamp = _unary("ClampBackward1", "input", _clamp_backward)
relu = _unary("ReluBackward0", "result", _relu_backward)
gelu = _unary("GeluBackward0", "input", _one_kernel_backward)
silu = _unary("SiluBackward0", "input", _one_kernel_backward)
tanh = _unary("TanhBackward0", "result", _one_kernel_backward)
sigmoid = _unary("SigmoidBackward0", "result", _one_kernel_backward)
_pow = _unary("PowBackward0", "input", _pow_backward, widens=True)


def dropout(x: Tensor, p: float) -> Tensor:
    """``F.dropout(x, p)``: nothing outside of train mode.

    On a CPU (``_dropout_impl``) a noise tensor of ``x``'s dtype is drawn, scaled in place and multiplied by ``x``. The
    product saves the noise if ``x`` requires a gradient.
    """
    if p == 0.0 or not x.ledger.training:
        return x
    ledger = x.ledger
    if ledger.device.fuses_dropout:
        return native_dropout(x)
    noise = empty_like(x)
    wrapped_number(ledger, x.dtype)  # noise.div_(1 - p)
    return mul(x, noise)


def native_dropout(x: Tensor) -> Tensor:
    """``at::native_dropout`` (CUDA): saves a mask of one byte per element."""
    mask = x.ledger.empty(x.shape, "bool", x.strides)
    return record("NativeDropoutBackward0", lambda: empty_like(x), (x,), (mask,), _negative_backward)
