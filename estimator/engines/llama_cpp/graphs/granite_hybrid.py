"""Granite 4: Mamba-2 in most layers, attention in the others. ``src/models/granite-hybrid.cpp``, ``mamba-base.cpp``."""

from __future__ import annotations

from ..builder import Builder, States
from ..ggml import Graph, Tensor, concat, cont, copy, glu, like, mul_mat, reshape, transpose, view
from .llama import feed_forward


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
            x = _mamba2(b, layer, x, states)
        else:
            q, k, v = b.qkv(layer, x, hparams.n_embd_head_k)
            if hparams.rotated[layer]:
                q, k = b.rope(q), b.rope(k)
            x = b.attention(cache, layer, q, k, v)
        x = feed_forward(b, layer, x, residual)
    return b.head(x, scaled=bool(hparams.logit_scale))


def _mamba2(b: Builder, layer: int, x: Tensor, states: States) -> Tensor:
    hparams, sequences = b.hparams, b.n_seqs
    inner, size, heads, groups = hparams.ssm_inner, hparams.ssm_state, hparams.ssm_heads, hparams.ssm_groups
    length, head, width = b.n_tokens // sequences, inner // heads, hparams.ssm_conv - 1
    channels = inner + 2 * groups * size
    conv_state, scan_state = b.state(layer, "r"), b.state(layer, "s")
    read = reshape(b.read_state(conv_state, states), width, channels, sequences)
    zxbcdt = mul_mat(b.of(layer, "ssm_in.weight"), x)
    zxbcdt = reshape(zxbcdt, zxbcdt.ne[0], length, sequences)
    strides = zxbcdt.nb[1:3]
    z = view(zxbcdt, (head, heads, length, sequences), (4 * head, *strides))
    xbc = view(zxbcdt, (channels, length, sequences), strides)
    dt = view(zxbcdt, (heads, length, sequences), strides)

    joined = concat(read, transpose(xbc), 0)
    last = view(joined, (width, channels, sequences), joined.nb[1:3])
    b.graph.expand(copy(last, view(conv_state, (width * channels, sequences), (conv_state.nb[1],))))
    kernel = b.of(layer, "ssm_conv1d.weight")
    xbc = Tensor("ssm_conv", "f32", (kernel.ne[1], length, sequences, 1), (joined, kernel))
    xbc = like("unary", like("add", xbc, b.of(layer, "ssm_conv1d.bias")))

    strides = xbc.nb[1:3]
    values = view(xbc, (head, heads, length, sequences), (4 * head, *strides))
    keys = view(xbc, (size, groups, length, sequences), (4 * size, *strides))
    queries = view(xbc, (size, groups, length, sequences), (4 * size, *strides))
    dt = like("add", cont(dt), b.of(layer, "ssm_dt.bias"))
    slots = scan_state.ne[1]
    elements = inner * length * sequences + size * inner * sequences

    def scan(rows: Tensor) -> Tensor:
        a, every = b.of(layer, "ssm_a"), reshape(rows, size, head, heads, slots)
        sources = (every, values, dt, a, keys, queries, states.main)
        return Tensor("ssm_scan", "f32", (elements, 1, 1, 1), sources)

    scanned = b.read_state(scan_state, states, scan)
    written = view(scanned, (size * inner, sequences, 1), (4 * size * inner, 4 * size * inner * sequences))
    kept = view(scan_state, (size * inner, sequences, 1), (scan_state.nb[1], 4 * size * inner * slots))
    b.graph.expand(copy(written, kept))
    row = values.nb[1]
    y = view(scanned, (head, heads, length, sequences), (row, heads * row, length * heads * row))
    y = like("add", y, like("mul", values, b.of(layer, "ssm_d")))
    y = glu(cont(z), y)
    norm = b.maybe(layer, "ssm_norm.weight")
    if norm is not None:
        y = b.norm(reshape(y, inner // groups, groups, length, sequences), norm)
    return mul_mat(b.of(layer, "ssm_out.weight"), reshape(y, inner, length * sequences))
