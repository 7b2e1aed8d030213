"""Sums, means, norms and losses."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Size, Tensor
from .table import Result, rule


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


@rule("histc")
def _histc(out: Result, x: Tensor, bins: Size = 100, min: Any = 0, max: Any = 0) -> Tensor:
    return ops.histc(x, bins)
