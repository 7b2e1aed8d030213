"""The graph of each architecture, operator by operator as the engine builds it: one file for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..builder import Builder
from ..ggml import Graph
from . import deepseek2, gemma, gemma3n, gpt_oss, granite_hybrid, lfm2, llama, phi3

GRAPHS: Mapping[str, Callable[[Builder], Graph]] = {
    "llama": llama.build,
    "qwen2": llama.build,
    "qwen3": llama.build,
    "qwen3moe": llama.build,
    "smollm3": llama.build,
    "granite": llama.build,
    "granitemoe": llama.build,
    "gemma2": gemma.build,
    "gemma3": gemma.build,
    "gemma3n": gemma3n.build,
    "phi3": phi3.build,
    "gpt-oss": gpt_oss.build,
    "deepseek2": deepseek2.build,
    "lfm2": lfm2.build,
    "lfm2moe": lfm2.build,
    "granitehybrid": granite_hybrid.build,
}
"""The function that builds the graph, by the architecture's name in a GGUF file (``general.architecture``)."""
