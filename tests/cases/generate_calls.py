"""Random calls of ``generate``."""

from __future__ import annotations

import random
from typing import Any

from tests.cases.small_models import FAMILIES, METHODS

WINDOWS = {"use_sliding_window": True, "sliding_window": 16}


def random_call(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A small model and a call; lengths lie on both sides of the windows (24 of mistral's, 16 of the others')."""
    draw = random.Random(seed)
    family, cache = draw.choice(list(FAMILIES)), draw.choice(["dynamic", "static", "quantized"])
    config: dict[str, Any] = {"model_type": family, "num_hidden_layers": draw.randint(1, 6)}
    config["vocab_size"] = draw.choice([19, 611, 5000])
    if cache == "quantized":
        config["sliding_window"] = None
    elif family in ("qwen2", "qwen3") and draw.random() < 0.5:
        config.update(WINDOWS, max_window_layers=draw.randint(0, 2))
    block = {"max_new_tokens": draw.choice([1, 2, 5, 30]), "num_beams": draw.choice([1, 1, 2, 3])}
    plan = {
        "batch": draw.randint(1, 3),
        "seq": draw.choice([1, 5, 14, 15, 16, 17, 23, 24, 25, 70, 200]),
        "dtype": draw.choice(["float32", "bfloat16"]),
        "attention": draw.choice(["sdpa", "eager"]),
        "method": draw.choice(["full", "full", METHODS["lora"]]),
        "generate": {**block, "cache_implementation": cache},
    }
    return config, plan
