"""Functions that work element by element."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, operand, rule


@rule("add")
def _add(out: Result, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    if not isinstance(a, Tensor):
        a, b = b, a
    return ops.add(a, operand(b))


@rule("rsub")
def _rsub(out: Result, a: Tensor, b: Any, alpha: Any = 1) -> Tensor:
    return ops.rsub(a, operand(b))


@rule("where")
def _where(out: Result, condition: Tensor, a: Any, b: Any) -> Tensor:
    return ops.where(condition, operand(a), operand(b), out.dtype)


@rule("sub")
def _sub(out: Result, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    return ops.sub(a, operand(b))


@rule("mul")
def _mul(out: Result, a: Any, b: Any) -> Tensor:
    if not isinstance(a, Tensor):
        a, b = b, a
    return ops.mul(a, operand(b))


@rule("div")
def _div(out: Result, a: Any, b: Any) -> Tensor:
    return ops.div(a, operand(b))


@rule("pow")
def _pow(out: Result, x: Tensor, exponent: Any) -> Tensor:
    return ops.pow(x, ops.SCALAR)


for _name in ("neg", "exp", "sqrt", "rsqrt", "cos", "sin", "relu", "silu", "tanh", "sigmoid"):

    @rule(_name)
    def _unary(out: Result, x: Tensor, *_: Any, _operator: Any = getattr(ops, _name), **__: Any) -> Tensor:
        result: Tensor = _operator(x)
        return result


@rule("gelu")
def _gelu(out: Result, x: Tensor, approximate: str = "none") -> Tensor:
    return ops.gelu(x)


@rule("dropout")
def _dropout(out: Result, x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    return ops.dropout(x, p) if training else x


@rule("eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "logical_and",
      "logical_or", "logical_not", "floor_divide", "remainder", "isnan", "isinf", "isfinite", "sign", "floor", "ceil", "round")  # fmt: skip
def _without_gradient(out: Result, *args: Any, **_: Any) -> Tensor:
    return ops.without_gradient(tuple(x for x in args if isinstance(x, Tensor)), out.dtype)


@rule("all", "any", "cumsum", "diff", "argmax")
def _fresh(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.ledger.empty(out.shape, out.dtype)


@rule("clamp")
def _clamp(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.clamp(x)
