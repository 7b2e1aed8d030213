"""Sums, means, norms and losses."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Size, Tensor
from .table import Result, rule


@rule("mean")
def _mean(out: Result, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Tensor:
    return ops.mean(x, dim, keepdim, dtype)


@rule("sum")
def _sum(out: Result, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: str | None = None) -> Tensor:
    return ops.sum(x, dim, keepdim, dtype)


@rule("var")
def _var(out: Result, x: Tensor, dim: Any = None, *args: Any, keepdim: bool = False, **_: Any) -> Tensor:
    return ops.var(x, None if isinstance(dim, bool) else dim, keepdim or (len(args) > 1 and bool(args[1])))


@rule("std")
def _std(out: Result, x: Tensor, dim: Any = None, *args: Any, keepdim: bool = False, **_: Any) -> Tensor:
    return ops.std(x, None if isinstance(dim, bool) else dim, keepdim or (len(args) > 1 and bool(args[1])))


@rule("amax", "amin")
def _amax(out: Result, x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return ops.amax(x, dim, keepdim)


@rule("logsumexp")
def _logsumexp(out: Result, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return ops.logsumexp(x, dim, keepdim)


@rule("cumsum")
def _cumsum(out: Result, x: Tensor, dim: int, *, dtype: str | None = None) -> Tensor:
    return ops.cumsum(x, dim % max(len(x.shape), 1), dtype)


@rule("linalg_vector_norm", "linalg_norm")
def _vector_norm(
    out: Result, x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *_: Any, **__: Any
) -> Tensor:
    return ops.linalg_vector_norm(x, dim, keepdim)


@rule("norm")
def _norm(out: Result, x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, *_: Any, **__: Any) -> Tensor:
    return ops.linalg_vector_norm(x, dim, keepdim)


@rule("softmax")
def _softmax(out: Result, x: Tensor, dim: int, dtype: str | None = None) -> Tensor:
    return ops.softmax(x, dtype or ("float32" if ops.widens(x) else x.dtype))


@rule("log_softmax")
def _log_softmax(out: Result, x: Tensor, dim: int, dtype: str | None = None) -> Tensor:
    return ops.log_softmax(x, dtype)


@rule("layer_norm")
def _layer_norm(out: Result, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, *_: Any) -> Tensor:
    return ops.layer_norm(x, weight, bias)


@rule("rms_norm")
def _rms_norm(out: Result, x: Tensor, shape: Any, weight: Any = None, *_: Any) -> Tensor:
    return ops.rms_norm(x, weight)


@rule("cross_entropy_loss")
def _cross_entropy(out: Result, x: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.cross_entropy(x, target, "mean" if out.shape == () else "none")


@rule("nll_loss_nd", "nll_loss")
def _nll_loss(out: Result, x: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.nll_loss(x, target, "mean" if out.shape == () else "none")


@rule("histc")
def _histc(out: Result, x: Tensor, bins: Size = 100, min: Any = 0, max: Any = 0) -> Tensor:
    return ops.histc(x, bins)
