"""Sparse matrices."""

from __future__ import annotations

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, rule


@rule("sparse_coo_tensor")
def _sparse_coo_tensor(out: Result, indices: Tensor, values: Tensor, size: object = None) -> Tensor:
    return ops.sparse_coo_tensor(indices, values, out.shape)


@rule("coalesce")
def _coalesce(out: Result, x: Tensor) -> Tensor:
    return ops.coalesce(x)


@rule("sparse_mm")
def _sparse_mm(out: Result, x: Tensor, dense: Tensor) -> Tensor:
    return ops.sparse_mm(x, dense)


@rule("to_dense")
def _to_dense(out: Result, x: Tensor) -> Tensor:
    return ops.to_dense(x)
