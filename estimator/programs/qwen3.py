"""Qwen3: Qwen2 with a norm on each head's query and key (``modeling_qwen3.py``)."""

from __future__ import annotations

from .. import operators as ops
from ..ledger import Tensor
from . import llama, qwen2
from .module_table import Row
from .modules import Builder
from .sizes import Sizes


class Attention(llama.Attention):
    """Attention with a norm over the head dimension of query and key."""

    @classmethod
    def modules(cls, path: str, c: Sizes) -> list[Row]:
        norms = (Row(f"{path}.{name}", "norm", (c.head_dim,)) for name in ("q_norm", "k_norm"))
        return [*super().modules(path, c), *norms]

    def __init__(self, build: Builder, path: str, c: Sizes) -> None:
        super().__init__(build, path, c)
        self.q_norm = build.rms_norm(f"{path}.q_norm", c.head_dim)
        self.k_norm = build.rms_norm(f"{path}.k_norm", c.head_dim)

    def query_key(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        q_shape, kv_shape = self.shapes(hidden_states)
        query = ops.transpose(self.q_norm(ops.view(self.q_proj(hidden_states), q_shape)), 1, 2)
        key = ops.transpose(self.k_norm(ops.view(self.k_proj(hidden_states), kv_shape)), 1, 2)
        return query, key


class DecoderLayer(llama.DecoderLayer):
    """A layer with that attention."""

    attention = Attention


class Model(qwen2.Model):
    """A model of such layers."""

    layer = DecoderLayer


class CausalLM(llama.CausalLM):
    """``Qwen3ForCausalLM``."""

    model_class = Model
