"""Copies, changes of dtype, and new tensors."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Size, Tensor
from .table import Result, rule


@rule("contiguous")
def _contiguous(out: Result, x: Tensor, **_: Any) -> Tensor:
    return ops.contiguous(x)


@rule("clone")
def _clone(out: Result, x: Tensor, **_: Any) -> Tensor:
    return ops.clone(x)


@rule("to")
def _to(out: Result, x: Tensor, dtype: str, copy: bool = False) -> Tensor:
    return ops.clone(x) if copy and dtype == x.dtype else ops.to(x, dtype)


@rule("cat")
def _cat(out: Result, tensors: tuple[Tensor, ...], dim: int = 0) -> Tensor:
    return ops.cat(tensors, out.shape)


@rule("stack")
def _stack(out: Result, tensors: tuple[Tensor, ...], dim: int = 0) -> Tensor:
    return ops.stack(tensors, dim % len(out.shape))


@rule("pad")
def _pad(out: Result, x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    return ops.pad(x, out.shape)


@rule(
    "arange", "zeros", "ones", "empty", "full", "tensor", "rand", "randn", "eye", "scalar_tensor", "as_tensor",
    "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "linspace", "randint",
)  # fmt: skip
def _factory(out: Result, *_: Any, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, out.dtype)


@rule("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
def _like(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, out.dtype, x.strides if x.is_dense else None)


@rule("repeat")
def _repeat(out: Result, x: Tensor, *repeats: Any) -> Tensor:
    return ops.repeat(x, *(repeats[0] if isinstance(repeats[0], tuple) else repeats))


@rule("repeat_interleave")
def _repeat_interleave(out: Result, x: Tensor, repeats: Size, dim: int, **_: Any) -> Tensor:
    return ops.repeat_interleave(x, repeats, dim)


@rule("block_diag")
def _block_diag(out: Result, tensors: tuple[Tensor, ...]) -> Tensor:
    return ops.block_diag(*tensors)
