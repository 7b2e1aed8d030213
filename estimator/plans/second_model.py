"""A frozen second model of a plan: what a trainer compares its policy with, or what scores its completions."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..bases.formats import Format
from ..errors import InputError, shown
from ..io.fields import FileName, FloatName, checked, torch_dtype
from ..io.files import NotYaml, parse_json_or_yaml

KINDS = ("none", "adapter-off", "copy")
"""What a reference may be beside a model of its own."""
_EXAMPLE = "such as {model: qwen2.5-7b, dtype: nf4}"


class SecondModel(BaseModel):
    """A model by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: FileName = Field(description="built-in name, config.json or its folder, or hub id")
    dtype: Annotated[FloatName | Format, BeforeValidator(torch_dtype)] | None = Field(
        None, description="its weights' dtype; if not given, the plan's"
    )
    device: Literal["cpu", "cuda"] | None = Field(None, description="where it rests: where the plan's model does")


def second_model(value: Any) -> str | SecondModel:
    """The reference of a plan: one of ``KINDS``, a model's name, or a block. Raises ``InputError``."""
    if isinstance(value, str) and value in KINDS:
        return value
    return _model(value, "reference", f"{', '.join(KINDS)}, a model")


MOST_REWARDS = 8
"""The most models that score a plan's completions."""


def scoring_models(value: Any) -> SecondModel | tuple[SecondModel, ...]:
    """The reward model of a plan: a model's name, or a block; or several of them, as a list. Raises ``InputError``."""
    value = _read(value, "[")
    if not isinstance(value, (list, tuple)):
        return _model(value, "reward_model", "a model, a list of them")
    if not 0 < len(value) <= MOST_REWARDS:
        raise InputError(f"reward_model is a list of {len(value):,}; give 1 to {MOST_REWARDS} models")
    found = tuple(_model(one, "reward_model", "a model") for one in value)
    return found if len(found) > 1 else found[0]


def teacher_model(value: Any) -> SecondModel:
    """The teacher of a plan: a model's name, or a block. Raises ``InputError``."""
    return _model(value, "teacher", "a model")


def plain(value: Any) -> Any:
    """A plan's value as JSON has it, where it is a second model, or several."""
    if isinstance(value, tuple) and value and isinstance(value[0], SecondModel):
        return [plain(one) for one in value]
    return value.model_dump(exclude_none=True) if isinstance(value, SecondModel) else value


_PADDING = 128 * 8
"""Embeddings behind a tokenizer's that a published model may have: Megatron-LM pads the vocabulary to a multiple of 128
times the processes that share it, of which a host has 8 (``arguments.py: make_vocab_size_divisible_by``)."""


def check_vocabulary(key: str, vocab_size: int, policy: int) -> None:
    """Raise ``InputError`` where a second model has no embeddings of ids that the policy's tokenizer makes."""
    if vocab_size <= policy - _PADDING:
        raise InputError(
            f"{key} has a vocabulary of {vocab_size:,} and is given the token ids of the model, which has {policy:,} "
            "(`index out of range in self`, PyTorch's words); take a model with the same tokenizer",
            key,
        )


def _read(value: Any, opens: str) -> Any:
    """A block or a list that is written on a command line."""
    if isinstance(value, str) and value.lstrip().startswith(opens):
        with suppress(NotYaml):
            return parse_json_or_yaml(value)
    return value


def _model(value: Any, key: str, known: str) -> SecondModel:
    value = _read(value, "{")
    if isinstance(value, SecondModel):
        return value
    if not isinstance(value, (str, Mapping)):
        raise InputError(f"{key} must be {known} or a block {_EXAMPLE}, not {shown(value)}")
    return checked(SecondModel, {"model": value} if isinstance(value, str) else value, key, f"{key}.")
