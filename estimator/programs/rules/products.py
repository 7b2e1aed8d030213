"""Matrix products."""

from __future__ import annotations

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
def _einsum(out: Result, equation: str, operands: tuple[Tensor, ...]) -> Tensor:
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
