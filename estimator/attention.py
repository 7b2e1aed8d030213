"""Attention and its masks, as transformers runs them; kernels of a CPU (CUDA's are in ``attention_cuda``).

Sources: ``transformers/integrations/sdpa_attention.py``, ``transformers/masking_utils.py``,
``aten/src/ATen/native/transformers/attention.cpp``,
``aten/src/ATen/native/cpu/FlashAttentionKernel.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import ops
from .ledger import ITEMSIZE, RESULT, Call, Counted, Ledger, Tensor, record
from .symbols import Size, Symbol, is_registered, simplify, symbol

if TYPE_CHECKING:
    from .programs.step import Inputs


def causal_mask(inputs: Inputs, dtype: str, windowed: bool) -> Tensor | None:
    """``create_causal_mask`` or, ``windowed``, ``create_sliding_window_causal_mask``.

    Eager attention always adds a float mask [B, 1, S, keys]. SDPA does without where attention is
    plainly causal; a padding mask, a sliding window no longer than the keys, or keys before several
    queries' own make it a boolean mask [B, 1, S, keys], seen through a [1, 1, S, keys] storage unless
    padding asks for it. The package flash-attn takes no mask but the one of the padding.
    """
    if inputs.step.attention == "flash":
        return None
    if inputs.step.attention == "eager":
        return ops.select_mask(_boolean_mask(inputs, windowed), dtype)
    always = (
        inputs.past and inputs.seq != 1 if inputs.generated is None else inputs.generated.static and inputs.seq == 1
    )
    if inputs.step.attention_mask or (windowed and inputs.step.window_reached) or always:
        return _boolean_mask(inputs, windowed)
    return None


def _boolean_mask(inputs: Inputs, windowed: bool) -> Tensor:
    ledger, batch = inputs.ledger, inputs.batch
    pairs = (1, 1, inputs.seq, inputs.keys(windowed))
    causal = ledger.empty(pairs, "bool")
    if windowed:
        causal = ledger.empty(pairs, "bool")  # new_ones(()) & inside the window
        causal = _and(causal, ledger.empty(pairs, "bool"))
    if inputs.step.attention_mask:
        if not windowed:
            causal = ledger.empty(pairs, "bool")  # new_ones(()) & causal
        return ledger.empty((batch, *pairs[1:]), "bool")
    if inputs.generated is not None and inputs.generated.static:
        return ledger.empty((batch, *pairs[1:]), "bool")  # contiguous, in prepare_inputs_for_generation
    return ops.expand(causal, (batch, *pairs[1:]))


def _and(a: Tensor, b: Tensor) -> Tensor:
    return a.ledger.empty(a.shape, a.dtype)


class Cache:
    """``DynamicCache``: each layer's keys and values, [B, kv_heads, tokens, D], held to the step's end.

    ``past`` are those that each written layer starts with. ``windows`` are the sizes that layers
    with a sliding window keep in a tensor each.
    """

    def __init__(
        self, ledger: Ledger, past: Iterable[tuple[Tensor, Tensor]] = (), windows: Tensor | None = None
    ) -> None:
        self._past = [[key, value] for key, value in past]
        self._windows = windows
        self._held = Counted(ledger)

    @property
    def nbytes(self) -> Size:
        """Bytes of all layers' keys and values: with a sliding window too, whose layers keep a view of all tokens."""
        return self._held.nbytes

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The next layer's keys and values, behind those it has."""
        if not self._past:
            return self._held.add(ops.cat_growing(key)), self._held.add(ops.cat_growing(value))
        past = self._past.pop(0)
        return self._held.add(_behind(past.pop(0), key)), self._held.add(_behind(past.pop(0), value))


def _behind(past: Tensor, x: Tensor) -> Tensor:
    batch, heads, seq, dim = x.shape
    return ops.cat((past, x), (batch, heads, past.shape[2] + seq, dim))


def repeat_kv(x: Tensor, groups: Size) -> Tensor:
    """Repeat key/value heads: a copy, unless there is one group or one head (then a view)."""
    if groups == 1:
        return x
    batch, heads, seq, dim = x.shape
    x = ops.expand(ops.unsqueeze(x, 2), (batch, heads, groups, seq, dim))
    return ops.reshape(x, (batch, heads * groups, seq, dim))


Attended = tuple[Tensor, "Tensor | None"]
"""The output [B, S, heads, D], and the weights [B, heads, S, S] where they exist."""


def eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, groups: Size, dropout: float) -> Attended:
    """``eager_attention_forward`` of [B, heads, S, D]."""
    key_states = repeat_kv(key, groups)
    value_states = repeat_kv(value, groups)
    weights = ops.mul_scalar(ops.matmul(query, ops.transpose(key_states, 2, 3)))
    if mask is not None:
        weights = ops.add(weights, mask)
    weights = ops.to(ops.softmax_last(weights, "float32"), query.dtype)
    weights = ops.dropout(weights, dropout)
    out = ops.matmul(weights, value_states)
    out = ops.contiguous(ops.transpose(out, 1, 2))
    return out, weights


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, groups: Size, wide_heads: bool) -> Attended:
    """``sdpa_attention_forward``: grouped heads go to the kernel as they are, unless there is a mask
    or the heads are wider than 256 (``use_gqa_in_sdpa``). The memory-efficient kernel takes none, so who
    restricts PyTorch to it repeats keys and values, too.
    """
    batch, heads, seq, dim = query.shape
    kernel_groups = mask is None and not wide_heads and query.ledger.sdpa_kernel != "efficient"
    if not kernel_groups and groups != 1 and seq == 1:
        query = ops.reshape(query, (batch, key.shape[1], groups, dim))  # pack_gqa
    elif not kernel_groups:
        key = repeat_kv(key, groups)
        value = repeat_kv(value, groups)
    out = scaled_dot_product_attention(query, key, value, mask)
    out = ops.reshape(out, (batch, heads, seq, dim))
    out = ops.contiguous(ops.transpose(out, 1, 2))
    return out, None


def flash(query: Tensor, key: Tensor, value: Tensor, dtype: str) -> Attended:
    """``flash_attention_forward`` (transformers) of a batch without padding: grouped heads go as they are.

    Float32 queries (norms in float32 make the hidden states so) are cast, keys and values with them, to autocast's
    dtype or, without, to ``dtype``: that of a quantised base before it was quantised, else that of the projections'
    weights (``get_target_dtype``, ``fa_peft_integration_check``).
    """
    if query.dtype == "float32":
        dtype = query.ledger.autocast or dtype
        query, key, value = ops.to(query, dtype), ops.to(key, dtype), ops.to(value, dtype)
    from . import attention_cuda

    return attention_cuda.flash_attn(query, key, value), None


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """``F.scaled_dot_product_attention`` without dropout; on a CPU always the flash kernel.

    Saves query, key, value, its result, the log-sum-exp [B, heads, S] in float32 and the mask,
    which a boolean mask becomes in the query's dtype (``convert_boolean_attn_mask``).
    """
    value = ops.autocast(value)
    key = ops.autocast(key)
    query = ops.autocast(query)
    if query.ledger.device == "cuda":
        from . import attention_cuda

        return attention_cuda.scaled_dot_product_attention(query, key, value, mask)
    if mask is not None:
        mask = ops.select_mask(mask, query.dtype)
    ledger = query.ledger
    batch, heads, seq, dim = query.shape
    logsumexp = ledger.product(lambda: ledger.empty((batch, seq, heads), "float32"))

    def run() -> Tensor:
        out = ledger.empty(query.shape, query.dtype, query.strides)
        for _ in range(2):  # scores, values
            ledger.multiply(*query.shape, key.shape[2])
        rows, columns = query_block(seq), key_block(key.shape[2])
        ledger.transient(
            ops.THREADS * rows * (columns + 2 + dim) * ITEMSIZE["float32"]
            + ops.THREADS * rows * columns * _reduced_bytes(query.dtype)
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
        grads.append(ops.transpose(ledger.empty((batch, seq, heads, dim), dtype), 1, 2))
    grad = ops.contiguous(ops.transpose(call.grad, 1, 2))  # noqa: F841 (the kernel's own copy, if it needs one)
    rows, columns = query_block(query.shape[2]), key_block(key.shape[2])
    for _ in range(5):  # scores again, gradients of values, weights, queries, keys
        ledger.multiply(*query.shape, key.shape[2])
    block = ops.THREADS * rows * columns * 2  # attention and its gradient
    ledger.transient(block * ITEMSIZE["float32"] + block * _reduced_bytes(dtype) + rows * ITEMSIZE["float32"])
    return tuple(g if need else None for g, need in zip(grads, call.needs, strict=True))


def _reduced_bytes(dtype: str) -> int:
    """16-bit kernels keep a copy of each block in the tensors' dtype."""
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


def _block(name: str, meaning: str, of: Any, source: str, offset: int) -> Size:
    """The symbol of a block's size as a function of S, where the dimension is S + ``offset``."""
    if offset:
        name = f"{name}_{offset}"
    if not is_registered(name):
        length = f"S + {offset}" if offset else "S"
        meaning, source = meaning.replace("$", length), source.replace("$", length)
        Symbol(name, meaning, argument="S", function=lambda seq: of(seq + offset), source=source)
    return symbol(name)


def _offset(seq: Size) -> int | None:
    """How much longer than S a dimension is; ``None`` for one that does not grow with S."""
    offset = simplify(seq - symbol("S"))
    return offset if isinstance(offset, int) else None


def query_block(seq: Size) -> Size:
    """``q_split_size`` of the CPU flash kernel (a packed single token has one row per group)."""
    if isinstance(seq, int):
        rows: int = _query_block(seq)
        return rows
    offset = _offset(seq)
    if offset is None:
        return seq
    meaning = "rows of a flash-attention block: 256 from $ >= 768 tokens on, 64 from 192 on, else min($, 32)"
    return _block("query_block", meaning, _query_block, "256 if $ >= 768 else 64 if $ >= 192 else min($, 32)", offset)


def key_block(seq: Size) -> Size:
    """``kv_split_size`` of the CPU flash kernel."""
    if isinstance(seq, int):
        columns: int = _key_block(seq)
        return columns
    meaning = "columns of a flash-attention block: min($, 512)"
    return _block("key_block", meaning, _key_block, "min($, 512)", _offset(seq) or 0)


query_block(symbol("S")), key_block(symbol("S"))  # registered from the start, so that their order is fixed
