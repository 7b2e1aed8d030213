"""Llama, to be read beside ``transformers/models/llama/modeling_llama.py``."""

from __future__ import annotations

from typing import NamedTuple

from .. import operators as ops
from ..ledger import Shape, Size, Tensor
from .attention import Attended, Cache, causal_mask, eager, flash, sdpa
from .loss import causal_lm_loss
from .module_table import Row
from .modules import Builder, Module
from .neftune import noised
from .sizes import Run, Sizes, segments
from .step import Inputs


class Rotary(NamedTuple):
    """The position arguments of each layer. A checkpoint holds all three."""

    cos: Tensor
    sin: Tensor
    position_ids: Tensor


class RotaryEmbedding(Module):
    """Cosines and sines [1, S, D] (in ``generate`` [B, S, D]), computed in float32 from a buffer of frequencies."""

    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger, self.head_dim = path, build.ledger, c.head_dim
        self.inv_freq = self.ledger.buffer((c.head_dim // 2,), "float32")
        self.original_inv_freq = self.ledger.buffer((c.head_dim // 2,), "float32")

    def forward(self, x: Tensor, position_ids: Tensor) -> Rotary:
        freqs = self.ledger.empty((*position_ids.shape, self.head_dim // 2), "float32")
        emb = ops.cat((freqs, freqs), (*position_ids.shape, self.head_dim))
        cos = ops.mul(self.ledger.empty(emb.shape, "float32"), ops.SCALAR)
        sin = ops.mul(self.ledger.empty(emb.shape, "float32"), ops.SCALAR)
        return Rotary(ops.to(cos, x.dtype), ops.to(sin, x.dtype), position_ids)


def rotate_half(x: Tensor) -> Tensor:
    """[..., D] -> [..., D]: the halves are swapped, and one is negated."""
    x1 = ops.narrow(x, -1, x.shape[-1] // 2)
    x2 = ops.narrow(x, -1, x.shape[-1] // 2)
    return ops.cat((ops.neg(x2), x1), x.shape)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Q [B, heads, S, D], k [B, kv_heads, S, D] rotated by position."""
    cos = ops.unsqueeze(cos, 1)
    sin = ops.unsqueeze(sin, 1)
    q_embed = ops.add(ops.mul(q, cos), ops.mul(rotate_half(q), sin))
    k_embed = ops.add(ops.mul(k, cos), ops.mul(rotate_half(k), sin))
    return q_embed, k_embed


class Attention(Module):
    """Grouped-query attention."""

    @classmethod
    def modules(cls, path: str, c: Sizes) -> list[Row]:
        """Rows of the table of modules."""
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        return [
            Row(path, "attention"),
            Row(f"{path}.q_proj", "linear", (q, c.hidden), c.qkv_bias),
            Row(f"{path}.k_proj", "linear", (kv, c.hidden), c.qkv_bias),
            Row(f"{path}.v_proj", "linear", (kv, c.hidden), c.qkv_bias),
            Row(f"{path}.o_proj", "linear", (c.hidden, q), c.output_bias),
        ]

    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger, self.c = path, build.ledger, c
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.q_proj = build.linear(f"{path}.q_proj", c.hidden, q, c.qkv_bias)
        self.k_proj = build.linear(f"{path}.k_proj", c.hidden, kv, c.qkv_bias)
        self.v_proj = build.linear(f"{path}.v_proj", c.hidden, kv, c.qkv_bias)
        self.o_proj = build.linear(f"{path}.o_proj", q, c.hidden, c.output_bias)
        self.flash_dtype = build.dtype if build.base is None else build.base.dtype

    def query_key(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, [B, heads, S, D]."""
        q_shape, kv_shape = self.shapes(hidden_states)
        query = ops.transpose(ops.view(self.q_proj(hidden_states), q_shape), 1, 2)
        key = ops.transpose(ops.view(self.k_proj(hidden_states), kv_shape), 1, 2)
        return query, key

    def shapes(self, hidden_states: Tensor) -> tuple[Shape, Shape]:
        """[B, S, heads, D] and [B, S, kv_heads, D]."""
        input_shape = hidden_states.shape[:-1]
        return (*input_shape, self.c.heads, self.c.head_dim), (*input_shape, self.c.kv_heads, self.c.head_dim)

    def forward(
        self, hidden_states: Tensor, rotary: Rotary, mask: Tensor | None, cache: Cache | None, attend: str
    ) -> Attended:
        query, key = self.query_key(hidden_states)
        value = ops.transpose(ops.view(self.v_proj(hidden_states), self.shapes(hidden_states)[1]), 1, 2)
        query, key = apply_rotary_pos_emb(query, key, rotary.cos, rotary.sin)
        if cache is not None:
            key, value = cache.update(key, value)
        c = self.c
        if attend == "eager":
            out, weights = eager(query, key, value, mask, c.groups, c.attention_dropout)
        elif attend == "flash":
            out, weights = flash(query, key, value, self.flash_dtype)
        else:
            out, weights = sdpa(query, key, value, mask, c.groups, c.wide_heads)
        out = ops.contiguous(ops.reshape(out, (*hidden_states.shape[:-1], self.c.heads * self.c.head_dim)))
        out = self.o_proj(out)
        return out, weights


class MLP(Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.gate_proj = build.linear(f"{path}.gate_proj", c.hidden, c.intermediate, c.mlp_bias)
        self.up_proj = build.linear(f"{path}.up_proj", c.hidden, c.intermediate, c.mlp_bias)
        self.down_proj = build.linear(f"{path}.down_proj", c.intermediate, c.hidden, c.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        down_proj: Tensor = self.down_proj(ops.mul(ops.silu(self.gate_proj(x)), self.up_proj(x)))
        return down_proj


class DecoderLayer(Module):
    """Attention and MLP, each behind a norm and a residual."""

    attention: type[Attention] = Attention

    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.self_attn = build.attention(self.attention(build, f"{path}.self_attn", c))
        self.mlp = build.mlp(MLP(build, f"{path}.mlp", c))
        self.input_layernorm = build.rms_norm(f"{path}.input_layernorm", c.hidden)
        self.post_attention_layernorm = build.rms_norm(f"{path}.post_attention_layernorm", c.hidden)

    def forward(
        self, hidden_states: Tensor, rotary: Rotary, mask: Tensor | None, cache: Cache | None, attend: str
    ) -> Tensor:
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(hidden_states, rotary, mask, cache, attend)  # _ lives until forward returns
        hidden_states = ops.add(residual, hidden_states)
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = self.mlp(hidden_states)
        hidden_states = ops.add(residual, hidden_states)
        return hidden_states


def run_segment(
    hidden_states: Tensor,
    segment: list[tuple[Run, DecoderLayer]],
    rotary: Rotary,
    masks: dict[bool, Tensor | None],
    cache: Cache | None,
    attend: str,
) -> Tensor:
    """Run consecutive layers, which one checkpoint may span."""
    for run, layer in segment:
        hidden_states = layer(hidden_states, rotary, masks[run.windowed], cache, attend)
    return hidden_states


class Model(Module):
    """Embedding, decoder layers, final norm."""

    layer: type[DecoderLayer] = DecoderLayer
    returns_cache = True
    """Whether the model returns a cache that it is given even if ``use_cache`` is off."""

    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger, self.c = path, build.ledger, c
        self.embed_tokens = build.embedding(f"{path}.embed_tokens", c.vocab, c.hidden)
        self.embedding_weight = self.ledger.parameters[0]
        self.segments: list[tuple[Size, list[list[tuple[Run, DecoderLayer]]]]] = []
        """For each segment, what it is counted for, and the layers of each checkpoint in it."""
        for number, (copies, groups, _) in enumerate(segments(c.runs, build.segment, self.ledger)):
            self.ledger.segment = number
            with self.ledger.standing_for(copies):
                made = [
                    [(run, self.layer(build, f"{path}.layers.{index}", c)) for index, run in group] for group in groups
                ]
            self.segments.append((copies, made))
        self.ledger.segment = -1
        self.norm = build.rms_norm(f"{path}.norm", c.hidden)
        self.rotary_emb = RotaryEmbedding(build, f"{path}.rotary_emb", c)

    def masks(self, inputs: Inputs, dtype: str) -> dict[bool, Tensor | None]:
        """The masks of layers without (``False``) and with (``True``) a sliding window, if there are any."""
        return {False: causal_mask(inputs, dtype, windowed=False)}

    def embed(self, input_ids: Tensor, inputs: Inputs) -> Tensor:
        """Token embeddings [B, S, H]."""
        self.ledger.scope = "embedding"
        inputs_embeds: Tensor = self.embed_tokens(input_ids)
        if inputs.step.checkpointing in ("layer", "offloaded"):
            inputs_embeds.requires_grad = True  # transformers' enable_input_require_grads
        return noised(inputs_embeds) if inputs.step.neftune else inputs_embeds

    def forward(
        self,
        input_ids: Tensor | None,
        inputs: Inputs,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Cache | None]:
        ledger = self.ledger
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, inputs)
        if inputs.step.returns_cache and cache is None:
            cache = Cache(ledger, windows=self.c.layers(windowed=True))
            cache.start()
        generated = inputs.generated
        position_ids = inputs.position_ids if generated is None else generated.position_ids
        if position_ids is None:
            position_ids = ledger.empty((1, inputs.seq), "int64")
        given = None if generated is None else generated.masks
        masks = self.masks(inputs, inputs_embeds.dtype) if given is None else given
        hidden_states = inputs_embeds
        rotary = self.rotary_emb(hidden_states, position_ids)
        for number, (copies, groups) in enumerate(self.segments):
            ledger.scope = (
                "first block" if number == 0 else "last block" if number == len(self.segments) - 1 else "inner block"
            )
            ledger.segment = number
            with ledger.counted(copies):
                for ledger.group, group in enumerate(groups):
                    own = {run.windowed: masks[run.windowed] for run, _ in group}  # what a checkpoint of it holds
                    arguments = (group, rotary, own, cache, inputs.step.attention)
                    if inputs.gradient_checkpointing_func is not None:
                        hidden_states = inputs.gradient_checkpointing_func(run_segment, hidden_states, arguments)
                    else:
                        hidden_states = run_segment(hidden_states, *arguments)
        ledger.scope, ledger.segment = "final norm", -1
        hidden_states = self.norm(hidden_states)
        return hidden_states, cache if inputs.step.returns_cache or self.returns_cache else None


class CausalLM(Module):
    """The model, its head and the loss: ids or embeddings, and labels [B, S] -> (loss, logits [B, S, V], cache).

    The loss is ``None`` without labels, and the logits with a fused loss.
    """

    model_class: type[Model] = Model

    def __init__(self, build: Builder, c: Sizes) -> None:
        self.path, self.ledger, self.c = "", build.ledger, c
        self.model = self.model_class(build, "model", c)
        if c.tied:
            self.lm_head = build.tied_linear("lm_head", self.model.embedding_weight)
        else:
            self.lm_head = build.linear("lm_head", c.hidden, c.vocab, quantised=False)

    @classmethod
    def modules(cls, c: Sizes) -> list[Row]:
        """Rows of the table of modules; those of a layer stand once for all layers."""
        layer = "model.layers.{}"
        return [
            Row("model", "container"),
            Row("model.embed_tokens", "embedding", (c.vocab, c.hidden), role="input embedding"),
            Row("model.layers", "container"),
            Row(layer, "container"),
            *cls.model_class.layer.attention.modules(f"{layer}.self_attn", c),
            Row(f"{layer}.mlp", "mlp"),
            Row(f"{layer}.mlp.gate_proj", "linear", (c.intermediate, c.hidden), c.mlp_bias),
            Row(f"{layer}.mlp.up_proj", "linear", (c.intermediate, c.hidden), c.mlp_bias),
            Row(f"{layer}.mlp.down_proj", "linear", (c.hidden, c.intermediate), c.mlp_bias),
            Row(f"{layer}.mlp.act_fn", "container"),
            Row(f"{layer}.input_layernorm", "norm", (c.hidden,)),
            Row(f"{layer}.post_attention_layernorm", "norm", (c.hidden,)),
            Row("model.norm", "norm", (c.hidden,)),
            Row("model.rotary_emb", "container"),
            Row("lm_head", "linear", (c.vocab, c.hidden), role="output embedding"),
        ]

    def forward(
        self,
        input_ids: Tensor | None,
        labels: Tensor | None,
        inputs: Inputs,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Cache | None]:
        hidden_states, cache = self.model(input_ids, inputs, inputs_embeds, cache)
        if labels is not None and inputs.fused_loss is not None:
            self.ledger.scope = self.ledger.module = "loss"
            return inputs.fused_loss(self.lm_head, hidden_states, labels), None, cache
        self.ledger.scope = "lm_head"
        if inputs.generated is not None:
            hidden_states = ops.narrow(hidden_states, 1, 1, keeps_strides=True)  # logits_to_keep
        logits = self.lm_head(hidden_states)
        if labels is None:
            return None, logits, cache
        self.ledger.scope = "loss"
        self.ledger.module = "loss"
        loss = causal_lm_loss(logits, labels, self.c.vocab)
        return loss, logits, cache
