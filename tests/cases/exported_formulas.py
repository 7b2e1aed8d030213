"""Plans whose formulas are exported."""

from __future__ import annotations

from typing import Any

PLANS: dict[str, dict[str, Any]] = {
    "tied lora": {"model": "llama-3.2-1b", "method": {"name": "lora", "r": 16}},
    "untied full eager": {"model": "llama-7b", "attention": "eager"},
    "ia3 bias": {"model": "qwen2.5-0.5b", "method": "ia3"},
    "window": {"model": "mistral-7b-v0.1", "method": {"name": "lora", "r": 4}},
    "checkpointing": {"model": "qwen3-0.6b", "checkpointing": "layer", "optimizer": "sgd"},
    "rank one all-linear": {
        "model": "smollm2-360m",
        "method": {"name": "lora", "r": 1, "target_modules": "all-linear"},
    },
    "autocast float32": {"model": "llama-3.2-1b", "dtype": "float32", "autocast": "bfloat16", "keep_logits": False},
    "some layers": {"model": "llama-3.2-1b", "method": {"name": "lora", "layers_to_transform": [3, 4]}},
    "gpu": {"model": "smollm2-135m", "method": "lora", "device": "t4", "dtype": "float16"},
}
