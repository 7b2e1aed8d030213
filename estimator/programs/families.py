"""The program of each model family, by ``model_type``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from . import llama, mistral, qwen2, qwen3
from .module_table import ModuleTable, written_out
from .sizes import Sizes

FAMILIES: dict[str, type[llama.CausalLM]] = {
    "llama": llama.CausalLM,
    "mistral": mistral.CausalLM,
    "qwen2": qwen2.CausalLM,
    "qwen3": qwen3.CausalLM,
}
"""For each ``model_type`` of a config.json, its program."""


def program(family: str) -> Any:
    """A family's program: written for its ``model_type``, recorded, or ``litgpt``'s, which is one for all models."""
    if family == "litgpt":
        from .litgpt import GPT

        return GPT
    if family not in FAMILIES:
        from .interpreter import RecordedCausalLM

        return RecordedCausalLM
    return FAMILIES[family]


@lru_cache(maxsize=8)
def module_table(family: str, c: Sizes, layers: int) -> ModuleTable:
    """The modules of a model with so many layers. ``c`` are numbers; its runs are not used."""
    return ModuleTable(written_out(program(family).modules(c), layers))
