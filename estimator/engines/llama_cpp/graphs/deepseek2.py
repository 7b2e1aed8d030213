"""DeepSeek V2 and V3: multi-head latent attention (MLA), shared and routed experts.

``src/models/deepseek2.cpp``. Files with ``attn_k_b`` and ``attn_v_b`` cache the latent vector; older ones with
``attn_kv_b`` cache full heads.
"""

from __future__ import annotations

from ..builder import Builder, CacheInputs
from ..ggml import Graph, Tensor, concat, cont, leaf, like, mul_mat, permute, repeat, reshape, view


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams = b.hparams
    x = b.inp_embd()
    temperature = None
    if hparams.attention_temperature:
        temperature = leaf("f32", 1, 1, b.n_tokens, name="inp_attn_scale")
    cache = b.inp_attn(b.context.base)
    for layer in range(hparams.n_layer):
        residual = x
        x = b.norm(x, b.of(layer, "attn_norm.weight"))
        x = _attention(b, layer, x, cache, temperature)
        x, residual = b.last_rows(layer, x, residual)
        after = like("add", x, residual)
        x = b.norm(after, b.of(layer, "ffn_norm.weight"))
        if layer < hparams.n_layer_dense_lead:
            x = b.ffn(layer, x)
        else:
            routed = b.moe(
                layer, x, normalised=hparams.expert_weights_norm, scale=hparams.expert_weights_scale, gating=b.gating
            )
            x = like("add", routed, b.ffn(layer, x, "_shexp"))
        x = like("add", x, after)
    return b.head(x)


def _attention(b: Builder, layer: int, x: Tensor, cache: CacheInputs, temperature: Tensor | None) -> Tensor:
    hparams, tokens = b.hparams, b.n_tokens
    heads, rank, rope = hparams.n_head[layer], hparams.n_lora_kv, hparams.n_rot
    head_k, head_v = hparams.mla or (hparams.n_embd_head_k, hparams.n_embd_head_v)
    plain = head_k - rope
    whole = b.maybe(layer, "attn_q.weight")
    if whole is None:
        q = b.norm(mul_mat(b.of(layer, "attn_q_a.weight"), x), b.of(layer, "attn_q_a_norm.weight"))
        q = mul_mat(b.of(layer, "attn_q_b.weight"), q)
    else:
        q = mul_mat(whole, x)
    q = reshape(q, head_k, heads, tokens)
    latent = mul_mat(b.of(layer, "attn_kv_a_mqa.weight"), x)
    row = latent.nb[1]
    compressed = view(latent, (rank, tokens), (row,))
    k_rope = b.rope(view(latent, (rope, 1, tokens), (row, row)))
    compressed = b.norm(compressed, b.of(layer, "attn_kv_a_norm.weight"))
    if hparams.mla is None:
        kv = mul_mat(b.of(layer, "attn_kv_b.weight"), compressed)
        each = 4 * (plain + head_v)
        k_plain = view(kv, (plain, heads, tokens), (each, each * heads))
        v = cont(view(kv, (head_v, heads, tokens), (each, each * heads)))
        q = b.rope(q)
        k = concat(k_plain, repeat(k_rope, rope, heads, tokens, 1), 0)
        if temperature is not None:
            q = like("mul", q, temperature)
        return b.attention(cache, layer, q, k, v)
    q_plain = view(q, (plain, heads, tokens), q.nb[1:3])
    q_rope = b.rope(view(q, (rope, heads, tokens), q.nb[1:3]))
    absorbed = mul_mat(b.of(layer, "attn_k_b.weight"), permute(q_plain, 0, 2, 1, 3))
    q = concat(permute(absorbed, 0, 2, 1, 3), q_rope, 0)
    compressed = reshape(compressed, rank, 1, tokens)
    k = concat(compressed, k_rope, 0)
    if temperature is not None:
        q = like("mul", q, temperature)
    return b.attention(cache, layer, q, k, compressed, decompress=b.of(layer, "attn_v_b.weight"))
