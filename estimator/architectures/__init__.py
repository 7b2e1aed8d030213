"""One file per family: its forward pass, written with ``ops`` and ``modules``."""

from __future__ import annotations

from . import llama, mistral, qwen2, qwen3

FAMILIES: dict[str, type[llama.CausalLM]] = {
    "llama": llama.CausalLM,
    "mistral": mistral.CausalLM,
    "qwen2": qwen2.CausalLM,
    "qwen3": qwen3.CausalLM,
}
"""``model_type`` of a config.json -> the class that writes its forward pass."""
