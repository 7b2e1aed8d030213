"""Recipes of many keys at once, as people train: QLoRA in a bfloat16 trainer with FlashAttention 2 and Liger."""

from __future__ import annotations

from typing import Any

from tests.cases.small_models import METHODS

F32, BF16, F16 = "float32", "bfloat16", "float16"
NF4 = {"dtype": "nf4", "kbit_preparation": True, "compute_dtype": BF16}
LORA = METHODS["lora-all-dropout"]
RECIPES: list[tuple[str, dict[str, Any]]] = [
    ("all", {**NF4, "autocast": BF16, "loss": "liger", "checkpointing": "layer", "method": LORA}),
    ("without-checkpointing", {**NF4, "autocast": BF16, "loss": "liger", "method": LORA}),
    ("no-autocast", {**NF4, "method": LORA, "loss": "chunked"}),
    ("no-autocast-float16", {**NF4, "rest_dtype": F16, "method": METHODS["lora"], "checkpointing": "layer"}),
    ("autocast-other", {**NF4, "autocast": F16, "method": LORA, "loss": "cce", "double_quant": True}),
    ("int8", {"dtype": "int8", "kbit_preparation": True, "autocast": BF16, "method": LORA, "loss": "cce"}),
    ("not-prepared", {"dtype": "nf4", "compute_dtype": BF16, "method": METHODS["lora"], "loss": "liger"}),
    ("plain", {"dtype": BF16, "method": "full", "loss": "liger"}),
    ("plain-autocast", {"dtype": F32, "autocast": BF16, "method": "full", "loss": "liger", "checkpointing": "layer"}),
]
