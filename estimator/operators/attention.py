"""``F.scaled_dot_product_attention``, and its kernel for CPUs (CUDA's kernels are in ``attention_cuda.py``).

Sources: ``aten/src/ATen/native/transformers/attention.cpp``, ``aten/src/ATen/native/cpu/FlashAttentionKernel.cpp``.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from ..ledger import ITEMSIZE, RESULT, Call, Size, Tensor, record
from ..ledger.sizes import Poly, Symbol, format_poly, is_registered, symbol
from . import attention_cuda as cuda
from .attention_math import INPUTS, LSE, MASK, OUT, QKV, additive_mask, math
from .casts import autocast
from .device import THREADS
from .layout import empty_like
from .table import operator, saves
from .views import contiguous, transpose


@operator(
    "scaled_dot_product_attention",
    args=lambda out, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False: (
        query, key, value, attn_mask, dropout_p, is_causal, enable_gqa
    ),
)  # fmt: skip
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = True,
    enable_gqa: bool = True,
) -> Tensor:
    """``F.scaled_dot_product_attention`` of [B, heads, S, D]. A mask replaces ``is_causal``.

    A boolean mask is first converted to the query's dtype (``convert_boolean_attn_mask``). Dropout acts in train mode.
    """
    mask = None if mask is None else autocast(mask)
    value = autocast(value)
    key = autocast(key)
    query = autocast(query)
    if len(query.shape) == len(key.shape) == 4:
        _check_heads(query.shape[1], key.shape[1], enable_gqa)
    if not query.ledger.training:
        dropout_p = 0.0
    if query.ledger.device.selects_attention:
        return cuda.scaled_dot_product_attention(query, key, value, mask, dropout_p, is_causal, enable_gqa)
    fused = dropout_p == 0.0 and _takes_flash(query, key, value, mask, enable_gqa)
    if mask is not None and mask.dtype == "bool":
        mask = additive_mask(mask, query.dtype)
    if not fused:
        return math(query, key, value, mask, dropout_p, is_causal, enable_gqa)
    return _flash(query, key, value, mask)


def _check_heads(heads: Size, of_keys: Size, enable_gqa: bool) -> None:
    """Raise ``InputError`` for heads of queries and keys that no kernel takes. Tensors on meta do not tell."""
    if not isinstance(heads, int) or not isinstance(of_keys, int) or heads == of_keys or 1 in (heads, of_keys):
        return  # one head broadcasts
    if heads % of_keys or not enable_gqa:
        raise InputError(f"attention has {heads} heads of queries for {of_keys} of keys, which is no multiple")


def _takes_flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, enable_gqa: bool) -> bool:
    """``sdp_utils_cpp.cpp: use_flash_attention_cpp`` of a call without dropout.

    Queries, keys and values need four dimensions, one batch and one head size. A mask must not need a gradient, and has
    two dimensions or four.
    """
    inputs = (query, key, value)
    if any(len(x.shape) != 4 or x.shape[0] != query.shape[0] or x.shape[3] != query.shape[3] for x in inputs):
        return False
    if any(x.strides is not None and x.shape[3] != 1 and x.strides[3] != 1 for x in inputs):
        return False
    if key.shape[1] != value.shape[1] or (key.shape[1] != query.shape[1] and not enable_gqa):
        return False
    return mask is None or (not mask.requires_grad and len(mask.shape) in (2, 4))


@saves("ScaledDotProductFlashAttentionForCpuBackward0", *QKV, OUT, LSE, MASK, inputs=INPUTS)
def _flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """``_scaled_dot_product_flash_attention_for_cpu``.

    Saves query, key, value, the result (``at::empty_like(query)``), the log-sum-exp [B, heads, S] in float32 and the
    mask.
    """
    ledger = query.ledger
    batch, heads, seq, dim = query.shape
    logsumexp = ledger.product(lambda: ledger.empty((batch, seq, heads), "float32"))

    def run() -> Tensor:
        out = empty_like(query)
        for _ in range(2):  # scores, values
            ledger.multiply(*query.shape, key.shape[2])
        rows, columns = query_block(seq), key_block(key.shape[2])
        ledger.transient(
            THREADS * rows * (columns + 2 + dim) * ITEMSIZE["float32"]
            + THREADS * rows * columns * _reduced_bytes(query.dtype)
        )
        return out

    return record(
        "ScaledDotProductFlashAttentionForCpuBackward0",
        lambda: ledger.product(run),
        (query, key, value),
        (query, key, value, RESULT, logsumexp, mask),
        _flash_backward,
    )


def _flash_backward(call: Call) -> tuple[Tensor | None, ...]:
    query, key, value = call.saved[:3]
    ledger, dtype = call.ledger, call.grad.dtype
    grads = []
    for x in (query, key, value):
        batch, heads, seq, dim = x.shape
        grads.append(transpose(ledger.empty((batch, seq, heads, dim), dtype), 1, 2))
    grad = contiguous(transpose(call.grad, 1, 2))  # noqa: F841 (the kernel's contiguous copy)
    rows, columns = query_block(query.shape[2]), key_block(key.shape[2])
    for _ in range(5):  # the scores again; the gradients of values, weights, queries and keys
        ledger.multiply(*query.shape, key.shape[2])
    block = THREADS * rows * columns * 2  # attention and its gradient
    ledger.transient(block * ITEMSIZE["float32"] + block * _reduced_bytes(dtype) + rows * ITEMSIZE["float32"])
    return tuple(g if need else None for g, need in zip(grads, call.needs, strict=True))


def _reduced_bytes(dtype: str) -> int:
    """Bytes per element of the 16-bit kernels' second copy of each block, in the tensors' dtype."""
    return 0 if dtype == "float32" else ITEMSIZE[dtype]


def _query_block(seq: Any) -> Any:
    if isinstance(seq, int):
        return 256 if seq >= 768 else 64 if seq >= 192 else min(seq, 32)
    import numpy as np

    return np.where(seq >= 768, 256, np.where(seq >= 192, 64, np.minimum(seq, 32)))


def _key_block(seq: Any) -> Any:
    if isinstance(seq, int):
        return min(seq, 512)
    import numpy as np

    return np.minimum(seq, 512)


def _block(name: str, meaning: str, of: Any, source: str, length: Poly) -> Size:
    """A symbol for a block's size, as a function of the symbols in a dimension."""
    text = format_poly(length)
    if text != "S":
        name = f"{name}_{re.sub('[^0-9A-Za-z]+', '_', text)}"
    if not is_registered(name):
        arguments = tuple(sorted(length.symbols()))

        def function(*values: Any) -> Any:
            return of(length.evaluate(dict(zip(arguments, values, strict=True))))

        Symbol(
            name, meaning.replace("$", text), argument=arguments, function=function, source=source.replace("$", text)
        )
    return symbol(name)


def query_block(seq: Size) -> Size:
    """``q_split_size`` of the CPU flash kernel: rows per block. One token has a row for each query head of a group."""
    if isinstance(seq, int):
        rows: int = _query_block(seq)
        return rows
    if not seq.symbols() & {"S", "N", "C", "T"}:
        return seq
    meaning = "rows of a flash-attention block: 256 from $ >= 768 tokens on, 64 from 192 on, else min($, 32)"
    return _block("query_block", meaning, _query_block, "256 if $ >= 768 else 64 if $ >= 192 else min($, 32)", seq)


def key_block(seq: Size) -> Size:
    """``kv_split_size`` of the CPU flash kernel: keys per block."""
    if isinstance(seq, int):
        columns: int = _key_block(seq)
        return columns
    query_block(seq)  # registered first, so that their order in a product is fixed
    return _block("key_block", "columns of a flash-attention block: min($, 512)", _key_block, "min($, 512)", seq)


key_block(symbol("S"))  # registered from the start, so that its place among symbols is fixed
