"""litgpt's GPT, to be read beside ``litgpt/model.py`` and the loop of ``litgpt/finetune/lora.py`` and ``full.py``
(release 0.5.13, github.com/Lightning-AI/litgpt, commit 26857050).

One class serves all families. One linear layer makes query, key and value; grouped keys and values are repeated for all
heads; the output layer is never tied; the loss is computed in chunks of 128 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import operators as ops
from ..errors import InputError
from ..ledger import Size, Tensor, whole
from .module_table import Row
from .modules import Builder, Embedding, Module
from .sizes import Run, Sizes, segments
from .step import Inputs

CHUNK = 128
"""Tokens per chunk of ``chunked_cross_entropy``, and of the output layer if it is not trained."""


@dataclass(frozen=True)
class LitSizes(Sizes):
    """Sizes, and the other fields of litgpt's config, under litgpt's names."""

    block_size: int = field(kw_only=True)
    rope_n_elem: int = field(kw_only=True)
    norm_class_name: str = field(kw_only=True)
    mlp_class_name: str = field(kw_only=True)
    bias: bool = field(kw_only=True)
    lm_head_bias: bool = field(kw_only=True)
    parallel_residual: bool = field(kw_only=True)
    shared_attention_norm: bool = field(kw_only=True)
    scale_embeddings: bool = field(kw_only=True)
    post_attention_norm: bool = field(kw_only=True)
    post_mlp_norm: bool = field(kw_only=True)
    attention_logit_softcapping: bool = field(kw_only=True)
    final_logit_softcapping: bool = field(kw_only=True)
    add_unit_offset: bool = field(kw_only=True)
    """As in Gemma, the norm multiplies by its weight plus one."""
    stable_embedding: bool = field(kw_only=True)
    """The embedding is replaced by bitsandbytes' ``StableEmbedding``."""


class RMSNorm(Module):
    """Statistics, scale and product in float32."""

    def __init__(self, build: Builder, path: str, c: LitSizes) -> None:
        self.path, self.ledger, self.add_unit_offset = path, build.ledger, c.add_unit_offset
        self.weight = build.parameter(f"{path}.weight", c.hidden)

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = ops.to(x, "float32")
        norm_x = ops.mean(ops.mul(x, x), -1, keepdim=True)
        x_normed = ops.mul(x, ops.rsqrt(ops.add(norm_x, ops.SCALAR)))
        weight = ops.add(self.weight, ops.SCALAR) if self.add_unit_offset else self.weight
        return ops.to(ops.mul(x_normed, ops.to(weight, "float32")), dtype)


class LayerNorm(Module):
    """``torch.nn.LayerNorm``."""

    def __init__(self, build: Builder, path: str, c: LitSizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.weight = build.parameter(f"{path}.weight", c.hidden)
        self.bias = build.parameter(f"{path}.bias", c.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias)


def norm(build: Builder, path: str, c: LitSizes) -> Module:
    """The config's norm."""
    return (RMSNorm if c.norm_class_name == "RMSNorm" else LayerNorm)(build, path, c)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """X [B, heads, T, n] rotated by cos and sin [1, T, n]. These are float32, so the result is too."""
    half = x.shape[-1] // 2
    x1 = ops.narrow(x, -1, half)
    x2 = ops.narrow(x, -1, half)
    rotated = ops.cat((ops.neg(x2), x1), x.shape)
    cos = ops.unsqueeze(cos, 1)
    sin = ops.unsqueeze(sin, 1)
    roped = ops.add(ops.mul(x, cos), ops.mul(rotated, sin))
    return ops.to(roped, x.dtype)


def do_softcapping(x: Tensor) -> Tensor:
    """``tanh(x / thresh) * thresh``."""
    return ops.mul(ops.tanh(ops.div(x, ops.SCALAR)), ops.SCALAR)


def masked_above(x: Tensor) -> Tensor:
    """The causal mask [T, T] in ``x``'s dtype: the upper triangle of ones, filled with a large negative number."""
    pairs = (x.shape[2], x.shape[2])
    mask = x.ledger.empty(pairs, x.dtype)
    mask = x.ledger.empty(pairs, x.dtype)
    x.ledger.empty(pairs, "bool")
    return mask


class CausalSelfAttention(Module):
    """Attention with one linear layer for query, key and value. The first ``rope_n_elem`` elements of a head rotate."""

    def __init__(self, build: Builder, path: str, c: LitSizes, windowed: bool) -> None:
        self.path, self.ledger, self.c, self.windowed = path, build.ledger, c, windowed
        heads = c.heads * c.head_dim
        self.qkv = build.linear(f"{path}.qkv", c.hidden, heads + 2 * c.kv_heads * c.head_dim, c.bias)
        self.proj = build.linear(f"{path}.proj", heads, c.hidden, c.bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        c, (B, T, _) = self.c, x.shape
        qkv = self.qkv(x)
        q, k, v = ops.split_with_sizes(qkv, (c.heads * c.head_dim, *[c.kv_heads * c.head_dim] * 2))
        q = ops.view(q, (B, T, c.heads, c.head_dim))
        k = ops.view(k, (B, T, c.kv_heads, c.head_dim))
        v = ops.view(v, (B, T, c.kv_heads, c.head_dim))
        q = ops.transpose(q, 1, 2)
        k = ops.transpose(k, 1, 2)
        v = ops.transpose(v, 1, 2)
        q_roped = apply_rope(self.rotated(q), cos, sin)
        k_roped = apply_rope(self.rotated(k), cos, sin)
        q = ops.cat((q_roped, ops.narrow(q, -1, c.head_dim - c.rope_n_elem)), q.shape)
        k = ops.cat((k_roped, ops.narrow(k, -1, c.head_dim - c.rope_n_elem)), k.shape)
        if c.groups != 1:
            k = ops.repeat_interleave(k, c.groups, 1)
            v = ops.repeat_interleave(v, c.groups, 1)
        mask = None
        if self.windowed:
            mask = masked_above(q)
            sliding_window_mask = self.ledger.empty(mask.shape, q.dtype)
            mask = sliding_window_mask
        y = self.scaled_dot_product_attention(q, k, v, mask)
        y = ops.reshape(y, (B, T, c.heads * c.head_dim))
        proj: Tensor = self.proj(y)
        return proj

    def rotated(self, x: Tensor) -> Tensor:
        """``x[..., :rope_n_elem]``, or ``x`` itself if that is all of it."""
        return x if self.c.rope_n_elem == self.c.head_dim else ops.narrow(x, -1, self.c.rope_n_elem)

    def scaled_dot_product_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[B, heads, T, D] -> [B, T, heads, D]."""
        if self.c.attention_logit_softcapping:
            scores = ops.mul(ops.matmul(q, ops.transpose(k, 2, 3)), ops.SCALAR)
            scores = do_softcapping(scores)
            if mask is None:
                mask = masked_above(q)
            scores = ops.add(scores, mask)
            scores = ops.to(ops.softmax(scores, "float32"), q.dtype)
            y = ops.matmul(scores, v)
        else:
            y = ops.scaled_dot_product_attention(q, k, v, mask)
        return ops.transpose(y, 1, 2)


class GptNeoxMLP(Module):
    """proj(gelu(fc(x)))."""

    def __init__(self, build: Builder, path: str, c: LitSizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.fc = build.linear(f"{path}.fc", c.hidden, c.intermediate, c.bias)
        self.proj = build.linear(f"{path}.proj", c.intermediate, c.hidden, c.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x = ops.gelu(x)
        proj: Tensor = self.proj(x)
        return proj


class LLaMAMLP(Module):
    """proj(silu(fc_1(x)) * fc_2(x))."""

    def __init__(self, build: Builder, path: str, c: LitSizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.fc_1 = build.linear(f"{path}.fc_1", c.hidden, c.intermediate, c.bias)
        self.fc_2 = build.linear(f"{path}.fc_2", c.hidden, c.intermediate, c.bias)
        self.proj = build.linear(f"{path}.proj", c.intermediate, c.hidden, c.bias)

    def forward(self, x: Tensor) -> Tensor:
        x_fc_1 = self.fc_1(x)
        x_fc_2 = self.fc_2(x)
        x = ops.mul(ops.silu(x_fc_1), x_fc_2)  # Gemma's gelu saves the same: its input
        proj: Tensor = self.proj(x)
        return proj


class Block(Module):
    """Attention and MLP, one after the other or side by side."""

    def __init__(self, build: Builder, path: str, c: LitSizes, windowed: bool) -> None:
        self.path, self.ledger, self.c = path, build.ledger, c
        self.norm_1 = norm(build, f"{path}.norm_1", c)
        self.attn = CausalSelfAttention(build, f"{path}.attn", c, windowed)
        self.post_attention_norm = norm(build, f"{path}.post_attention_norm", c) if c.post_attention_norm else None
        self.norm_2 = None if c.shared_attention_norm else norm(build, f"{path}.norm_2", c)
        self.mlp = (GptNeoxMLP if c.mlp_class_name == "GptNeoxMLP" else LLaMAMLP)(build, f"{path}.mlp", c)
        self.post_mlp_norm = norm(build, f"{path}.post_mlp_norm", c) if c.post_mlp_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x_normed = self.norm_1(x)
        attention_output = self.attn(x_normed, cos, sin)
        if self.post_attention_norm is not None:
            attention_output = self.post_attention_norm(attention_output)
        if self.c.parallel_residual:
            if self.norm_2 is not None:
                x_normed = self.norm_2(x)
            x = ops.add(attention_output, x)
        else:
            x = ops.add(attention_output, x)
            assert self.norm_2 is not None
            x_normed = self.norm_2(x)
        if self.post_mlp_norm is not None:
            return ops.add(self.post_mlp_norm(self.mlp(x_normed)), x)
        return ops.add(self.mlp(x_normed), x)


class StableEmbedding(Module):
    """The embedding and layer norm that replace the embedding of a quantised base (``finetune/lora.py: main``).

    They are made after the model is frozen and the optimizer has its parameters. So nothing ever clears the gradients
    of their three parameters. The old embedding stays too, since ``main`` has a name for it.
    """

    def __init__(self, build: Builder, path: str, count: Size, size: Size) -> None:
        self.path, self.ledger = path, build.ledger
        build.ledger.buffer((count, size), build.dtype)  # old_embedding
        self.weight = self._parameter(build, f"{path}.weight", count, size)
        self.norm_weight = self._parameter(build, f"{path}.norm.weight", size)
        self.norm_bias = self._parameter(build, f"{path}.norm.bias", size)

    @staticmethod
    def _parameter(build: Builder, path: str, *shape: Size) -> Tensor:
        parameter = build.ledger.parameter(path, shape, build.dtype, requires_grad=True)
        parameter.grad = build.ledger.buffer(shape, build.dtype)
        return parameter

    def forward(self, ids: Tensor) -> Tensor:
        return ops.layer_norm(ops.embedding(ids, self.weight), self.norm_weight, self.norm_bias)


class GPT(Module):
    """The model under Lightning Fabric, which casts logits to float32, and the loss of the training loop.

    Takes ids [B, T]; returns the loss divided by the number of micro-batches, and the loss. Raises ``InputError`` for a
    T that litgpt refuses.
    """

    def __init__(self, build: Builder, c: LitSizes) -> None:
        self.path, self.ledger, self.c = "", build.ledger, c
        self.chunked = not build.method.trains("lm_head.weight")
        self.lm_head = build.linear("lm_head", c.hidden, c.vocab, c.lm_head_bias)
        wte = StableEmbedding if c.stable_embedding else Embedding
        self.wte = wte(build, "transformer.wte", c.vocab, c.hidden)
        self.h: list[tuple[Size, list[tuple[Run, Block]]]] = []
        for number, segment in enumerate(segments(c.runs, build.segment, self.ledger)):
            self.ledger.segment = number
            with self.ledger.standing_for(segment.copies):
                blocks = [
                    (run, Block(build, f"transformer.h.{index}", c, run.windowed)) for index, run in segment.layers
                ]
            self.h.append((segment.copies, blocks))
        self.ledger.segment = -1
        self.ln_f = norm(build, "transformer.ln_f", c)
        self.rope: tuple[Tensor, ...] = ()
        self.targets: Tensor | None = None
        self.logits: list[Tensor] = []
        """Names of the training loop. Their tensors live until the next micro-batch assigns the names anew."""

    @classmethod
    def modules(cls, c: LitSizes) -> list[Row]:
        """Rows of the table of modules; those of a layer stand once for all layers."""
        layer, heads = "transformer.h.{}", c.heads * c.head_dim
        up = ("fc",) if c.mlp_class_name == "GptNeoxMLP" else ("fc_1", "fc_2")

        def norm_row(path: str, made: bool = True) -> list[Row]:
            return [Row(path, "norm", (c.hidden,), c.norm_class_name != "RMSNorm")] if made else []

        return [
            Row("lm_head", "linear", (c.vocab, c.hidden), c.lm_head_bias, "output embedding"),
            Row("transformer", "container"),
            Row("transformer.wte", "embedding", (c.vocab, c.hidden), role="input embedding"),
            Row("transformer.h", "container"),
            Row(layer, "container"),
            *norm_row(f"{layer}.norm_1"),
            Row(f"{layer}.attn", "attention"),
            Row(f"{layer}.attn.qkv", "linear", (heads + 2 * c.kv_heads * c.head_dim, c.hidden), c.bias),
            Row(f"{layer}.attn.proj", "linear", (c.hidden, heads), c.bias),
            *norm_row(f"{layer}.post_attention_norm", c.post_attention_norm),
            *norm_row(f"{layer}.norm_2", not c.shared_attention_norm),
            Row(f"{layer}.mlp", "mlp"),
            *(Row(f"{layer}.mlp.{name}", "linear", (c.intermediate, c.hidden), c.bias) for name in up),
            Row(f"{layer}.mlp.proj", "linear", (c.hidden, c.intermediate), c.bias),
            *norm_row(f"{layer}.post_mlp_norm", c.post_mlp_norm),
            *norm_row("transformer.ln_f"),
        ]

    def forward(self, idx: Tensor, labels: Tensor, inputs: Inputs) -> tuple[Tensor, ...]:
        T = whole(idx.shape[1])
        if not 2 <= T <= self.c.block_size:
            raise InputError(f"seq {T}: this model of litgpt takes from 2 to {self.c.block_size} tokens")
        self.targets = self.ledger.empty(idx.shape, "int64")
        self.logits = [ops.to(chunk, "float32") for chunk in self.model(idx, T)]
        self.ledger.scope = self.ledger.module = "loss"
        targets = ops.narrow(self.targets, 1, T - 1)
        if self.chunked:
            self.logits[-1] = ops.narrow(self.logits[-1], 1, self.logits[-1].shape[1] - 1)
            loss = self.chunked_cross_entropy(self.logits, targets)
        else:
            loss = self.whole_cross_entropy(ops.narrow(self.logits[0], 1, T - 1), targets)
        return ops.div(loss, ops.SCALAR), loss

    def model(self, idx: Tensor, T: int) -> list[Tensor]:
        """The logits [B, T, V]; if the output layer is not trained, in chunks [B, <= 128, V]."""
        ledger = self.ledger
        if not self.rope:  # for max_seq_length tokens, the length of the longest sample
            self.rope = tuple(ledger.buffer((1, T, self.c.rope_n_elem), "float32") for _ in ("cos", "sin"))
        cos, sin = self.rope
        ledger.scope = "embedding"
        x = self.wte(idx)
        if self.c.scale_embeddings:
            x = ops.mul(x, ledger.empty((), x.dtype))
        for number, (copies, blocks) in enumerate(self.h):
            ledger.scope = (
                "first block" if number == 0 else "last block" if number == len(self.h) - 1 else "inner block"
            )
            ledger.segment = number
            with ledger.counted(copies):
                for ledger.group, (_, block) in enumerate(blocks):
                    x = block(x, cos, sin)
        ledger.scope, ledger.segment = "final norm", -1
        x = self.ln_f(x)
        ledger.scope = "lm_head"
        parts = ops.split(x, CHUNK, 1) if self.chunked else [x]
        if self.c.final_logit_softcapping:
            return [do_softcapping(self.lm_head(x_i)) for x_i in parts]
        return [self.lm_head(x_i) for x_i in parts]

    def chunked_cross_entropy(self, logits: list[Tensor], targets: Tensor) -> Tensor:
        """The mean loss over chunks of logits [B, <= 128, V] and targets [B, T - 1]."""
        logit_chunks = [_rows(chunk) for chunk in logits]
        target_chunks = [_flat(part) for part in ops.split(targets, logits[0].shape[1], 1)]
        return _mean_loss(logit_chunks, target_chunks, targets)

    def whole_cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The same mean loss of unchunked logits [B, T - 1, V]."""
        logits = _rows(logits)
        targets = _flat(targets)
        return _mean_loss(ops.split(logits, CHUNK, 0), ops.split(targets, CHUNK, 0), targets)


def _rows(x: Tensor) -> Tensor:
    return ops.reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))


def _flat(x: Tensor) -> Tensor:
    return ops.reshape(x, (x.numel,))


def _mean_loss(logit_chunks: list[Tensor], target_chunks: list[Tensor], targets: Tensor) -> Tensor:
    # zip leaves out a last chunk of one token, since it has no target
    loss_chunks = [ops.cross_entropy(a, b, "none") for a, b in zip(logit_chunks, target_chunks, strict=False)]
    non_masked_elems = _count(targets)
    loss = ops.cat(tuple(loss_chunks), (sum((chunk.shape[0] for chunk in loss_chunks), 0),))
    return ops.div(ops.sum(loss, 0), non_masked_elems)


def _count(targets: Tensor) -> Tensor:
    """``(targets != ignore_index).sum()``, which sums an int64 copy."""
    ledger = targets.ledger
    not_ignored = ledger.empty(targets.shape, "bool")
    total = ledger.empty((), "int64")
    ledger.empty(targets.shape, "int64")
    del not_ignored
    return total
