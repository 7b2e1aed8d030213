"""One file per family: its forward pass, written with ``ops`` and ``modules``."""

from __future__ import annotations

from typing import Any

from . import llama, mistral, qwen2, qwen3

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
