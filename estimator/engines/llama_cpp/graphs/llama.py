"""Llama and the models with its block: Llama 1 to 3, Mistral, Mixtral, Qwen2, Qwen3, Qwen3-MoE, Granite, SmolLM3.

``src/models/llama.cpp``, ``qwen2.cpp``, ``qwen3.cpp``, ``qwen3moe.cpp``, ``granite.cpp``, ``smollm3.cpp``.
"""

from __future__ import annotations

from ..builder import Builder
from ..ggml import Graph, Tensor, like


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams = b.hparams
    x = b.inp_embd()
    cache = b.inp_attn(b.context.base)
    for layer in range(hparams.n_layer):
        more = b.frequencies(layer, "rope_freqs.weight", "rope_factors_long.weight")
        residual = x
        x = b.norm(x, b.of(layer, "attn_norm.weight"))
        q, k, v = b.qkv(layer, x, hparams.n_embd_head_k)
        q_norm, k_norm = b.maybe(layer, "attn_q_norm.weight"), b.maybe(layer, "attn_k_norm.weight")
        if q_norm is not None:
            q = b.norm(q, q_norm)
        if hparams.rotated[layer]:
            q = b.rope(q, *more)
        if k_norm is not None:
            k = b.norm(k, k_norm)
        if hparams.rotated[layer]:
            k = b.rope(k, *more)
        x = b.attention(cache, layer, q, k, v)
        x = feed_forward(b, layer, x, residual)
    return b.head(x, scaled=bool(hparams.logit_scale))


def feed_forward(b: Builder, layer: int, x: Tensor, residual: Tensor) -> Tensor:
    """The second half of a layer: the residual connection, and the MLP or the experts."""
    x, residual = b.last_rows(layer, x, residual)
    if b.hparams.residual_scale:
        x = like("scale", x)
    after = like("add", x, residual)
    x = b.norm(after, b.of(layer, "ffn_norm.weight"))
    x = b.ffn(layer, x) if b.maybe(layer, "ffn_gate_inp.weight") is None else routed(b, layer, x)
    if b.hparams.residual_scale:
        x = like("scale", x)
    return like("add", x, after)


def routed(b: Builder, layer: int, x: Tensor) -> Tensor:
    """The chosen experts, and the layer's shared experts if it has any."""
    out = b.moe(layer, x, normalised=True, scale=b.hparams.expert_weights_scale)
    if b.maybe(layer, "ffn_up_shexp.weight") is None:
        return out
    return like("add", out, b.ffn(layer, x, "_shexp"))
