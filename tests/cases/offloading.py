"""What is saved for backward, held in the host's memory."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Refused
from tests.cases.small_models import METHODS

OFFLOADED, ON_HOST = {"checkpointing": "offloaded"}, {"saved_activations": "on-host"}
REFUSED: list[Refused] = [
    ({}, {"model": "llama-3.2-1b", "method": "lora", **keys}, says)
    for keys, says in (
        (OFFLOADED, "runtime: torch-cpu, where the model is in the host's memory"),
        (ON_HOST, "runtime: torch-cpu, where the model is in the host's memory"),
        ({**ON_HOST, "runtime": "torch-cuda", "dtype": "gptq"}, "no rule with dtype: gptq"),
        ({**ON_HOST, "runtime": "torch-cuda", "mlp_chunks": 2}, "set mlp_chunks: 1"),
        ({**ON_HOST, "runtime": "torch-cuda", "activation_group_size": 32}, "int8 or int4"),
        ({**OFFLOADED, "runtime": "torch-cuda", "method": "mezo"}, "checkpointing belongs to"),
    )
]
LORA, DROPOUT = METHODS["lora"], METHODS["lora-all-dropout"]
SMALL = {"vocab_size": 19, "num_hidden_layers": 6}
"""The peak is in a layer."""
HEAVY = {**SMALL, "intermediate_size": 1600}
"""And it is of weights, with a few tokens."""
FEW: dict[str, Any] = {"batch": 1, "seq": 3}
MEASURED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, str]]] = [
    ("layer", SMALL, {}, OFFLOADED),
    ("layer-lora", SMALL, {"method": DROPOUT, "dtype": "bfloat16", "mlp_chunks": 3}, OFFLOADED),
    ("layer-loss", {}, {"method": LORA, "autocast": "bfloat16", "loss": "liger", "use_cache": True}, OFFLOADED),
    ("layer-quantised", SMALL, {"saved_activations": "int8", "gradient_accumulation_steps": 2}, OFFLOADED),
    ("all", SMALL, {}, ON_HOST),
    ("all-eager", {**SMALL, "model_type": "qwen3"}, {"attention": "eager", "autocast": "bfloat16"}, ON_HOST),
    ("all-mask", {**SMALL, "model_type": "mistral"}, {"attention_mask": True, "method": LORA}, ON_HOST),
    ("all-weights", {**HEAVY, "mlp_bias": True}, {**FEW, "autocast": "float16", "method": DROPOUT}, ON_HOST),
    ("all-layer", {**SMALL, "model_type": "qwen2"}, {"checkpointing": "layer", "method": LORA}, ON_HOST),
    ("all-segments", SMALL, {"checkpointing": "every-2", "loss": "chunked"}, ON_HOST),
    ("all-oft", SMALL, {"method": {"name": "oft", "oft_block_size": 4, "target_modules": ["q_proj"]}}, ON_HOST),
    ("all-nf4", HEAVY, {**FEW, "dtype": "nf4", "method": DROPOUT, "kbit_preparation": True}, ON_HOST),
    ("both", HEAVY, {"dtype": "bfloat16"}, {**OFFLOADED, **ON_HOST}),
]
"""Name, keys of a config and of a plan, and what of the plan goes to the host."""
