"""The options that PEFT's ``LoraConfig`` has, as data."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictBool

from ..io.fields import Name, Number, Rank
from ..programs.module_table import Kind
from .layered import LayerOptions
from .options import Pattern, Tokens

DATA_DRIVEN = ("corda", "loftq", "lora_ga")
"""Initialisations that need data or a configuration of their own. The training steps after them are LoRA's."""


def _initialisation(value: str) -> str:
    known = ("gaussian", "eva", "olora", "pissa", "orthogonal", "mica", *DATA_DRIVEN)
    if value not in known and not re.fullmatch("pissa_niter_[0-9]+", value):
        raise ValueError(f"must be true, false, pissa_niter_N or one of {', '.join(known)}")
    return value


class LoraConfig(LayerOptions):
    """What a target, an adapter and a parameter that is adapted depend on."""

    opens_rank = True
    harmless: ClassVar[frozenset[str]] = frozenset(
        {"qalora_group_size", "corda_config", "eva_config", "loftq_config", "lora_ga_config"}
    )
    adapted: ClassVar[tuple[Kind, ...]] = ("linear", "embedding")
    r: Rank = Field(8, description="rank")
    lora_alpha: Number = Field(8, description="scale numerator (no effect on memory)")
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before lora_A")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="biases to train")
    lora_bias: StrictBool = Field(False, description="lora_B has a bias")
    use_rslora: StrictBool = Field(False, description="scale by 1/sqrt(r) (no effect on memory)")
    use_dora: StrictBool = Field(False, description="DoRA: train the magnitudes of the weight's rows as well")
    init_lora_weights: StrictBool | Annotated[str, AfterValidator(_initialisation)] = Field(
        True, description="initialisation (no effect on memory, but mica freezes lora_B)"
    )
    rank_pattern: dict[Pattern, Rank] | None = Field(None, description="ranks for modules by regular expression")
    alpha_pattern: dict[Pattern, Number] | None = Field(
        None, description="scale numerators for modules by regular expression (they matter for parameters alone)"
    )
    target_parameters: list[Name] | None = Field(
        None, description="parameters to adapt, such as experts' weights, by the ends of their names"
    )
    trainable_token_indices: Tokens | dict[str, Tokens] | None = Field(
        None, description="ids of tokens to train as well: a list for embed_tokens, or lists by the embedding's name"
    )

    def peft_options(self) -> dict[str, Any]:
        options = super().peft_options()
        if self.init_lora_weights in DATA_DRIVEN:
            del options["init_lora_weights"]
        return options
