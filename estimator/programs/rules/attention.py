"""Attention."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Tensor
from ..attention import flash_attn
from .table import Result, rule


@rule("scaled_dot_product_attention")
def _attention(
    out: Result,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Tensor:
    return ops.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)


@rule("flash_attn")
def _flash_attn(out: Result, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if value.dtype == "float32":  # a quantised layer's, behind a float32 norm; of others the program has the casts
        return flash_attn(query, key, value, out.dtype)
    return ops.flash_attn(query, key, value)
