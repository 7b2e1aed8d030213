"""Llama, read beside ``transformers/models/llama/modeling_llama.py``."""

from __future__ import annotations

from .. import attention, ops
from ..ledger import Tensor
from ..modules import Builder, Embedding, Linear, Module, RMSNorm
from .config import ForwardContext, Sizes


class RotaryEmbedding(Module):
    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.head_dim = c.head_dim
        for _ in range(2):
            self.ledger.buffer((c.head_dim // 2,), "float32")

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        ledger = self.ledger
        seq = position_ids.shape[-1]
        half = (1, seq, self.head_dim // 2)
        freqs = ledger.empty(half, "float32")
        emb = ops.cat_last((freqs, freqs), (1, seq, self.head_dim))
        cos = self._scaled(emb)
        sin = self._scaled(emb)
        return ops.to(cos, x.dtype), ops.to(sin, x.dtype)

    def _scaled(self, emb: Tensor) -> Tensor:
        value = self.ledger.empty(emb.shape, "float32")
        return ops.mul_scalar(value)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    x1 = ops.narrow_last(x, half)
    x2 = ops.narrow_last(x, half)
    return ops.cat_last((ops.neg(x2), x1), x.shape)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos = ops.unsqueeze(cos, 1)
    sin = ops.unsqueeze(sin, 1)
    q_embed = ops.add(ops.mul(q, cos), ops.mul(rotate_half(q), sin))
    k_embed = ops.add(ops.mul(k, cos), ops.mul(rotate_half(k), sin))
    return q_embed, k_embed


class Attention(Module):
    def __init__(self, build: Builder, path: str, c: Sizes, context: ForwardContext) -> None:
        self.path, self.ledger, self.c, self.context = path, build.ledger, c, context
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.q_proj = build.linear(f"{path}.q_proj", c.hidden, q, c.qkv_bias)
        self.k_proj = build.linear(f"{path}.k_proj", c.hidden, kv, c.qkv_bias)
        self.v_proj = build.linear(f"{path}.v_proj", c.hidden, kv, c.qkv_bias)
        self.o_proj = build.linear(f"{path}.o_proj", q, c.hidden, c.attention_bias)
        if c.qk_norm:
            self.q_norm = RMSNorm(build, f"{path}.q_norm", c.head_dim)
            self.k_norm = RMSNorm(build, f"{path}.k_norm", c.head_dim)

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        c = self.c
        batch, seq = hidden_states.shape[:-1]
        q_shape, kv_shape = (batch, seq, c.heads, c.head_dim), (batch, seq, c.kv_heads, c.head_dim)
        if c.qk_norm:
            query = ops.transpose(self.q_norm(ops.view(self.q_proj(hidden_states), q_shape)), 1, 2)
            key = ops.transpose(self.k_norm(ops.view(self.k_proj(hidden_states), kv_shape)), 1, 2)
        else:
            query = ops.transpose(ops.view(self.q_proj(hidden_states), q_shape), 1, 2)
            key = ops.transpose(ops.view(self.k_proj(hidden_states), kv_shape), 1, 2)
        value = ops.transpose(ops.view(self.v_proj(hidden_states), kv_shape), 1, 2)
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        attend = attention.eager if self.context.attention == "eager" else attention.sdpa
        out = attend(query, key, value, mask, c.groups, c.attention_dropout)
        out = ops.contiguous(ops.reshape(out, (batch, seq, c.heads * c.head_dim)))
        out = self.o_proj(out)
        return out


class MLP(Module):
    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        self.path, self.ledger = path, build.ledger
        self.gate_proj = build.linear(f"{path}.gate_proj", c.hidden, c.intermediate, c.mlp_bias)
        self.up_proj = build.linear(f"{path}.up_proj", c.hidden, c.intermediate, c.mlp_bias)
        self.down_proj = build.linear(f"{path}.down_proj", c.intermediate, c.hidden, c.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        down = self.down_proj(ops.mul(ops.silu(self.gate_proj(x)), self.up_proj(x)))
        return down


class DecoderLayer(Module):
    def __init__(self, build: Builder, path: str, c: Sizes, context: ForwardContext) -> None:
        self.path, self.ledger = path, build.ledger
        self.self_attn = Attention(build, f"{path}.self_attn", c, context)
        self.mlp = MLP(build, f"{path}.mlp", c)
        self.input_layernorm = RMSNorm(build, f"{path}.input_layernorm", c.hidden)
        self.post_attention_layernorm = RMSNorm(build, f"{path}.post_attention_layernorm", c.hidden)

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states = self.self_attn(hidden_states, position_embeddings, mask)
        hidden_states = ops.add(residual, hidden_states)
        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = self.mlp(hidden_states)
        hidden_states = ops.add(residual, hidden_states)
        return hidden_states


class Model(Module):
    def __init__(self, build: Builder, path: str, c: Sizes, context: ForwardContext) -> None:
        self.path, self.ledger, self.context = path, build.ledger, context
        self.c = c
        self.embed_tokens = Embedding(build, f"{path}.embed_tokens", c.vocab, c.hidden)
        self.layers = [DecoderLayer(build, f"{path}.layers.{i}", c, context) for i in range(c.layers)]
        self.norm = RMSNorm(build, f"{path}.norm", c.hidden)
        self.rotary_emb = RotaryEmbedding(build, f"{path}.rotary_emb", c)

    def forward(self, input_ids: Tensor) -> Tensor:
        ledger = self.ledger
        ledger.scope = "embedding"
        inputs_embeds = self.embed_tokens(input_ids)
        position_ids = ops.new_integers(ledger, (1, self.context.seq))
        mask = attention.causal_mask(self.context, inputs_embeds.dtype, None)
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for i, layer in enumerate(self.layers):
            ledger.scope = f"block {i}"
            hidden_states = layer(hidden_states, position_embeddings, mask)
        ledger.scope = "norm"
        hidden_states = self.norm(hidden_states)
        return hidden_states


class CausalLM(Module):
    def __init__(self, build: Builder, c: Sizes, context: ForwardContext) -> None:
        self.path, self.ledger, self.c = "", build.ledger, c
        self.model = Model(build, "model", c, context)
        if c.tied:
            self.lm_head = build.tied_linear("lm_head", self.model.embed_tokens.weight)
        else:
            self.lm_head = build.linear("lm_head", c.hidden, c.vocab)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden_states = self.model(input_ids)
        self.ledger.scope = "lm_head"
        logits = self.lm_head(hidden_states)
        self.ledger.scope = "loss"
        loss = self.loss(logits, input_ids)
        return loss, logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        ledger = self.ledger
        logits = ops.to(logits, "float32")
        batch, seq = labels.shape
        labels = ledger.empty((batch, seq + 1), "int64")
        shift_labels = ledger.empty((batch, seq), "int64")
        logits = ops.view(logits, (batch * seq, self.c.vocab))
        shift_labels = ops.view(shift_labels, (batch * seq,))
        loss = ops.cross_entropy(logits, shift_labels)
        return loss
