"""Functions that write to their first argument."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, operand, rule


@rule("add_")
def _add(out: Result, x: Tensor, other: Any, *, alpha: Any = None) -> Tensor:
    return ops.add_(x, operand(other), scaled=alpha is not None)


@rule("sub_")
def _sub(out: Result, x: Tensor, other: Any) -> Tensor:
    return ops.sub_(x, operand(other))


@rule("mul_")
def _mul(out: Result, x: Tensor, other: Any) -> Tensor:
    return ops.mul_(x, operand(other))


@rule("div_")
def _div(out: Result, x: Tensor, other: Any) -> Tensor:
    return ops.div_(x, operand(other))


@rule("copy_")
def _copy(out: Result, x: Tensor, source: Tensor, *_: Any) -> Tensor:
    return ops.copy_(x, source)


@rule("fill_", "zero_")
def _fill(out: Result, x: Tensor, *_: Any) -> Tensor:
    return ops.fill_(x)


@rule("masked_fill_")
def _masked_fill(out: Result, x: Tensor, mask: Tensor, *_: Any) -> Tensor:
    return ops.masked_fill_(x, mask)
