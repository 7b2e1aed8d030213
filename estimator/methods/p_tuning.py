"""P-tuning as PEFT runs it (``peft/tuners/p_tuning``; arXiv 2103.10385)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Number, Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Method, Module
from ..programs.causal_lm import RecordedCausalLM
from .prompts import EmbeddedPromptOptions, PromptMethod, encoder_embedding, encoder_linear


class PTuningMethod(EmbeddedPromptOptions):
    """P-tuning (peft.PromptEncoderConfig)."""

    title: ClassVar[str] = "P-tuning"
    name: Literal["p_tuning"] = "p_tuning"
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field("MLP", description="what encodes the prompts")
    encoder_hidden_size: Rank | None = Field(None, description="width of the encoder (default: the hidden size)")
    encoder_num_layers: Rank = Field(2, description="layers of an LSTM (no effect on an MLP)")
    encoder_dropout: Annotated[Number, Field(ge=0, le=1)] = Field(0.0, description="dropout of an LSTM")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        if self.encoder_reparameterization_type == "LSTM":
            raise InputError(
                "encoder_reparameterization_type LSTM saves a workspace of oneDNN's, for which this version has no "
                "rule; use MLP, PEFT's default"
            )
        return PTuning(self.tokens(config), self.modules_to_save or (), self.encoder_hidden_size)


class PTuning(PromptMethod):
    """A trained MLP maps trained embeddings of the virtual tokens to the prompts."""

    def __init__(self, virtual_tokens: int, modules_to_save: Sequence[str], width: int | None) -> None:
        super().__init__(virtual_tokens, modules_to_save)
        self.width = width

    def encoder(self, build: Builder, model: RecordedCausalLM) -> Module:
        hidden = model.c.hidden
        return PromptEncoder(build, self.virtual_tokens, hidden, hidden if self.width is None else self.width)


class PromptEncoder(Module):
    """An embedding [virtual tokens, H] and an MLP of three linear layers."""

    def __init__(self, build: Builder, virtual_tokens: int, hidden: Size, width: Size) -> None:
        self.ledger = build.ledger
        self.embedding = encoder_embedding(build, virtual_tokens, hidden)
        self.mlp_head = (
            encoder_linear(build, "mlp_head.0", hidden, width),
            encoder_linear(build, "mlp_head.2", width, width),
            encoder_linear(build, "mlp_head.4", width, hidden),
        )

    def forward(self, indices: Tensor) -> Tensor:
        """Ids [1, virtual tokens] -> [1, virtual tokens, hidden]."""
        x = input_embeds = self.embedding(indices)  # noqa: F841 (held to the end)
        first, second, last = self.mlp_head
        x = ops.relu(first(x))
        x = ops.relu(second(x))
        output_embeds: Tensor = last(x)
        return output_embeds
