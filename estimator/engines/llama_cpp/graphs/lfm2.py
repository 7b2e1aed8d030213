"""LFM2: short convolutions with a state, or attention. ``src/models/lfm2.cpp``, ``lfm2moe.cpp``."""

from __future__ import annotations

from ..builder import Builder, States
from ..ggml import Graph, Tensor, concat, copy, like, mul_mat, reshape, transpose, view


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams = b.hparams
    x = b.inp_embd()
    states = b.inp_recurrent()
    cache = b.inp_attn(b.context.base)
    for layer in range(hparams.n_layer):
        residual = x
        x = b.norm(x, b.of(layer, "attn_norm.weight"))
        if hparams.is_recurrent[layer]:
            x = _convolution(b, layer, x, states)
        else:
            q, k, v = b.qkv(layer, x, hparams.n_embd_head_k)
            q = b.norm(q, b.of(layer, "attn_q_norm.weight"))
            k = b.norm(k, b.of(layer, "attn_k_norm.weight"))
            x = b.attention(cache, layer, b.rope(q), b.rope(k), v)
        x, residual = b.last_rows(layer, x, residual)
        x = like("add", residual, x)
        normed = b.norm(x, b.of(layer, "ffn_norm.weight"))
        if b.maybe(layer, "ffn_gate_inp.weight") is None:
            x = like("add", x, b.ffn(layer, normed))
        else:
            scale = hparams.expert_weights_scale
            x = like("add", x, b.moe(layer, normed, normalised=True, scale=scale, gating=b.gating))
    return b.head(x)


def _convolution(b: Builder, layer: int, x: Tensor, states: States) -> Tensor:
    hparams, sequences = b.hparams, b.n_seqs
    length, width = b.n_tokens // sequences, hparams.l_cache - 1
    x = reshape(x, x.ne[0], length, sequences)
    parts = mul_mat(b.of(layer, "shortconv.in_proj.weight"), x)
    chunk = (parts.ne[0] // 3, *parts.ne[1:3])
    left, middle, right = (view(parts, chunk, parts.nb[1:3]) for _ in range(3))
    gated = transpose(like("mul", left, right))
    state = b.state(layer, "r")
    read = reshape(b.read_state(state, states), width, hparams.n_embd, sequences)
    gated = concat(read, gated, 0)
    last = view(gated, (width, *gated.ne[1:3]), gated.nb[1:3])
    b.graph.expand(copy(last, view(state, (width * hparams.n_embd, sequences), (state.nb[1],))))
    kernel = b.of(layer, "shortconv.conv.weight")
    out = Tensor("ssm_conv", "f32", (kernel.ne[1], length, sequences, 1), (gated, kernel))
    y = mul_mat(b.of(layer, "shortconv.out_proj.weight"), like("mul", middle, out))
    return reshape(y, y.ne[0], length * sequences)
