"""Functions that look elements up, choose some, or write some."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...errors import InputError
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


@rule("index_copy")
def _index_copy(out: Result, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return ops.index_copy(x, index, source)


@rule("index_put_")
def _index_put_(out: Result, x: Tensor, indices: tuple[Tensor | None, ...], values: Any) -> Tensor:
    return ops.index_put_(x, indices, operand(values))


@rule("index_select")
def _index_select(out: Result, x: Tensor, dim: int, index: Tensor) -> Tensor:
    return ops.index_select(x, dim, index)


@rule("index_add")
def _index_add(out: Result, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    return ops.index_add(x, dim, index, source, alpha != 1)


@rule("index_add_")
def _index_add_(out: Result, x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    return ops.index_add_(x, dim, index, source, alpha != 1)


@rule("gather")
def _gather(out: Result, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    return ops.gather(x, index)


@rule("take_along_dim")
def _take_along_dim(out: Result, x: Tensor, indices: Tensor, dim: int) -> Tensor:
    return ops.take_along_dim(x, indices)


@rule("scatter")
def _scatter(out: Result, x: Tensor, dim: int, index: Tensor, src: Any = None, value: Any = None) -> Tensor:
    return ops.scatter(x, index, operand(value if src is None else src))


@rule("scatter_")
def _scatter_(out: Result, x: Tensor, dim: int, index: Tensor, src: Any = None, value: Any = None) -> Tensor:
    return ops.scatter_(x, index, operand(value if src is None else src))


@rule("scatter_add")
def _scatter_add(out: Result, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    return ops.scatter_add(x, index, src)


@rule("scatter_add_")
def _scatter_add_(out: Result, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    return ops.scatter_add_(x, index, src)


@rule("topk", "kthvalue", "cummax", "cummin", "mode")
def _topk(out: Result, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return ops.selected(x, out.shape)


@rule("sort")
def _sort(out: Result, x: Tensor, dim: int = -1, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return ops.sort(x, dim)


@rule("argsort")
def _argsort(out: Result, x: Tensor, dim: int = -1, *_: Any, **__: Any) -> Tensor:
    with x.ledger.no_grad():
        return ops.sort(x, dim)[1]


@rule("max", "min")
def _max(out: Result, x: Tensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    other = dim if isinstance(dim, Tensor) else other
    if other is not None:
        return ops.maximum(x, other)
    return ops.amax(x, None) if dim is None else ops.selected(x, out.shape, "MaxBackward0")


@rule(
    "one_hot", "nonzero", "argwhere", "argmax", "argmin", "all", "any", "count_nonzero", "_is_all_true", "_is_any_true"
)
def _fresh(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.ledger.empty(out.shape, out.dtype)


@rule("searchsorted")
def _searchsorted(out: Result, boundaries: Tensor, values: Tensor, **_: Any) -> Tensor:
    return ops.searchsorted(boundaries, values, out.dtype)


@rule("bucketize")
def _bucketize(out: Result, values: Tensor, boundaries: Tensor, **_: Any) -> Tensor:
    return ops.searchsorted(boundaries, values, out.dtype)


@rule("_unique2")
def _unique(out: Result, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    if len(x.shape) != 1 or x.dtype == "bool" or any(shape != (0,) for _, shape, _ in out.all[1:]):
        raise InputError("unique has a rule for rows of numbers, without inverse and counts")
    return ops.unique(x, out.shape[0]), *(x.ledger.empty(shape, dtype) for _, shape, dtype in out.all[1:])


@rule("bincount")
def _bincount(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.bincount(x, out.shape[0])
