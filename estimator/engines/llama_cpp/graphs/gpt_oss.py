"""gpt-oss: attention sinks, a window in every other layer, experts with biases. ``src/models/openai-moe.cpp``."""

from __future__ import annotations

from ..builder import Builder
from ..ggml import Graph, get_rows, like


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams = b.hparams
    x = b.inp_embd()
    full = b.inp_attn(b.context.base)
    windowed = full if b.context.swa is None else b.inp_attn(b.context.swa)
    for layer in range(hparams.n_layer):
        residual = x
        x = b.norm(x, b.of(layer, "attn_norm.weight"))
        q, k, v = b.qkv(layer, x, hparams.n_rot)
        q, k = b.rope(q), b.rope(k)
        cache = windowed if hparams.is_swa[layer] else full
        x = b.attention(cache, layer, q, k, v, sinks=b.maybe(layer, "attn_sinks.weight"))
        if b.build.early_rows:
            x, residual = b.last_rows(layer, x, residual)
        after = like("add", x, residual)
        x = b.norm(after, b.of(layer, "post_attention_norm.weight"))
        x = b.moe(layer, x, normalised=False, scale=hparams.expert_weights_scale, gating="softmax-weight")
        x = like("add", x, after)
    x.output = True  # for a draft head, also where the model has none
    return b.head(x if b.build.early_rows else get_rows(x, b.out_ids))
