"""A few blocks of every method, small enough for the models of the tests."""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "full": [{"name": "full"}],
    "lora": [
        {"name": "lora", "r": 3},
        {"name": "lora", "r": 5, "target_modules": "all-linear", "lora_dropout": 0.1},
        {"name": "lora", "r": 2, "modules_to_save": ["lm_head"], "bias": "all"},
    ],
    "ia3": [{"name": "ia3"}],
    "lars": [{"name": "lars", "r": 4}, {"name": "lars", "r": 2, "target_modules": ["o_proj", "up_proj"]}],
}
"""By the names of ``METHODS``: a new method needs a row."""
