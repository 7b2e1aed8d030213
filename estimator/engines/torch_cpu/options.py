"""What a plan may say of PyTorch on a CPU."""

from __future__ import annotations

from ..keys import Keys

KEYS = Keys(
    words=("cpu", "pytorch", "torch", "transformers"),
    refused={
        "attention: flash does not go with runtime: {p.runtime}, since its kernel is a GPU's; set runtime: torch-cuda, "
        "or attention: sdpa": lambda p: p.attention == "flash",
        "cache_implementation: {p.generate.cache_implementation} does not go with runtime: {p.runtime}, where the "
        "model is in the host's memory itself; set runtime: torch-cuda or a GPU, or cache_implementation: "
        "{p.generate.on_device}": lambda p: p.generate is not None and p.generate.offloads,
    },
    refused_steps={
        "{p.pins_memory} does not go with runtime: {p.runtime}, where the model is in the host's memory itself; set "
        "runtime: torch-cuda or a GPU, or take checkpointing: layer": lambda p: p.pins_memory,
    },
)
