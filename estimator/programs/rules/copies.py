"""Copies, changes of dtype, and new tensors."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...errors import InputError
from ...ledger import Tensor
from .table import Result, flattened, rule


@rule("contiguous")
def _contiguous(out: Result, x: Tensor, **_: Any) -> Tensor:
    return ops.contiguous(x)


@rule("clone")
def _clone(out: Result, x: Tensor, *, memory_format: str = "preserve_format") -> Tensor:
    return ops.clone(x, memory_format == "preserve_format")


@rule("to")
def _to(out: Result, x: Tensor, dtype: str, copy: bool = False) -> Tensor:
    return ops.clone(x, preserve=True) if copy and dtype == x.dtype else ops.to(x, dtype)


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
    "new_tensor", "linspace", "randint",
)  # fmt: skip
def _factory(out: Result, *_: Any, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, out.dtype)


@rule("new_zeros", "new_ones", "new_empty", "new_full")
def _new(out: Result, x: Tensor, *_: Any, dtype: str | None = None, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, dtype or x.dtype)


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "bernoulli")
def _like(
    out: Result, x: Tensor, *_: Any, dtype: str | None = None, memory_format: str = "preserve_format", **__: Any
) -> Tensor:
    if memory_format != "preserve_format":
        return x.ledger.empty(x.shape, dtype or x.dtype)
    return ops.empty_like(x, dtype or x.dtype)


@rule("repeat")
def _repeat(out: Result, x: Tensor, *repeats: Any) -> Tensor:
    return ops.repeat(x, *flattened(repeats))


@rule("repeat_interleave")
def _repeat_interleave(out: Result, x: Tensor, repeats: Any, dim: Any = None, output_size: Any = None) -> Tensor:
    if isinstance(repeats, Tensor):
        raise InputError("the model repeats elements by numbers that a tensor holds, for which there is no rule")
    return ops.repeat_interleave(ops.reshape(x, (x.numel,)) if dim is None else x, repeats, dim or 0)


@rule("triu", "tril")
def _triu(out: Result, x: Tensor, diagonal: int = 0) -> Tensor:
    return ops.triu(x)


@rule("flip")
def _flip(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.flip(x)


@rule("roll")
def _roll(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.roll(x)


@rule("diff")
def _diff(out: Result, x: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    return ops.diff(x, dim, (prepend, append))


@rule("tril_indices", "triu_indices", "randperm")
def _indices(out: Result, *_: Any, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, out.dtype)


@rule("block_diag")
def _block_diag(out: Result, tensors: tuple[Tensor, ...]) -> Tensor:
    return ops.block_diag(*tensors)
