"""Prompt tuning as PEFT runs it (``peft/tuners/prompt_tuning``; arXiv 2104.08691)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ..errors import InputError
from ..ledger import Size
from ..programs import Builder, Config, Method, Module
from ..programs.causal_lm import RecordedCausalLM
from .prompts import EmbeddedPromptOptions, PromptMethod, encoder_embedding


class PromptTuningMethod(EmbeddedPromptOptions):
    """Prompt tuning (peft.PromptTuningConfig)."""

    title: ClassVar[str] = "prompt tuning"
    name: Literal["prompt_tuning"] = "prompt_tuning"
    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = Field(
        "RANDOM", description="what the prompts start from (no effect on memory)"
    )
    prompt_tuning_init_text: str | None = Field(None, description="text that the prompts start from")
    tokenizer_name_or_path: str | None = Field(None, description="tokenizer of that text")
    tokenizer_kwargs: dict[str, Any] | None = Field(None, description="arguments of that tokenizer")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        if self.prompt_tuning_init == "TEXT" and not (self.prompt_tuning_init_text and self.tokenizer_name_or_path):
            raise InputError(
                "prompt_tuning_init TEXT needs prompt_tuning_init_text and tokenizer_name_or_path (PEFT's rule)"
            )
        if self.prompt_tuning_init != "TEXT" and self.tokenizer_kwargs:
            raise InputError("tokenizer_kwargs go with prompt_tuning_init TEXT only (PEFT's rule)")
        return PromptTuning(self.tokens(config), self.modules_to_save or ())

    def peft_options(self) -> dict[str, Any]:
        options = super().peft_options()
        start = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
        return {key: value for key, value in options.items() if key not in start}


class PromptTuning(PromptMethod):
    """One trained embedding for each virtual token."""

    def encoder(self, build: Builder, model: RecordedCausalLM) -> Module:
        return encoder_embedding(build, self.virtual_tokens, model.c.hidden)
