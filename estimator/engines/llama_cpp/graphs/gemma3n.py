"""Gemma 3n: alternating updates (AltUp) of four streams, a low-rank residual (Laurel), an embedding per layer.

``src/models/gemma3n.cpp``.
"""

from __future__ import annotations

from ..builder import Builder, CacheInputs
from ..ggml import (
    Graph,
    Tensor,
    concat,
    cont,
    get_rows,
    leaf,
    like,
    mul_mat,
    permute,
    repeat,
    reshape,
    sum_rows,
    transpose,
    view,
)

SPARSE_LAYERS = 10
"""The first so many layers keep only the largest values of their gate (``n_layer_sparsity``)."""


def build(b: Builder) -> Graph:
    """The graph of one batch."""
    hparams, tokens = b.hparams, b.n_tokens
    n_embd, altup = hparams.n_embd, hparams.n_altup
    x = b.scaled_embd()
    full = b.inp_attn(b.context.base)
    assert b.context.swa is not None
    windowed = b.inp_attn(b.context.swa)
    per_layer = _per_layer(b, x)

    magnitude = _magnitude(x)
    added = mul_mat(b.required("altup_proj.weight"), repeat(x, n_embd, tokens, altup - 1, 1))
    new_magnitude = _magnitude(added)
    added = like("div", like("mul", added, magnitude), new_magnitude)
    x = concat(x, added, 2)

    for layer in range(hparams.n_layer):
        predictions = _predict(b, layer, x)
        active = _slice(predictions)
        x = b.norm(active, b.of(layer, "attn_norm.weight"))
        laurel = mul_mat(b.of(layer, "laurel_r.weight"), mul_mat(b.of(layer, "laurel_l.weight"), x))
        laurel = like("add", b.norm(laurel, b.of(layer, "laurel_post_norm.weight")), x)
        x = _attention(b, layer, x, windowed if hparams.is_swa[layer] else full)
        x = b.norm(x, b.of(layer, "post_attention_norm.weight"))
        x = like("add", x, active)
        with_laurel = like("scale", like("add", x, laurel))
        x = b.norm(with_laurel, b.of(layer, "ffn_norm.weight"))
        up, gate = mul_mat(b.of(layer, "ffn_up.weight"), x), mul_mat(b.of(layer, "ffn_gate.weight"), x)
        if layer < SPARSE_LAYERS:
            gate = _largest(gate)
        x = like("mul", up, like("unary", gate))
        x = mul_mat(b.of(layer, "ffn_down.weight"), x)
        x = b.norm(x, b.of(layer, "post_ffw_norm.weight"))
        x = like("add", x, with_laurel)
        corrected = _correct(b, layer, predictions, x)

        first = like("mul", _slice(corrected), b.of(layer, "altup_correct_scale.weight"))
        first = like("unary", mul_mat(b.of(layer, "inp_gate.weight"), first))
        first = like("mul", first, _slice(per_layer))
        first = b.norm(mul_mat(b.of(layer, "proj.weight"), first), b.of(layer, "post_norm.weight"))
        kept = _slice(corrected)
        x = concat(kept, like("add", _rest(corrected, altup), first), 2)

    magnitude = _magnitude(_slice(x))
    rest = mul_mat(b.required("altup_unembd_proj.weight"), _rest(x, altup))
    new_magnitude = _magnitude(rest)
    rest = like("div", like("mul", rest, magnitude), new_magnitude)
    x = _slice(x)
    for _ in range(altup - 1):
        x = like("add", x, _slice(rest))
    x = like("scale", x)
    x = get_rows(x, b.out_ids)
    return b.head(x, softcap=True)


def _slice(x: Tensor) -> Tensor:
    """One stream [n, tokens] of [n, tokens, streams]."""
    return view(x, x.ne[:2], (4 * x.ne[0],))


def _rest(x: Tensor, altup: int) -> Tensor:
    """All streams but the first."""
    row = 4 * x.ne[0]
    return view(x, (x.ne[0], x.ne[1], altup - 1), (row, row * x.ne[1]))


def _magnitude(x: Tensor) -> Tensor:
    return like("sqrt", sum_rows(like("sqr", x)))


def _per_layer(b: Builder, x: Tensor) -> Tensor:
    """The embedding of each layer: [n_embd_altup, tokens, layers]."""
    size, layers, tokens = b.hparams.n_embd_altup, b.hparams.n_layer, b.n_tokens
    rows = get_rows(b.required("per_layer_token_embd.weight"), leaf("i32", tokens, name="inp_tokens_per_layer"))
    selected = like("scale", reshape(rows, size, layers, tokens))
    b.graph.expand(selected)
    projected = like("scale", mul_mat(b.required("per_layer_model_proj.weight"), x))
    projected = b.norm(reshape(projected, size, layers, tokens), b.required("per_layer_proj_norm.weight"))
    return cont(permute(like("scale", like("add", projected, selected)), 0, 2, 1, 3))


def _modalities(b: Builder, layer: int, x: Tensor) -> Tensor:
    x = like("scale", b.norm(x, b.of(layer, "altup_router_norm.weight")))
    return like("unary", mul_mat(b.of(layer, "altup_router.weight"), x))


def _predict(b: Builder, layer: int, x: Tensor) -> Tensor:
    altup, tokens = b.hparams.n_altup, b.n_tokens
    modalities = _modalities(b, layer, _slice(x))
    coefficients = reshape(mul_mat(b.of(layer, "altup_predict_coef.weight"), modalities), altup, altup, tokens)
    predictions = mul_mat(cont(permute(x, 1, 2, 0, 3)), coefficients)
    return like("add", cont(permute(predictions, 0, 2, 1, 3)), x)


def _correct(b: Builder, layer: int, predictions: Tensor, activated: Tensor) -> Tensor:
    altup, tokens = b.hparams.n_altup, b.n_tokens
    modalities = _modalities(b, layer, activated)
    innovation = like("sub", activated, _slice(predictions))
    coefficients = like("scale", mul_mat(b.of(layer, "altup_correct_coef.weight"), modalities))
    coefficients = cont(transpose(coefficients), 1, tokens, altup)
    innovation = repeat(innovation, b.hparams.n_embd, tokens, altup, 1)
    return like("add", like("mul", innovation, coefficients), predictions)


def _largest(x: Tensor) -> Tensor:
    """``gaussian_topk``: values below a cut-off become zero."""
    mean = sum_rows(x)
    deviation = like("sqrt", like("scale", sum_rows(like("sqr", like("sub", x, mean)))))
    cutoff = like("add", mean, like("scale", deviation))
    return like("unary", like("sub", x, cutoff))


def _attention(b: Builder, layer: int, x: Tensor, cache: CacheInputs) -> Tensor:
    hparams = b.hparams
    head = hparams.n_embd_head_k
    if hparams.has_kv(layer):
        q, k, v = b.qkv(layer, x, head)
        q = b.norm(q, b.of(layer, "attn_q_norm.weight"))
        k = b.norm(k, b.of(layer, "attn_k_norm.weight"))
        v = b.norm(v, None)
        return b.attention(cache, layer, b.rope(q), b.rope(k), v)
    q = reshape(mul_mat(b.of(layer, "attn_q.weight"), x), head, hparams.n_head[layer], b.n_tokens)
    q = b.rope(b.norm(q, b.of(layer, "attn_q_norm.weight")))
    start = hparams.n_layer_kv_from_start
    assert start is not None
    return b.attention(cache, layer, q, None, None, reads=start - (2 if hparams.is_swa[layer] else 1))
