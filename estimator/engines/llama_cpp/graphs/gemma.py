"""Gemma 2 and Gemma 3: norms before and after attention and MLP, layers with a window, scaled embeddings.

``src/models/gemma2.cpp``, ``gemma3.cpp``.
"""

from __future__ import annotations

from ..builder import Builder
from ..ggml import Graph, like


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams = b.hparams
    capped = hparams.architecture == "gemma2"
    x = b.scaled_embd() if hparams.architecture == "gemma3" else like("scale", b.inp_embd())
    full = b.inp_attn(b.context.base)
    windowed = full if b.context.swa is None else b.inp_attn(b.context.swa)
    for layer in range(hparams.n_layer):
        residual = x
        x = b.norm(x, b.of(layer, "attn_norm.weight"))
        q, k, v = b.qkv(layer, x, hparams.n_embd_head_k)
        q_norm, k_norm = b.maybe(layer, "attn_q_norm.weight"), b.maybe(layer, "attn_k_norm.weight")
        q = b.rope(q if q_norm is None else b.norm(q, q_norm))
        k = b.rope(k if k_norm is None else b.norm(k, k_norm))
        q = like("scale", q)
        x = b.attention(windowed if hparams.is_swa[layer] else full, layer, q, k, v, softcap=capped)
        x, residual = b.last_rows(layer, x, residual)
        x = b.norm(x, b.of(layer, "post_attention_norm.weight"))
        after = like("add", x, residual)
        x = b.norm(after, b.of(layer, "ffn_norm.weight"))
        x = b.ffn(layer, x)
        x = b.norm(x, b.of(layer, "post_ffw_norm.weight"))
        x = like("add", x, after)
    return b.head(x, softcap=capped or bool(hparams.final_softcap))
