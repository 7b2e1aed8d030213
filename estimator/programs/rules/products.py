"""Matrix products."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...errors import InputError
from ...ledger import Tensor
from ...ledger.sizes import sample
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


@rule("conv_transpose2d")
def _conv_transpose2d(
    out: Result,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    if len(x.shape) != 4 or groups != 1 or weight.shape[1] != 1:
        raise InputError("conv_transpose2d of several groups, to several channels, or without a batch has no rule")
    return ops.conv_transpose2d(x, weight, bias, (out.shape[-2], out.shape[-1]))


@rule("grouped_mm", "_grouped_mm")
def _grouped_mm(
    out: Result, a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Any = None, out_dtype: Any = None
) -> Tensor:
    if offs is None or bias is not None or (len(a.shape), len(b.shape)) != (2, 3):
        raise InputError("grouped_mm of other operands than rows and a matrix of each group has no rule")
    return ops.grouped_mm(a, b, offs)


@rule("solve_triangular", "linalg_solve_triangular")
def _solve_triangular(
    out: Result, a: Tensor, b: Tensor, upper: bool = False, left: bool = True, unitriangular: bool = False
) -> Tensor:
    if not left:
        raise InputError("linalg.solve_triangular with left=False has no rule")
    return ops.linalg_solve_triangular(a, b)


@rule("linalg_qr")
def _linalg_qr(out: Result, a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    if mode != "reduced" or len(a.shape) != 2 or sample(a.shape[0]) < sample(a.shape[1]):
        raise InputError("linalg.qr has a rule for the reduced factors of one matrix with more rows than columns")
    return ops.linalg_qr(a)
