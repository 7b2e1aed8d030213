"""Operators that work element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from ..errors import InputError
from ..ledger import FLOATING, ITEMSIZE, RESULT, Backward, Beside, Call, Ledger, Shape, Tensor, record
from ..ledger.sizes import Poly
from .casts import promote, to, widened
from .layout import Grads, broadcast, elementwise_strides, empty_like, strides_of
from .table import FACTORS, PRODUCT, Kept, Result, first, operator, recorded, saves
from .views import contiguous, contiguous_backward, pass_on

Operand = Tensor | complex
"""A tensor or a Python number. Memory depends on the kind of a number, not on its value."""
SCALAR = 0.5
"""Any floating number."""
INTEGER = 2
"""Any integer."""


def promote_number(dtype: str, number: Any) -> str:
    """The common dtype of a tensor and a number, which is wider only if the number is of another kind."""
    if not isinstance(number, (int, Poly)) and dtype not in FLOATING and not dtype.startswith("complex"):
        return "float32"
    return "int64" if dtype == "bool" and not isinstance(number, bool) else dtype


def _result_type(a: Operand, b: Operand) -> str:
    """The common dtype of two operands, one of which is a tensor."""
    if isinstance(a, Tensor):
        return promote(a, b) if isinstance(b, Tensor) else promote_number(a.dtype, b)
    assert isinstance(b, Tensor)
    return promote_number(b.dtype, a)


def casts_for(operands: tuple[Tensor, ...], dtype: str) -> Sequence[Tensor]:
    """``TensorIterator``'s copies of operands without the common dtype, which live until the kernel is done."""
    if operands[0].ledger.device.converts_on_load:
        return ()
    return [x.ledger.empty(x.shape, dtype, x.strides) for x in operands if x.dtype != dtype]


def elementwise(inputs: tuple[Tensor, ...], dtype: str) -> Tensor:
    """Allocate the result of an elementwise kernel."""
    casts = casts_for(inputs, dtype)  # noqa: F841
    shape = inputs[0].shape if len(inputs) == 1 else broadcast(*(x.shape for x in inputs))
    return inputs[0].ledger.empty(shape, dtype, elementwise_strides(shape, inputs))


def binary(a: Tensor, b: Tensor) -> Tensor:
    """Allocate the result of a kernel of two operands, in their common dtype."""
    return elementwise((a, b), promote(a, b))


def wrapped_number(ledger: Ledger, dtype: str) -> tuple[Tensor, Tensor]:
    """A Python number as an operand: a 0-dim float64 tensor (``c10::scalar_to_tensor``) and its cast to ``dtype``.

    An integer becomes an int64 tensor, of the same bytes. Both are on the host, so with a GPU they take zero bytes. The
    cast lives while the operator runs.
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


def _tensor_first(a: Any, b: Any) -> tuple[Any, Any]:
    return (a, b) if isinstance(a, Tensor) else (b, a)


def scales(alpha: Any) -> bool:
    """Whether ``alpha`` multiplies: of floating numbers only zero is known, so 1.0 may stand for another one."""
    return not (isinstance(alpha, int) and alpha == 1)


@operator(
    "add", same=("__add__", "__radd__"),
    args=lambda out, a, other, *, alpha=1: (*_tensor_first(a, other), scales(alpha)),
)  # fmt: skip
def add(a: Tensor, b: Operand, scaled: bool = False) -> Tensor:
    """``a + b``: saves nothing. ``scaled``: with an ``alpha`` other than one."""
    if not isinstance(b, Tensor):
        return record("AddBackward0", lambda: with_number(a, promote_number(a.dtype, b)), (a,), (), pass_on)
    return record("AddBackward0", lambda: binary(a, b), (a, b), (), add_scaled_backward, scaled)


def add_scaled_backward(call: Call) -> Grads:
    """The backward of ``add``, with an ``alpha`` of one or another one (``Call.args``)."""
    grad, scaled = call.grad, call.args[0]
    other = None if not call.needs[1] else with_number(grad, grad.dtype) if scaled else grad
    return (grad if call.needs[0] else None), other


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


def chosen(condition: Tensor, *choices: Tensor) -> Tensor:
    """Allocate the result of ``where``'s kernel, whose choices have one dtype already."""
    shape = broadcast(condition.shape, *(x.shape for x in choices))
    return condition.ledger.empty(shape, choices[0].dtype, elementwise_strides(shape, (condition, *choices)))


def without_gradient(operands: tuple[Tensor, ...], dtype: str, number: Any = None) -> Tensor:
    """Allocate the result of an operator that has no derivative: a comparison, a logical or a bitwise one.

    ``number`` is the other operand of a single tensor.
    """
    common = operands[0].dtype if len(operands) == 1 else promote(*operands)
    if number is not None:
        common = promote_number(common, number)
    casts = casts_for(operands, common)  # noqa: F841
    shape = broadcast(*(x.shape for x in operands))
    return operands[0].ledger.empty(shape, dtype, elementwise_strides(shape, operands))


@recorded("eq", same=("__eq__",))
@recorded("ne", same=("__ne__", "not_equal"))
@recorded("lt", same=("__lt__", "less"))
@recorded("le", same=("__le__", "less_equal"))
@recorded("gt", same=("__gt__", "greater"))
@recorded("ge", same=("__ge__", "greater_equal"))
@recorded("bitwise_and", same=("__and__", "__rand__"))
@recorded("bitwise_or", same=("__or__", "__ror__"))
@recorded("bitwise_xor", same=("__xor__", "__rxor__"))
@recorded("bitwise_not", same=("__invert__",))
@recorded("bitwise_left_shift", same=("__lshift__",))
@recorded("bitwise_right_shift", same=("__rshift__",))
@recorded("floor_divide", same=("__floordiv__",))
@recorded(
    "logical_and", "logical_or", "logical_not", "logical_xor", "isnan", "isin"
)  # fmt: skip
def _without_gradient(out: Result, *args: Any, **named: Any) -> Tensor:
    operands = (*args, *(named[name] for name in ("other", "elements", "test_elements") if name in named))
    tensors = tuple(x for x in operands if isinstance(x, Tensor))
    numbers = [x for x in operands if isinstance(x, (int, float, Poly))]
    return without_gradient(tensors, out.dtype, numbers[0] if numbers and len(tensors) == 1 else None)


@recorded("isclose")
def _isclose(out: Result, x: Tensor, other: Tensor, *_: Any, **__: Any) -> Tensor:
    """TensorCompare.cpp: isclose, of floating numbers: which are equal, the allowed error and the actual one, and
    whether that is finite.
    """
    close = x.ledger.empty(out.shape, out.dtype)
    errors = [x.ledger.empty(out.shape, x.dtype) for _ in range(2)]
    x.ledger.transient(errors[0].nbytes, *(close.nbytes for _ in range(3)))
    errors.clear()
    return close


@recorded("nan_to_num")
def _nan_to_num(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    if x.requires_grad:
        raise InputError("nan_to_num of a tensor that requires a gradient has no rule")
    return empty_like(x)


def _rest(name: str, same: Sequence[str] = ()) -> None:
    """The row of a division's rest, whose gradient is the incoming one."""

    @recorded(name, same=same)
    def call(out: Result, x: Any, other: Any) -> Tensor:
        if isinstance(other, Tensor) and other.requires_grad:
            raise InputError(f"{name} by a tensor that requires a gradient has no rule")
        inputs = (x,) if isinstance(x, Tensor) else ()
        return record(f"{name.title()}Backward0", lambda: _without_gradient(out, x, other), inputs, (), pass_on)


_rest("fmod")
_rest("remainder", same=("__mod__",))


@recorded("sub", same=("__sub__", "subtract"))
def _sub(out: Result, a: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    return sub(a, other) if isinstance(a, Tensor) else rsub(other, a)


def sub(a: Tensor, b: Operand) -> Tensor:
    """``a - b``: saves nothing."""
    if not isinstance(b, Tensor):
        return record("SubBackward0", lambda: with_number(a, promote_number(a.dtype, b)), (a,), (), pass_on)
    return record("SubBackward0", lambda: binary(a, b), (a, b), (), sub_backward)


def sub_backward(call: Call) -> Grads:
    """The backward of ``sub``."""
    grad = call.grad
    return (
        grad if call.needs[0] else None,
        elementwise((grad,), grad.dtype) if call.needs[1] else None,
    )


@operator("rsub", args=lambda out, a, other, *, alpha=1: (a, other))
def rsub(a: Tensor, b: Operand) -> Tensor:
    """``torch.rsub(a, b)``, which is ``b - a``: saves nothing."""
    if not isinstance(b, Tensor):
        return record("RsubBackward1", lambda: with_number(a, promote_number(a.dtype, b)), (a,), (), negative_backward)
    return record("RsubBackward0", lambda: binary(a, b), (a, b), (), _rsub_backward)


def _rsub_backward(call: Call) -> Grads:
    grad = call.grad
    return (
        elementwise((grad,), grad.dtype) if call.needs[0] else None,
        grad if call.needs[1] else None,
    )


@operator(
    "mul", same=("__mul__", "__rmul__", "multiply"), args=lambda out, a, other: _tensor_first(a, other)
)  # fmt: skip
@saves("MulBackward0", *PRODUCT, inputs=FACTORS)
def mul(a: Tensor, b: Operand) -> Tensor:
    """``a * b``: saves each factor if the other requires a gradient.

    A number becomes a float64 tensor (8 B). The graph holds it, and saved-tensor hooks do not see it.
    """
    if not isinstance(b, Tensor):
        return _scaled(a, "MulBackward0", promote_number(a.dtype, b))
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    return record("MulBackward0", lambda: binary(a, b), (a, b), saved, mul_backward)


def mul_scalar(a: Tensor) -> Tensor:
    """``mul.Scalar``, as functions of PyTorch in C++ call it: the graph holds a number, and no tensor of it."""
    return _scaled(a, "MulBackward1", promote_number(a.dtype, SCALAR), held=False)


def mul_backward(call: Call) -> Grads:
    """The backward of ``mul``."""
    grad_b = _times_conjugate(call.grad, call.saved[1]) if call.needs[1] else None
    grad_a = _times_conjugate(call.grad, call.saved[0]) if call.needs[0] else None
    return grad_a, grad_b


def _times_conjugate(grad: Tensor, factor: Tensor) -> Tensor:
    """``grad * factor.conj()``: the conjugate of complex numbers is a copy (``ConjugateFallback.cpp``)."""
    conjugate = empty_like(factor) if factor.dtype.startswith("complex") else factor
    return binary(grad, conjugate)


def _scaled(x: Tensor, name: str, dtype: str, held: bool = True) -> Tensor:
    number, cast = wrapped_number(x.ledger, dtype)
    out = record(name, lambda: elementwise((x,), dtype), (x,), (), scaled_backward)
    del cast
    if held and out.node is not None:
        out.node.hold(number)
    return out


def scaled_backward(call: Call) -> Grads:
    """The backward of a product with a number, or a quotient by one."""
    cast = wrapped_number(call.ledger, call.grad.dtype)[1]
    out = elementwise((call.grad,), call.grad.dtype)
    del cast
    return (out,)


@recorded("div", same=("__truediv__", "divide", "true_divide"))
def _div(out: Result, a: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    if not isinstance(a, Tensor):
        return mul(reciprocal(other), a) if isinstance(other, Tensor) else out.ledger.empty((), out.dtype)
    return div(a, other) if rounding_mode is None else _without_gradient(out, a, other)


@saves(
    "DivBackward0",
    Kept("its dividend", (-1,)),
    Kept("its divisor", (-2, -1)),
    inputs=("dividend", "divisor"),
)
def div(a: Tensor, b: Operand) -> Tensor:
    """``a / b``: saves the divisor, and the dividend if the divisor requires a gradient. A number: see ``mul``."""
    if not isinstance(b, Tensor):
        return _scaled(a, "DivBackward0", promote_number(a.dtype, SCALAR))
    saved = (a if b.requires_grad else None, b)
    common = promote_number(promote(a, b), SCALAR)  # integers are divided as float32
    return record("DivBackward0", lambda: elementwise((a, b), common), (a, b), saved, div_backward)


def div_backward(call: Call) -> Grads:
    """The backward of ``div``."""
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


@recorded("float_power")
def _float_power(out: Result, x: Any, exponent: Any) -> Tensor:
    return pow(*(to(operand, "float64") if isinstance(operand, Tensor) else operand for operand in (x, exponent)))


@operator("pow", same=("__pow__",))
@saves(
    "PowBackward1",
    Kept("its base", (-2, -1)),
    Kept("its exponent", (-2, -1)),
    Kept("its result", (-1,)),
    inputs=("base", "exponent"),
)
@saves(
    "PowBackward2",
    Kept("its exponent", because="PyTorch keeps it"),
    Kept("its result", because="b^x ln b"),
    inputs=("exponent",),
)
def pow(x: Operand, exponent: Operand) -> Tensor:
    """``x.pow(exponent)``: saves ``x``; with a tensor as exponent that and the result, too."""
    if not isinstance(exponent, Tensor):
        assert isinstance(x, Tensor)
        if x.dtype in FLOATING:
            return square(x)
        return with_number(x, promote_number(x.dtype, exponent))
    exponent = widened(exponent)
    if not isinstance(x, Tensor):
        common = promote_number(exponent.dtype, x)
        raised = exponent

        def make() -> Tensor:
            number = wrapped_number(raised.ledger, common)
            out = raised.ledger.empty(raised.shape, common)
            del number
            return out

        return record("PowBackward2", make, (raised,), (raised, RESULT), _pow_of_number_backward)
    x, power = widened(x), exponent
    base = x
    return record("PowBackward1", lambda: binary(base, power), (x, power), (x, power, RESULT), _pow_tensor_backward)


def _pow_of_number_backward(call: Call) -> Grads:
    # pow_backward_exponent: grad * (result * log(base))
    result = call.saved[1]
    product = with_number(result, result.dtype)
    return (binary(call.grad, product),)


def _pow_tensor_backward(call: Call) -> Grads:
    grad, (x, exponent, result) = call.grad, call.saved
    grad_exponent = _pow_exponent_backward(grad, x, exponent, result) if call.needs[1] else None
    return _pow_self_backward(grad, x, exponent) if call.needs[0] else None, grad_exponent


def _pow_exponent_backward(grad: Tensor, x: Tensor, exponent: Tensor, result: Tensor) -> Tensor:
    # pow_backward_exponent: grad * where(self == 0 and exponent >= 0, 0, result * self.log())
    tests = [without_gradient((operand,), "bool") for operand in (exponent, x)]
    condition = without_gradient((tests[1], tests[0]), "bool")
    tests.clear()
    x = to(x, result.dtype)
    logarithm = elementwise((x,), result.dtype)
    product = binary(result, logarithm)
    return binary(grad, chosen(condition, product))


def _pow_self_backward(grad: Tensor, x: Tensor, exponent: Tensor) -> Tensor:
    # pow_backward_self: where(exponent == 0, 0, grad * (exponent * self.pow(exponent - 1)))
    lower = with_number(exponent, exponent.dtype)
    power = binary(x, lower)
    scaled = binary(exponent, power)
    product = binary(grad, scaled)
    zero = without_gradient((exponent,), "bool")
    return chosen(zero, product)


def pow_backward(call: Call) -> Grads:
    """The backward of ``pow`` with a number."""
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


def clamp_backward(call: Call) -> Grads:
    """The backward of ``clamp`` between numbers."""
    # clamp_backward: where((self >= min).logical_and_(self <= max), grad, 0)
    x = call.saved[0]
    tests = [call.ledger.empty(x.shape, "bool", elementwise_strides(x.shape, (x,))) for _ in range(call.args[0])]
    return (chosen(tests[0], call.grad),)


def _expm1_backward(call: Call) -> Grads:
    # grad * (result + 1)
    sum_ = with_number(call.saved[0], call.grad.dtype)
    return (binary(call.grad, sum_),)


def _abs_backward(call: Call) -> Grads:
    # grad * self.sgn()
    sign = elementwise((call.saved[0],), call.grad.dtype)
    return (binary(call.grad, sign),)


def _reciprocal_backward(call: Call) -> Grads:
    # -grad * (result * result)
    square = elementwise((call.saved[0],), call.grad.dtype)
    negative = elementwise((call.grad,), call.grad.dtype)
    return (binary(negative, square),)


def _erfinv_backward(call: Call) -> Grads:
    # 0.5 * sqrt(pi) * exp(self.erfinv().pow(2)) * grad
    inverse = elementwise((call.saved[0],), call.grad.dtype)
    square = elementwise((inverse,), call.grad.dtype)
    exponential = elementwise((square,), call.grad.dtype)
    scaled = with_number(exponential, call.grad.dtype)
    return (binary(scaled, call.grad),)


def _erf_backward(call: Call) -> Grads:
    # 2 / sqrt(pi) * exp(-self.pow(2)) * grad
    square = elementwise((call.saved[0],), call.grad.dtype)
    negative = elementwise((square,), call.grad.dtype)
    exponential = elementwise((negative,), call.grad.dtype)
    scaled = with_number(exponential, call.grad.dtype)
    return (binary(scaled, call.grad),)


def zeros_backward(call: Call) -> Grads:
    """The backward of an operator whose result does not change with its input."""
    return (empty_like(call.grad),)


def _cos_backward(call: Call) -> Grads:
    # grad * -self.sin()
    sine = elementwise((call.saved[0],), call.grad.dtype)
    negative = elementwise((sine,), call.grad.dtype)
    return (elementwise((call.grad, negative), call.grad.dtype),)


def _sin_backward(call: Call) -> Grads:
    # grad * self.cos()
    cosine = elementwise((call.saved[0],), call.grad.dtype)
    return (elementwise((call.grad, cosine), call.grad.dtype),)


def one_kernel_backward(call: Call) -> Grads:
    """The backward of an operator whose backward is one kernel of the gradient and what is saved."""
    return (elementwise((call.grad, call.saved[0]), call.grad.dtype),)


def relu_backward(call: Call) -> Grads:
    """The backward of ``relu``."""
    # threshold_backward(grad, result): the kernel's first operand, which decides the layout, is the result
    return (elementwise((call.saved[0], call.grad), call.grad.dtype),)


def negative_backward(call: Call) -> Grads:
    """The backward of ``neg``."""
    return (elementwise((call.grad,), call.grad.dtype),)


def _unary(
    name: str,
    kept: Literal["input", "result", "nothing"],
    backward: Backward,
    because: str = "",
    widens: bool = False,
    node: str = "",
    same: Sequence[str] = (),
) -> Callable[[Tensor], Tensor]:
    """The row of an operator with one operand. ``widens``: a GPU's autocast runs it in float32.

    A call with integers that gives floating numbers has no derivative.
    """
    node = node or f"{name.title().replace('_', '')}Backward0"

    def rule(x: Tensor) -> Tensor:
        x = widened(x) if widens else x
        saved = (x,) if kept == "input" else (RESULT,) if kept == "result" else ()
        return record(node, lambda: elementwise((x,), x.dtype), (x,), saved, backward)

    def call(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return rule(x) if x.dtype == out.dtype or x.dtype in FLOATING else without_gradient((x,), out.dtype, SCALAR)

    if kept != "nothing":
        saves(node, Kept(f"its {kept}", because=because))
    recorded(name, same=same)(call)
    return rule


neg = _unary("neg", "nothing", negative_backward, same=("__neg__", "negative"))
exp = _unary("exp", "result", one_kernel_backward, "the derivative of e^x is e^x", widens=True)
sqrt = _unary("sqrt", "result", _sqrt_backward, "the derivative of a square root is 1/2 over the result")
rsqrt = _unary(
    "rsqrt", "result", _rsqrt_backward, "the derivative of 1/sqrt(x) is -1/2 times the result's cube", widens=True
)
cos = _unary("cos", "input", _cos_backward, "the derivative of cos(x) is -sin(x)")
hardtanh = _unary("hardtanh", "input", one_kernel_backward, "its derivative is one between its bounds", same=("relu6",))
hardswish = _unary("hardswish", "input", one_kernel_backward, "its derivative depends on the input")
hardsigmoid = _unary("hardsigmoid", "input", one_kernel_backward, "its derivative depends on the input")
erf = _unary("erf", "input", _erf_backward, "the derivative of erf(x) is 2/sqrt(pi) e^(-x^2)")
sin = _unary("sin", "input", _sin_backward, "the derivative of sin(x) is cos(x)")
expm1 = _unary("expm1", "result", _expm1_backward, "the derivative of e^x - 1 is the result plus one", widens=True)
log = _unary("log", "input", one_kernel_backward, "the derivative of ln(x) is 1/x", widens=True)
log1p = _unary("log1p", "input", _expm1_backward, "the derivative of ln(1 + x) is 1/(1 + x)", widens=True)
abs = _unary("abs", "input", _abs_backward, "the derivative of |x| is the sign of x", same=("__abs__", "absolute"))
reciprocal = _unary(
    "reciprocal", "result", _reciprocal_backward, "the derivative of 1/x is minus the result's square", widens=True
)
erfinv = _unary("erfinv", "input", _erfinv_backward, "the derivative depends on x", widens=True)
softplus = _unary("softplus", "input", one_kernel_backward, "the derivative of softplus(x) depends on x", widens=True)
sign = _unary("sign", "nothing", zeros_backward)
floor = _unary("floor", "nothing", zeros_backward)
ceil = _unary("ceil", "nothing", zeros_backward)
round = _unary("round", "nothing", zeros_backward)
trunc = _unary("trunc", "nothing", zeros_backward)
relu = _unary("relu", "result", relu_backward, "gradients pass where the result is above zero")
gelu = _unary("gelu", "input", one_kernel_backward, "the derivative of gelu(x) depends on x")
silu = _unary("silu", "input", one_kernel_backward, "the derivative of silu(x) depends on x")
tanh = _unary("tanh", "result", one_kernel_backward, "the derivative of tanh(x) is one minus the result's square")
sigmoid = _unary("sigmoid", "result", one_kernel_backward, "the derivative is the result times one minus the result")
square = _unary(  # ``torch.square(x)`` is ``x.pow(2)``
    "square", "input", pow_backward, "the derivative of x^n is n x^(n-1)", widens=True, node="PowBackward0"
)


@recorded("isinf")
def _isinf(out: Result, x: Tensor) -> Tensor:
    """``x.abs() == inf`` outside the graph; zeros of integers (``TensorCompare.cpp: isinf``)."""
    if x.dtype not in FLOATING:
        return empty_like(x, "bool")
    with x.ledger.no_grad():
        return without_gradient((abs(x),), "bool", SCALAR)


@recorded("isfinite")
def _isfinite(out: Result, x: Tensor) -> Tensor:
    """``(x == x) * (x.abs() != inf)``; ones of integers (``TensorCompare.cpp: isfinite``)."""
    if x.dtype not in FLOATING:
        return empty_like(x, "bool")
    is_number, size = without_gradient((x, x), "bool"), abs(x)
    is_finite = without_gradient((size,), "bool", SCALAR)
    return without_gradient((is_number, is_finite), "bool")


@recorded("clamp", same=("clip",))
def _clamp(out: Result, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    tensors = tuple(bound for bound in (min, max) if isinstance(bound, Tensor))
    if out.dtype != x.dtype:  # integers, and a bound that is none
        copy = x.ledger.empty(x.shape, out.dtype)
        clamped = x.ledger.empty(x.shape, out.dtype)
        del copy
        return clamped
    return clamp_by(x, tensors) if tensors else clamp(x, (min is not None) + (max is not None))


@recorded("clamp_min", "clamp_max")
def _clamp_one(out: Result, x: Tensor, *given: Any, **named: Any) -> Tensor:
    (bound,) = (*given, *named.values())
    return clamp_by(x, (bound,)) if isinstance(bound, Tensor) else clamp(x, 1)


_WITHIN = "gradients pass where the input is within the bounds"


@saves("ClampBackward1", Kept("its input", because=_WITHIN))
def clamp(x: Tensor, bounds: int = 1) -> Tensor:
    """``x.clamp(min, max)`` with one or two numbers: saves ``x``."""
    return record("ClampBackward1", lambda: elementwise((x,), x.dtype), (x,), (x,), clamp_backward, bounds)


@saves("ClampBackward0", Kept("its input", because=_WITHIN), Kept("a bound", because=_WITHIN))
def clamp_by(x: Tensor, bounds: tuple[Tensor, ...]) -> Tensor:
    """``x.clamp(min, max)`` with one or two tensors that need no gradient: saves ``x`` and them."""
    return record(
        "ClampBackward0",
        lambda: elementwise((x, *bounds), x.dtype),
        (x,),
        (x, *bounds),
        clamp_backward,
        len(bounds),
    )


@operator("log_sigmoid", args=first)
@saves(
    "LogSigmoidBackward0",
    Kept("its input", because="the derivative of log-sigmoid(x) depends on x"),
    Kept("exp(-|x|) of its input", because="backward reads it in place of computing it again"),
)
def logsigmoid(x: Tensor) -> Tensor:
    """``F.logsigmoid(x)``: saves ``x`` and on a CPU a buffer of its size (``Activation.cpp: log_sigmoid_forward_cpu``).

    A GPU's buffer is empty (``ActivationLogSigmoidKernel.cu``).
    """
    ledger = x.ledger
    if ledger.device.has_own_memory:
        return record("LogSigmoidBackward0", lambda: ledger.empty(x.shape, x.dtype), (x,), (x,), zeros_backward)
    buffer = ledger.empty(x.shape, x.dtype)

    def make() -> Tensor:
        out = ledger.empty(x.shape, x.dtype)
        if x.strides is not None:
            ledger.transient(x.nbytes)  # input.contiguous()
        return out

    return record("LogSigmoidBackward0", make, (x,), (x, buffer), zeros_backward)


@operator("polar")
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """``torch.polar(abs, angle)`` of tensors that need no gradient: complex numbers."""
    return elementwise_complex((abs, angle))


def elementwise_complex(parts: tuple[Tensor, ...]) -> Tensor:
    """Allocate the complex64 result of a kernel of float32 numbers."""
    shape = broadcast(*(x.shape for x in parts))
    return parts[0].ledger.empty(shape, "complex64", elementwise_strides(shape, parts))


@operator("where", args=lambda out, condition, input, other: (condition, input, other, out.dtype))
@saves(
    "WhereBackward0",
    Kept("the condition", because="it says which choice gets the gradient"),
    inputs=("first choice", "second choice"),
)
def where(condition: Tensor, a: Operand, b: Operand, dtype: str | None = None) -> Tensor:
    """``torch.where(condition, a, b)``: saves the condition. ``dtype``: the result's, if both choices are numbers.

    A choice without the common dtype is cast first, on every device (``TensorCompare.cpp: where_self_out``).
    """
    ledger = condition.ledger
    choices = [x for x in (a, b) if isinstance(x, Tensor)]
    common = _result_type(a, b) if choices else dtype or "float32"

    def make() -> Tensor:
        casts = [x if x.dtype == common else ledger.empty(x.shape, common, x.strides) for x in choices]
        shape = broadcast(condition.shape, *(x.shape for x in casts))
        return ledger.empty(shape, common, elementwise_strides(shape, (condition, *casts)))

    return record("WhereBackward0", make, tuple(choices), (condition,), _where_backward)


def _where_backward(call: Call) -> Grads:
    # where(condition, grad, 0), where(condition, 0, grad)
    return tuple(chosen(call.saved[0], call.grad) if need else None for need in call.needs)


@operator("glu", args=lambda out, x, dim=-1: (x, out.shape))
@saves("GluBackward0", Kept("its input", because="a half of it is the gate of the other"))
def glu(x: Tensor, shape: Shape) -> Tensor:
    """``F.glu(x, dim)`` with a result of ``shape``, half of ``x``: saves ``x``."""
    strides = strides_of(x)
    return record(
        "GluBackward0", lambda: elementwise((Tensor(x.storage, shape, x.dtype, strides),), x.dtype), (x,), (x,),
        _glu_backward,
    )  # fmt: skip


def _glu_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.saved[0].shape, call.grad.dtype),)


@operator("masked_fill", args=lambda out, x, mask, value: (x, mask))
@saves("MaskedFillBackward0", Kept("the mask", because="where a number was filled in the gradient is zero"))
def masked_fill(x: Tensor, mask: Tensor) -> Tensor:
    """``x.masked_fill(mask, number)``: a contiguous copy; saves the mask."""
    shape = broadcast(x.shape, mask.shape)
    return record("MaskedFillBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (mask,), contiguous_backward)


@operator("masked_scatter")
@saves(
    "MaskedScatterBackward0",
    Kept("the mask", because="it says which positions' gradients are taken"),
    inputs=("input", "source"),
)
def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``x.masked_scatter(mask, source)``: a contiguous copy, with all elements of a source; saves the mask."""

    def make() -> Tensor:
        out = x.ledger.empty(broadcast(x.shape, mask.shape), x.dtype)
        contiguous(source.alias())
        return out

    return record("MaskedScatterBackward0", make, (x, source), (mask,), _masked_scatter_backward, source.shape)


def _masked_scatter_backward(call: Call) -> Grads:
    # grad.masked_fill(mask, 0), masked_scatter_backward: grad.masked_select(mask)
    ledger, grad = call.ledger, call.grad
    of_input = ledger.empty(grad.shape, grad.dtype) if call.needs[0] else None
    if not call.needs[1]:
        return of_input, None
    on_cpu = ledger.device.splits_by_thread  # TensorAdvancedIndexing.cpp: masked_select_out_impl_cpu
    integers = grad.numel * ITEMSIZE["int64"]
    if on_cpu:  # the mask is summed as integers
        ledger.transient(integers)
    of_source = ledger.empty(call.args[0], grad.dtype)
    if on_cpu:  # the mask as integers, and their sums
        ledger.transient(integers, integers)
    return of_input, of_source


@operator("maximum", "minimum")
@saves(
    "MaximumBackward0",
    Kept("its first operand", (-2, -1), "the gradient goes to the larger one"),
    Kept("its second operand", (-2, -1), "the gradient goes to the larger one"),
    inputs=("first operand", "second operand"),
)
def maximum(a: Tensor, other: Tensor) -> Tensor:
    """``torch.maximum(a, other)`` or ``torch.minimum(a, other)``: saves both."""
    return record("MaximumBackward0", lambda: binary(a, other), (a, other), (a, other), _maximum_backward)


def _maximum_backward(call: Call) -> Grads:
    return tuple(_share(call.grad, *call.saved) if need else None for need in call.needs)


def _share(grad: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # at::where(self == other, grad / 2, grad).masked_fill_(self < other, 0)
    half = with_number(grad, grad.dtype)
    equal = without_gradient((a, b), "bool")
    out = chosen(equal, half, grad)
    smaller = without_gradient((a, b), "bool")
    del half, equal, smaller
    return out


@operator("dropout", args=lambda out, x, p=0.5, train=True, training=True: (x, p if train and training else 0.0))
def dropout(x: Tensor, p: float) -> Tensor:
    """``F.dropout(x, p)``: nothing outside of train mode.

    On a CPU (``_dropout_impl``) a noise tensor of ``x``'s dtype is drawn, scaled in place and multiplied by ``x``. The
    product saves the noise if ``x`` requires a gradient.
    """
    if p == 0.0 or not x.ledger.training:
        return x
    if x.ledger.device.fuses_dropout:
        return native_dropout(x)
    return mul(x, noise_of_dropout(x))


def noise_of_dropout(x: Tensor) -> Tensor:
    """What ``_dropout_impl`` multiplies by."""
    noise = empty_like(x)
    wrapped_number(x.ledger, x.dtype)  # noise.div_(1 - p)
    return noise


@saves("NativeDropoutBackward0", Kept("the mask of dropout", because="the gradient of what was dropped is zero"))
def native_dropout(x: Tensor) -> Tensor:
    """``at::native_dropout`` (CUDA): saves a mask of one byte per element."""
    mask = x.ledger.empty(x.shape, "bool", x.strides)
    return record("NativeDropoutBackward0", lambda: empty_like(x), (x,), (Beside(mask),), negative_backward)
