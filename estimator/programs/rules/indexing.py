"""Functions that look elements up or write some."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, operand, rule


@rule("embedding")
def _embedding(out: Result, weight: Tensor, ids: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.embedding(ids, weight)


@rule("index")
def _index(out: Result, x: Tensor, indices: tuple[Tensor | None, ...]) -> Tensor:
    if any(index is not None and index.dtype == "bool" for index in indices):
        return ops.index_by_mask(x, indices, out.shape)
    return ops.index(x, indices)


@rule("index_put")
def _index_put(out: Result, x: Tensor, indices: tuple[Tensor | None, ...], values: Any, *_: Any) -> Tensor:
    return ops.index_put(x, indices, values)


@rule("index_put_")
def _index_put_in_place(out: Result, x: Tensor, indices: Any, values: Any, *_: Any) -> Tensor:
    return ops.index_put_(x, indices, operand(values))


@rule("index_copy")
def _index_copy(out: Result, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return ops.index_copy(x, index, source)


@rule("scatter_add")
def _scatter_add(out: Result, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return ops.scatter_add(x, index, source)


@rule("topk")
def _topk(out: Result, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return ops.selected(x, out.shape)
