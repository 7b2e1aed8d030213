"""Views."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Size, Tensor
from .table import Result, rule


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
    return ops.split_with_sizes(x, [shape[dim % len(x.shape)] for _, shape, _ in out.all], dim)


@rule("unbind")
def _unbind(out: Result, x: Tensor, dim: int = 0) -> list[Tensor]:
    return ops.unbind(x, dim)
