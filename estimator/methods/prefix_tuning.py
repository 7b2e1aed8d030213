"""Prefix tuning as PEFT runs it (``peft/tuners/prefix_tuning``; arXiv 2101.00190)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Inputs, Method, Module
from ..programs.attention_functions import Cache
from ..programs.causal_lm import RecordedCausalLM
from .prompts import PromptMethod, PromptModel, PromptOptions, encoder_embedding, encoder_linear


class PrefixTuningMethod(PromptOptions):
    """Prefix tuning (peft.PrefixTuningConfig)."""

    title: ClassVar[str] = "prefix tuning"
    acts_on_interfaces: ClassVar[bool] = True
    name: Literal["prefix_tuning"] = "prefix_tuning"
    prefix_projection: StrictBool = Field(False, description="an MLP makes the keys and values of the prefix")
    encoder_hidden_size: Rank | None = Field(None, description="width of that MLP (default: key heads times head size)")
    init_weights: Literal["zero"] | None = Field(None, description="what the prefix starts from")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return PrefixTuning(
            self.tokens(config), self.modules_to_save or (), self.prefix_projection, self.encoder_hidden_size
        )


class PrefixTuning(PromptMethod):
    """The keys and values of every layer start with trained ones."""

    def __init__(
        self, virtual_tokens: int, modules_to_save: Sequence[str], projection: bool, width: int | None
    ) -> None:
        super().__init__(virtual_tokens, modules_to_save)
        self.projection, self.width = projection, width

    def encoder(self, build: Builder, model: RecordedCausalLM) -> Module:
        token_dim = model.c.kv_heads * model.c.head_dim
        size = model.c.layers() * 2 * token_dim
        if not self.projection:
            return encoder_embedding(build, self.virtual_tokens, size)
        width = token_dim if self.width is None else self.width
        return PrefixEncoder(build, self.virtual_tokens, token_dim, width, size)

    def wrap_model(self, build: Builder, model: RecordedCausalLM) -> Module:
        return PrefixedModel(build, model, self)


class PrefixEncoder(Module):
    """An embedding [virtual tokens, kv_heads * D], and an MLP that maps it to the keys and values of all layers."""

    def __init__(self, build: Builder, virtual_tokens: int, token_dim: Size, width: Size, size: Size) -> None:
        self.ledger = build.ledger
        self.embedding = encoder_embedding(build, virtual_tokens, token_dim)
        self.first = encoder_linear(build, "transform.0", token_dim, width)
        self.last = encoder_linear(build, "transform.2", width, size)

    def forward(self, prefix: Tensor) -> Tensor:
        """Ids [B, virtual tokens] -> [B, virtual tokens, L * 2 * kv_heads * D]."""
        prefix_tokens = self.embedding(prefix)
        past_key_values: Tensor = self.last(ops.tanh(self.first(prefix_tokens)))
        return past_key_values


class PrefixedModel(PromptModel):
    """The model, called with a cache of keys and values [B, kv_heads, virtual tokens, D] in every layer."""

    def forward(self, input_ids: Tensor, labels: Tensor | None, inputs: Inputs) -> Any:
        """``PeftModelForCausalLM.forward``."""
        attention_mask = self.extended(inputs)  # noqa: F841 (held during the call)
        self.ledger.scope = "prompt encoder"
        cache = self.get_prompt(inputs)
        return self.base_model(input_ids, labels, inputs._replace(past=self.virtual_tokens), None, cache)

    def get_prompt(self, inputs: Inputs) -> Cache:
        """A cache that holds the prefix of every layer."""
        c, layers = self.base_model.c, self.base_model.model.segments
        shape = (inputs.batch, self.virtual_tokens, c.layers() * 2, c.kv_heads, c.head_dim)
        past_key_values = self.prompt_encoder(self.prompt_tokens(inputs.batch))
        past_key_values = ops.to(past_key_values, self.dtype)
        past_key_values = ops.view(past_key_values, shape)
        per_layer: list[tuple[Size, Size]] = [
            (2, copies) for copies, groups, *_ in layers for group in groups for _ in group
        ]
        past_key_values = ops.permute(past_key_values, (2, 0, 3, 1, 4))
        past = []
        for layer, copies in ops.split_counted(past_key_values, 0, per_layer):
            with self.ledger.counted(copies):
                key, value = ops.unbind(layer)
                past.append((ops.cat((key,), key.shape), ops.cat((value,), value.shape)))
        return Cache(self.ledger, past)
