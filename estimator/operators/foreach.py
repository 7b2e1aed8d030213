"""Functions that optimizers and clipping call: in place on one tensor, or on lists of tensors."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..ledger import Tensor
from .table import Result, recorded


@recorded("floor_divide_", same=("__ifloordiv__",))
@recorded("remainder_", same=("__imod__",))
@recorded("lerp_", "addcmul_", "addcdiv_", "square_", "sqrt_", "rsqrt_", "sign_")
def _in_place(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    if x.ledger.grad_enabled and x.requires_grad:
        raise InputError("the model runs an optimizer's function with a gradient, for which there is no rule")
    return x


@recorded(
    "_foreach_sqrt", "_foreach_mul", "_foreach_add", "_foreach_sub", "_foreach_div", "_foreach_neg", "_foreach_pow",
    "_foreach_norm", "_foreach_abs", "_foreach_maximum", "_foreach_lerp", "_foreach_sign", "_foreach_reciprocal",
)  # fmt: skip
def _each(out: Result, *_: Any, **__: Any) -> list[Tensor]:
    """A list of new tensors. What fused kernels keep beside them, some kilobytes of addresses, is left out."""
    return [out.ledger.empty(shape, dtype) for _, shape, dtype in out.all]


@recorded(
    "_foreach_add_", "_foreach_sub_", "_foreach_mul_", "_foreach_div_", "_foreach_neg_", "_foreach_pow_",
    "_foreach_sqrt_", "_foreach_lerp_", "_foreach_addcmul_", "_foreach_addcdiv_", "_foreach_maximum_", "_foreach_zero_",
    "_foreach_copy_", "_foreach_sign_", "_foreach_clamp_max_", "_foreach_clamp_min_",
)  # fmt: skip
def _each_in_place(out: Result, tensors: tuple[Tensor, ...], *_: Any, **__: Any) -> tuple[Tensor, ...]:
    return tensors
