"""Matrix products."""

from __future__ import annotations

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, rule


@rule("linear")
def _linear(out: Result, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.linear(x, weight, bias)


@rule("matmul")
def _matmul(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.matmul(a, b)


@rule("bmm")
def _bmm(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.bmm(a, b)
