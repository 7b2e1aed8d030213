"""Prompt learning as PEFT runs it (``peft/peft_model.py``): each sequence starts with virtual tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Name, Rank, Whole
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Embedding, Inputs, Linear, Module
from ..programs.causal_lm import RecordedCausalLM
from .base import AdapterMethod, Targets
from .options import MethodOptions, check_modules_to_save

_FILLED_IN: Mapping[str, tuple[frozenset[str], tuple[str, ...]]] = {
    "num_layers": (
        frozenset({"blt", "musicgen", "musicgen_melody"}),
        ("num_hidden_layers", "num_layers", "n_layer"),
    ),
    "token_dim": (
        frozenset({"blt", "musicgen", "musicgen_melody", "xlm"}),
        ("hidden_size", "n_embd", "d_model"),
    ),
    "num_attention_heads": (
        frozenset({
            "blt", "dbrx", "falcon_mamba", "mamba", "mpt", "musicgen", "musicgen_melody", "prophetnet", "rwkv", "trocr",
            "xglm", "xlm",
        }),
        ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads"),
    ),
}  # fmt: skip
"""For each key that PEFT fills in from a config: each ``model_type`` whose configs have none of the names, and them."""


class PromptOptions(MethodOptions):
    """Options of methods with virtual tokens (peft.PromptLearningConfig)."""

    tuner: ClassVar[bool] = False
    num_virtual_tokens: Rank | None = Field(None, description="virtual tokens before each sequence")
    token_dim: Whole | None = Field(None, description="hidden size, which PEFT fills in")
    num_transformer_submodules: Annotated[Whole, Field(ge=1, le=1)] | None = Field(
        None, description="1, which PEFT fills in"
    )
    num_attention_heads: Whole | None = Field(None, description="heads, which PEFT fills in")
    num_layers: Whole | None = Field(None, description="layers, which PEFT fills in")
    modules_to_save: list[Name] | None = Field(None, description="modules trained as full copies")

    def check_config(self, raw: Mapping[str, Any]) -> None:
        """``peft.utils.other._prepare_prompt_learning_config``, in its words. Raises ``InputError``."""
        for key, (families, names) in _FILLED_IN.items():
            known = raw.get("model_type") not in families or any(name in raw for name in names)
            if not known and getattr(self, key) is None:
                raise InputError(f"PEFT refuses method {self.name}: Please specify `{key}` in `peft_config`")

    def tokens(self, config: Config) -> int:
        """The number of virtual tokens, once the options have been checked. Raises ``InputError``."""
        if self.num_virtual_tokens is None:
            raise InputError(f"{self.name} needs num_virtual_tokens, such as 20")
        if self.num_layers not in (None, config.num_hidden_layers):
            raise InputError(f"num_layers {self.num_layers}: the model has {config.num_hidden_layers} layers")
        check_modules_to_save(config, self.modules_to_save)
        return self.num_virtual_tokens

    def peft_options(self) -> dict[str, Any]:
        return {**super().peft_options(), "task_type": "CAUSAL_LM"}


class EmbeddedPromptOptions(PromptOptions):
    """Options of methods whose virtual tokens are embeddings."""

    pads_labels: ClassVar[bool] = True

    def tokens(self, config: Config) -> int:
        if self.token_dim not in (None, config.hidden_size):
            raise InputError(f"token_dim {self.token_dim}: the model's hidden size is {config.hidden_size}")
        embedding = config.modules.path_of("input embedding")
        if any(embedding.endswith(name) for name in self.modules_to_save or ()):
            raise InputError(
                f"modules_to_save has {embedding}, but {self.name} looks tokens up in the original embedding, "
                "so a copy would never train; take it out"
            )
        return super().tokens(config)


class PromptMethod(AdapterMethod):
    """A frozen base model and a trained encoder of virtual tokens, which is float32 whatever the base's dtype."""

    def __init__(self, virtual_tokens: int, modules_to_save: Sequence[str]) -> None:
        super().__init__(Targets([]), modules_to_save, "float32")
        self.virtual_tokens = virtual_tokens

    def encoder(self, build: Builder, model: RecordedCausalLM) -> Module:
        """The module that maps ids of virtual tokens, [B, virtual tokens], to prompts [B, virtual tokens, ...]."""
        raise NotImplementedError

    def wrap_model(self, build: Builder, model: RecordedCausalLM) -> Module:
        return EmbeddedPrompts(build, model, self)


class PromptModel(Module):
    """A model and its prompt encoder."""

    def __init__(self, build: Builder, model: RecordedCausalLM, method: PromptMethod) -> None:
        self.ledger, self.dtype = build.ledger, build.dtype
        self.base_model, self.virtual_tokens = model, method.virtual_tokens
        self.prompt_encoder = method.encoder(build, model)

    def prompt_tokens(self, batch: Size) -> Tensor:
        """Ids [B, virtual tokens], all rows views of one, which PEFT keeps as an attribute and not as a buffer."""
        ids = self.ledger.attribute((self.virtual_tokens,), "int64")
        return ops.expand(ops.unsqueeze(ids, 0), (batch, self.virtual_tokens))

    def extended(self, inputs: Inputs) -> tuple[Tensor, Tensor] | None:
        """The ones for virtual tokens [B, virtual tokens], and the padding mask that starts with them; both float32."""
        if not inputs.step.takes_mask:
            return None
        ones = self.ledger.empty((inputs.batch, self.virtual_tokens), "float32")
        return ones, self.ledger.empty((inputs.batch, self.virtual_tokens + inputs.seq), "float32")


class EmbeddedPrompts(PromptModel):
    """Puts prompts [B, virtual tokens, H] before the embeddings [B, S, H] of the sequences."""

    def forward(self, input_ids: Tensor, labels: Tensor | None, inputs: Inputs) -> Any:
        """``PeftModelForCausalLM.forward``."""
        attention_mask = self.extended(inputs)  # noqa: F841 (held during the call)
        batch, seq = inputs.batch, self.virtual_tokens + inputs.seq
        inputs_embeds = self.base_model.model.embed(input_ids, inputs)
        if labels is not None:
            prefix_labels = self.ledger.empty((batch, self.virtual_tokens), "int64")
            labels = ops.cat((prefix_labels, labels), (batch, seq))
        self.ledger.scope = "prompt encoder"
        prompts = self.get_prompt(batch)
        prompts = ops.to(prompts, inputs_embeds.dtype)
        inputs_embeds = ops.cat((prompts, inputs_embeds), (batch, seq, inputs_embeds.shape[-1]))
        return self.base_model(None, labels, inputs._replace(seq=seq), inputs_embeds)

    def get_prompt(self, batch: Size) -> Tensor:
        """The prompts of one sequence, repeated for the batch: [B, virtual tokens, H]."""
        prompts = self.prompt_encoder(self.prompt_tokens(1))
        return ops.repeat(prompts, batch, 1, 1)


def encoder_embedding(build: Builder, virtual_tokens: int, size: Size) -> Embedding:
    """The embedding of a prompt encoder: weight [virtual tokens, size]."""
    path = "prompt_encoder.embedding"
    return Embedding(build, path, build.adapter(f"{path}.weight", (virtual_tokens, size), "float32"))


def encoder_linear(build: Builder, name: str, n_in: Size, n_out: Size) -> Linear:
    """A linear layer of a prompt encoder, with a bias."""
    return build.adapter_linear(f"prompt_encoder.{name}", n_in, n_out, True, "float32")
