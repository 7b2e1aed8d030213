"""One file per family: its forward pass, written with ``ops`` and ``modules``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from . import llama, mistral, qwen2, qwen3
from .module_table import ModuleTable
from .sizes import Sizes

FAMILIES: dict[str, type[llama.CausalLM]] = {
    "llama": llama.CausalLM,
    "mistral": mistral.CausalLM,
    "qwen2": qwen2.CausalLM,
    "qwen3": qwen3.CausalLM,
}
"""``model_type`` of a config.json -> the class that writes its forward pass."""


def program(family: str) -> Any:
    """The class that writes a family's forward pass: of transformers, or litgpt's one for all."""
    if family == "litgpt":
        from .litgpt import GPT

        return GPT
    return FAMILIES[family]


@lru_cache(maxsize=8)
def module_table(family: str, c: Sizes, layers: int) -> ModuleTable:
    """The modules of a model of a family: ``c`` in numbers, its runs of layers left out."""
    return ModuleTable(program(family).modules(c), layers)
