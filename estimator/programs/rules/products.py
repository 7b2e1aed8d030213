"""Matrix products."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, rule


@rule("linear")
def _linear(out: Result, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.linear(x, weight, bias)


@rule("addmm")
def _addmm(out: Result, x: Tensor, a: Tensor, b: Tensor, beta: bool, alpha: bool) -> Tensor:
    return ops.addmm(x, a, b, beta, alpha)


@rule("baddbmm")
def _baddbmm(out: Result, x: Tensor, a: Tensor, b: Tensor, beta: bool, alpha: bool) -> Tensor:
    return ops.baddbmm(x, a, b, beta, alpha)


@rule("einsum")
def _einsum(out: Result, equation: str, *operands: Tensor) -> Tensor:
    return ops.einsum(equation, *operands)


@rule("mm")
def _mm(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.matmul(a, b)


@rule("mv")
def _mv(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.matmul(a, b)


@rule("matmul")
def _matmul(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.matmul(a, b)


@rule("bmm")
def _bmm(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.bmm(a, b)


@rule("conv1d")
def _conv1d(
    out: Result,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    return ops.conv1d(x, weight, bias, out.shape[-1], groups)
