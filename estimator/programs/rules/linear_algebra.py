"""Norms of matrices, solutions of linear equations, Fourier transforms, and products of other kinds."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Tensor
from .table import Result, rule


@rule("kron")
def _kron(out: Result, a: Tensor, b: Tensor) -> Tensor:
    return ops.kron(a, b)


@rule("linalg_solve")
def _solve(out: Result, a: Tensor, b: Tensor, *, left: bool = True) -> Tensor:
    return ops.linalg_solve(a, b)


@rule("real")
def _real(out: Result, x: Tensor) -> Tensor:
    return ops.real(x)


@rule("fft_fft", "fft_ifft")
def _fft(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.fft(x)


@rule("fft_ifft2")
def _ifft2(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.fft_ifft2(x)
