"""Phi-3 and Phi-4: one weight for queries, keys and values, and one for gate and up. ``src/models/phi3.cpp``."""

from __future__ import annotations

from ..builder import Builder
from ..ggml import Graph, like


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams = b.hparams
    x = b.inp_embd()
    cache = b.inp_attn(b.context.base)
    for layer in range(hparams.n_layer):
        more = b.frequencies(layer, "rope_factors_long.weight")
        residual = x
        x = b.norm(x, b.of(layer, "attn_norm.weight"))
        q, k, v = b.qkv(layer, x, hparams.n_embd_head_k)
        q, k = b.rope(q, *more), b.rope(k, *more)
        x = b.attention(cache, layer, like("scale", q), k, v)
        x, residual = b.last_rows(layer, x, residual)
        residual = like("add", x, residual)
        x = b.norm(residual, b.of(layer, "ffn_norm.weight"))
        if b.maybe(layer, "ffn_gate_inp.weight") is None:
            x = b.ffn(layer, x)
        else:
            x = b.moe(layer, x, normalised=True, scale=hparams.expert_weights_scale)
        x = like("add", residual, x)
    return b.head(x)
