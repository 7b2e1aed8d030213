"""The rule of each PyTorch function that a program may call.

Each takes the result's shape and dtype, then the function's own arguments. It says which operator rules
(``estimator/operators/``) the function is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .. import operators as ops
from ..ledger import Ledger, Shape, Size, Tensor


class Result(NamedTuple):
    """What PyTorch gave: the shape and the dtype of the first result, and those of all."""

    ledger: Ledger
    shape: Shape
    dtype: str
    all: tuple[tuple[Shape, str], ...]


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""By the function's name in ``torch`` or ``torch.Tensor``."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into ``RULES`` under these names."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def operand(value: Any) -> Any:
    """A number as the operator rules take it."""
    return value if isinstance(value, Tensor) else ops.SCALAR


# Views


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as")
def _reshape(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.reshape(x, out.shape)


@rule("alias")
def _alias(out: Result, x: Tensor) -> Tensor:
    return ops.alias(x)


@rule("detach", "data")
def _detach(out: Result, x: Tensor) -> Tensor:
    return x.alias()


@rule("transpose")
def _transpose(out: Result, x: Tensor, dim0: int, dim1: int) -> Tensor:
    return ops.transpose(x, dim0, dim1)


@rule("t", "T", "mT", "adjoint")
def _matrix_transpose(out: Result, x: Tensor) -> Tensor:
    return ops.transpose(x, -2, -1) if len(x.shape) > 1 else ops.alias(x)


@rule("permute")
def _permute(out: Result, x: Tensor, *dims: Any) -> Tensor:
    order = dims[0] if isinstance(dims[0], tuple) else dims
    return ops.permute(x, tuple(d % len(x.shape) for d in order))


@rule("unsqueeze")
def _unsqueeze(out: Result, x: Tensor, dim: int) -> Tensor:
    return ops.unsqueeze(x, dim)


@rule("squeeze")
def _squeeze(out: Result, x: Tensor, dim: Any = None) -> Tensor:
    return ops.squeeze(x, out.shape)


@rule("expand", "expand_as", "broadcast_to")
def _expand(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.expand(x, out.shape)


@rule("slice")
def _slice(out: Result, x: Tensor, dim: int, length: Size, step: int) -> Tensor:
    return ops.slice(x, dim, length, step)


@rule("narrow")
def _narrow(out: Result, x: Tensor, dim: int, start: Any, length: Size) -> Tensor:
    return ops.slice(x, dim, length)


@rule("select")
def _select(out: Result, x: Tensor, dim: int, index: int = 0) -> Tensor:
    return ops.select(x, dim)


@rule("split", "split_with_sizes", "chunk")
def _split(out: Result, x: Tensor, sizes: Any, dim: int = 0) -> list[Tensor]:
    return ops.split_with_sizes(x, [shape[dim % len(x.shape)] for shape, _ in out.all], dim)


@rule("unbind")
def _unbind(out: Result, x: Tensor, dim: int = 0) -> list[Tensor]:
    return ops.unbind(x, dim)


# Copies


@rule("contiguous")
def _contiguous(out: Result, x: Tensor, **_: Any) -> Tensor:
    return ops.contiguous(x)


@rule("clone")
def _clone(out: Result, x: Tensor, **_: Any) -> Tensor:
    return ops.clone(x)


@rule("to")
def _to(out: Result, x: Tensor, dtype: str, copy: bool = False) -> Tensor:
    return ops.clone(x) if copy and dtype == x.dtype else ops.to(x, dtype)


@rule("cat")
def _cat(out: Result, tensors: tuple[Tensor, ...], dim: int = 0) -> Tensor:
    return ops.cat(tensors, out.shape)


@rule("stack")
def _stack(out: Result, tensors: tuple[Tensor, ...], dim: int = 0) -> Tensor:
    return ops.stack(tensors, dim % len(out.shape))


@rule("pad")
def _pad(out: Result, x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    return ops.pad(x, out.shape)


# New tensors


@rule(
    "arange", "zeros", "ones", "empty", "full", "tensor", "rand", "randn", "eye", "scalar_tensor", "as_tensor",
    "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "linspace", "randint",
)  # fmt: skip
def _factory(out: Result, *_: Any, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, out.dtype)


# Element by element


@rule("add", "add_")
def _add(out: Result, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    if not isinstance(a, Tensor):
        a, b = b, a
    return ops.add(a, operand(b))


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


# Reductions, norms, losses


@rule("mean")
def _mean(out: Result, x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return ops.mean(x, dim, keepdim)


@rule("sum")
def _sum(out: Result, x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return ops.sum(x, dim, keepdim)


@rule("softmax")
def _softmax(out: Result, x: Tensor, dim: int, dtype: str | None = None) -> Tensor:
    return ops.softmax(x, dtype or out.dtype)


@rule("layer_norm")
def _layer_norm(out: Result, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, *_: Any) -> Tensor:
    return ops.layer_norm(x, weight, bias)


@rule("cross_entropy_loss")
def _cross_entropy(out: Result, x: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.cross_entropy(x, target)


# Products, lookups, attention


@rule("linear")
def _linear(out: Result, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.linear(x, weight, bias)


@rule("matmul")
def _matmul(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.matmul(a, b)


@rule("bmm")
def _bmm(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.bmm(a, b)


@rule("embedding")
def _embedding(out: Result, weight: Tensor, ids: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.embedding(ids, weight)


@rule("scaled_dot_product_attention")
def _attention(
    out: Result,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    return ops.scaled_dot_product_attention(query, key, value, attn_mask)
