"""Functions that work element by element."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import FLOATING, Tensor
from .table import RULES, Result, operand, rule


def _scaled(alpha: Any) -> bool:
    """Whether ``alpha`` multiplies: of floating numbers only zero is known, so 1.0 may stand for another one."""
    return not (isinstance(alpha, int) and alpha == 1)


@rule("add")
def _add(out: Result, a: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    if not isinstance(a, Tensor):
        a, other = other, a
    return ops.add(a, operand(other), _scaled(alpha))


@rule("sub")
def _sub(out: Result, a: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    return ops.sub(a, operand(other)) if isinstance(a, Tensor) else ops.rsub(other, operand(a))


@rule("rsub")
def _rsub(out: Result, a: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
    return ops.rsub(a, operand(other))


@rule("mul")
def _mul(out: Result, a: Any, other: Any) -> Tensor:
    if not isinstance(a, Tensor):
        a, other = other, a
    return ops.mul(a, operand(other))


@rule("div")
def _div(out: Result, a: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    if not isinstance(a, Tensor):
        return ops.mul(ops.reciprocal(other), operand(a))
    if rounding_mode is not None:
        result: Tensor = _without_gradient(out, a, other)
        return result
    return ops.div(a, operand(other))


@rule("pow", "float_power")
def _pow(out: Result, x: Any, exponent: Any) -> Tensor:
    return ops.pow(operand(x), operand(exponent))


@rule("maximum", "minimum")
def _maximum(out: Result, a: Tensor, other: Tensor) -> Tensor:
    return ops.maximum(a, other)


_UNARY = (
    "neg", "exp", "expm1", "log", "log1p", "abs", "reciprocal", "sqrt", "rsqrt", "square", "cos", "sin", "relu", "silu",
    "tanh", "sigmoid", "erfinv", "sign", "floor", "ceil", "trunc", "round",
)  # fmt: skip


def _unary(operator: Any) -> Any:
    def call(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
        if x.dtype == out.dtype or x.dtype in FLOATING:
            result: Tensor = operator(x)
            return result
        return ops.without_gradient((x,), out.dtype, ops.SCALAR)

    return call


for _name in _UNARY:
    RULES[_name] = _unary(getattr(ops, _name))
for _name in ("softplus", "log_sigmoid"):
    RULES[_name] = _unary(getattr(ops, _name.replace("log_s", "logs")))
RULES["logsigmoid"] = RULES["log_sigmoid"]


@rule("clamp")
def _clamp(out: Result, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    tensors = tuple(bound for bound in (min, max) if isinstance(bound, Tensor))
    if tensors:
        return ops.clamp_by(x, tensors)
    return ops.clamp(x, (min is not None) + (max is not None))


@rule("clamp_min", "clamp_max")
def _clamp_one(out: Result, x: Tensor, bound: Any) -> Tensor:
    return ops.clamp_by(x, (bound,)) if isinstance(bound, Tensor) else ops.clamp(x, 1)


@rule("where")
def _where(out: Result, condition: Tensor, input: Any, other: Any) -> Tensor:
    return ops.where(condition, operand(input), operand(other), out.dtype)


@rule("masked_fill")
def _masked_fill(out: Result, x: Tensor, mask: Tensor, value: Any) -> Tensor:
    return ops.masked_fill(x, mask)


@rule("polar")
def _polar(out: Result, abs: Tensor, angle: Tensor) -> Tensor:
    return ops.polar(abs, angle)


@rule("gelu")
def _gelu(out: Result, x: Tensor, *, approximate: str = "none") -> Tensor:
    return ops.gelu(x)


@rule("dropout")
def _dropout(out: Result, x: Tensor, p: float = 0.5, train: bool = True, training: bool = True) -> Tensor:
    return ops.dropout(x, p) if train and training else x


@rule(
    "eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "logical_and",
    "logical_or", "logical_not", "logical_xor", "floor_divide", "remainder", "fmod", "isnan", "isinf", "isfinite",
    "bitwise_left_shift", "bitwise_right_shift", "isin",
)  # fmt: skip
def _without_gradient(out: Result, *args: Any, **_: Any) -> Tensor:
    tensors = tuple(x for x in args if isinstance(x, Tensor))
    numbers = [operand(x) for x in args if isinstance(x, (int, float))]
    return ops.without_gradient(tensors, out.dtype, numbers[0] if numbers and len(tensors) == 1 else None)
