"""Functions that make a new tensor, whatever is in it."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..ledger import FLOATING, Tensor
from .layout import empty_like
from .table import Result, recorded

_NEW = (
    "arange", "zeros", "ones", "empty", "full", "tensor", "rand", "randn", "eye", "scalar_tensor", "as_tensor",
    "new_tensor", "linspace", "randint", "tril_indices", "triu_indices", "randperm",
)  # fmt: skip
_NEW_BESIDE = ("new_zeros", "new_ones", "new_empty", "new_full")
_LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
FACTORIES = {*_NEW, *_NEW_BESIDE, *_LIKE}
"""Functions that take a ``device``."""


@recorded(*_NEW)
def _new(out: Result, *_: Any, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, out.dtype)


@recorded(*_NEW_BESIDE)
def _new_beside(out: Result, x: Tensor, *_: Any, dtype: str | None = None, **__: Any) -> Tensor:
    return out.ledger.empty(out.shape, dtype or x.dtype)


@recorded(*_LIKE, "bernoulli")
def _like(
    out: Result, x: Tensor, *_: Any, dtype: str | None = None, memory_format: str = "preserve_format", **__: Any
) -> Tensor:
    if memory_format != "preserve_format":
        return x.ledger.empty(x.shape, dtype or x.dtype)
    return empty_like(x, dtype or x.dtype)


@recorded(
    "one_hot", "nonzero", "argwhere", "argmax", "argmin", "all", "any", "count_nonzero", "_is_all_true", "_is_any_true"
)
def _found(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """What is read off a tensor, without a derivative."""
    return x.ledger.empty(out.shape, out.dtype)


@recorded("unique_consecutive")
def _all_found(out: Result, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    """As ``_found``, of several results."""
    return tuple(x.ledger.empty(shape, dtype) for _, shape, dtype in out.all)


@recorded("prod")
def _prod(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Of integers, which have no derivative."""
    if x.dtype in FLOATING:
        raise InputError("this model calls prod of floating numbers, for which this version has no rule")
    return x.ledger.empty(out.shape, out.dtype)
