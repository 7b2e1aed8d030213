"""Attention kernels and masks, as transformers calls them.

Sources: ``transformers/integrations/sdpa_attention.py``, ``transformers/masking_utils.py``,
``aten/src/ATen/native/cpu/FlashAttentionKernel.cpp``, ``aten/src/ATen/native/transformers/attention.cpp``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import ops
from .ledger import ITEMSIZE, Call, Ledger, Shape, Tensor, record
from .symbols import Size, Symbol, symbol

if TYPE_CHECKING:
    from .architectures.config import ForwardContext


def _query_block(s: object) -> object:
    return _steps(s, (256, 768), (64, 192), 32)


def _steps(s: object, *rows: object) -> object:
    raise NotImplementedError


def causal_mask(context: ForwardContext, dtype: str, window: int | None) -> Tensor | None:
    """The mask handed to the attention function, or ``None`` where it may be skipped.

    Eager attention adds a float mask [B, 1, S, S]. SDPA needs none for plain causal attention; a
    sliding window no longer than the sequence makes it a boolean [1, 1, S, S] expanded over B, a
    padding mask a boolean [B, 1, S, S].
    """
    ledger, batch, seq = context.ledger, context.batch, context.seq
    windowed = window is not None and context.window_active(window)
    if context.attention == "eager":
        mask = _boolean_mask(ledger, batch, seq, padded=False, windowed=window is not None)
        zero = ledger.empty((), dtype)
        return _where(ledger, mask, dtype, zero)
    if not windowed:
        return None
    return _boolean_mask(ledger, batch, seq, padded=False, windowed=True)


def _boolean_mask(ledger: Ledger, batch: Size, seq: Size, padded: bool, windowed: bool) -> Tensor:
    causal = ledger.empty((1, 1, seq, seq), "bool")
    if windowed:
        result = ledger.empty((1, 1, seq, seq), "bool")
        causal = ledger.empty((1, 1, seq, seq), "bool")
        result = ledger.empty((1, 1, seq, seq), "bool")
        causal = result
    return ops.expand(causal, (batch, 1, seq, seq))


def _where(ledger: Ledger, mask: Tensor, dtype: str, zero: Tensor) -> Tensor:
    return ledger.empty(mask.shape, dtype)


def repeat_kv(x: Tensor, groups: Size) -> Tensor:
    """Repeat key/value heads: a copy, unless there is one head (then a view) or one group."""
    if groups == 1:
        return x
    batch, heads, seq, dim = x.shape
    x = ops.expand(ops.unsqueeze(x, 2), (batch, heads, groups, seq, dim))
    return ops.reshape(x, (batch, heads * groups, seq, dim))


def eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, groups: Size, dropout: float) -> Tensor:
    """``eager_attention_forward``: [B, heads, S, D] -> [B, S, heads, D]."""
    key_states = repeat_kv(key, groups)
    value_states = repeat_kv(value, groups)
    weights = ops.mul_scalar(ops.matmul(query, ops.transpose(key_states, 2, 3)))
    if mask is not None:
        weights = ops.add(weights, mask)
    weights = ops.to(ops.softmax_last(weights, "float32"), query.dtype)
    weights = ops.dropout(weights, dropout)
    out = ops.matmul(weights, value_states)
    return ops.contiguous(ops.transpose(out, 1, 2))


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, groups: Size, dropout: float) -> Tensor:
    """``sdpa_attention_forward`` on a CPU: grouped heads go to the kernel unless a mask is given."""
    if mask is not None:
        key = repeat_kv(key, groups)
        value = repeat_kv(value, groups)
    out = scaled_dot_product_attention(query, key, value, mask)
    return ops.contiguous(ops.transpose(out, 1, 2))


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """``F.scaled_dot_product_attention`` on a CPU without dropout: the flash kernel."""
    query, key, value = ops.autocast(query), ops.autocast(key), ops.autocast(value)
    ledger = query.ledger
    if mask is not None and mask.dtype == "bool":
        # convert_boolean_attn_mask: an additive mask in the query's dtype.
        mask = ledger.empty(mask.shape, query.dtype)
    out = ledger.empty(query.shape, query.dtype, query.strides)
    batch, heads, seq, dim = query.shape
    logsumexp = ledger.empty((batch, seq, heads), "float32")
    saved = (query, key, value, out, logsumexp, mask)
    return record("ScaledDotProductFlashAttentionForCpuBackward0", out, (query, key, value), saved, _flash_backward)


def _flash_backward(call: Call) -> tuple[Tensor | None, ...]:
    query, key, value = call.saved[:3]
    ledger = call.ledger
    grads = tuple(ledger.empty(x.shape, x.dtype, x.strides) for x in (query, key, value))
    return tuple(g if need else None for g, need in zip(grads, call.needs, strict=True))
