"""``_scaled_dot_product_attention_math``: attention out of single operators, on any device.

Source: ``aten/src/ATen/native/transformers/attention.cpp``.
"""

from __future__ import annotations

from ..errors import InputError
from ..ledger import RESULT, Size, Tensor, record
from ..ledger.sizes import symbol
from .casts import to
from .copies import repeat_interleave
from .device import REDUCED
from .elementwise import SCALAR, dropout, mul_scalar, where
from .in_place import add_
from .norms import SOFTMAX, softmax_backward
from .products import matmul
from .table import Kept, saves
from .views import transpose

INPUTS = ("query", "key", "value")
_SCORES = "backward computes the attention weights again from query and key"
QKV = (
    Kept("query", because=_SCORES),
    Kept("key", because=_SCORES),
    Kept("value", because="the gradient of the attention weights is the incoming one times value"),
)
OUT = Kept("its result", because="each row's sum of result times gradient is part of softmax's gradient")
LSE = Kept("each row's log-sum-exp", because="with it backward computes the attention weights again")
MASK = Kept("the mask", because=_SCORES)


def additive_mask(mask: Tensor, dtype: str) -> Tensor:
    """``convert_boolean_attn_mask``: ``where`` of two numbers, each a tensor on the device while it runs."""
    scalars = [mask.ledger.empty((), dtype) for _ in range(2)]
    bias = where(mask, SCALAR, SCALAR, dtype)
    del scalars
    return bias


def math(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout_p: float = 0.0,
    is_causal: bool = True,
    enable_gqa: bool = True,
) -> Tensor:
    """``_scaled_dot_product_attention_math``, in float32.

    Saves the weights [B, heads, S, keys] and copies of queries, keys and values. Both factors are scaled before the
    product. Causal attention makes a mask. With ``enable_gqa``, grouped keys and values are repeated; without, the
    products broadcast. The caller drops a copy of the weights in the inputs' dtype that is returned too. Autocast has
    cast the inputs, and casts nothing of what these operators are given.
    """
    ledger = query.ledger
    autocast, ledger.autocast = ledger.autocast, None
    out = _math(query, key, value, bias, dropout_p, is_causal, enable_gqa)
    ledger.autocast = autocast
    return out


def _math(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout_p: float, is_causal: bool, enable_gqa: bool
) -> Tensor:
    dtype = query.dtype
    query, key, value = (to(x, "float32") if x.dtype in REDUCED else x for x in (query, key, value))
    query_scaled = mul_scalar(query)
    if is_causal and bias is None:
        bias = _causal_bias(query, key)
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        groups = _groups(query, key)
        repeated_key, repeated_value = (repeat_interleave(x, groups, -3) for x in (key, value))
    else:
        repeated_key, repeated_value = key, value
    weights = matmul(query_scaled, mul_scalar(transpose(repeated_key, -2, -1)))
    if bias is not None:
        weights = add_(weights, bias)
    weights = safe_softmax(weights)
    weights = dropout(weights, dropout_p)
    returned = to(weights, dtype)
    out = to(matmul(weights, repeated_value), dtype)
    del returned
    return out


def _causal_bias(query: Tensor, key: Tensor) -> Tensor:
    ledger, shape = query.ledger, (query.shape[-2], key.shape[-2])
    ones = ledger.empty(shape, "bool")
    mask = ledger.empty(shape, "bool")  # tril
    del ones
    return additive_mask(mask, query.dtype)


def _groups(query: Tensor, key: Tensor) -> Size:
    """Query heads per key/value head."""
    heads, kv_heads = query.shape[-3], key.shape[-3]
    if isinstance(kv_heads, int):
        return heads // kv_heads
    if heads == kv_heads * symbol("G"):
        return symbol("G")
    raise InputError("grouped heads in math attention need numbers of heads that are known")


@saves("SafeSoftmaxBackward0", SOFTMAX)
def safe_softmax(x: Tensor) -> Tensor:
    """``_safe_softmax(x, -1)``: saves its result. It looks for rows that are wholly masked."""

    def make() -> Tensor:
        ledger = x.ledger
        out = ledger.empty(x.shape, x.dtype)
        masked = ledger.empty(x.shape, "bool")
        rows = ledger.empty((*x.shape[:-1], 1), "bool")
        zero = ledger.empty((), x.dtype)
        del masked, rows, zero
        return out

    return record("SafeSoftmaxBackward0", make, (x,), (RESULT,), softmax_backward, x.dtype)
