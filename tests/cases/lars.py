"""LARS, of the project's own reference module."""

from __future__ import annotations

from tests.cases.kinds import Case

LARS = {"name": "lars"}
SOME = {"name": "lars", "r": 3, "target_modules": ["q_proj", "down_proj"], "lars_dropout": 0.0}
_ROWS: list[Case] = [
    ("lars-f32", {}, {"dtype": "float32", "method": LARS}),
    ("lars-bf16", {"model_type": "qwen2"}, {"dtype": "bfloat16", "method": LARS, "attention": "eager"}),
    ("lars-f16-checkpointing", {"model_type": "qwen3"}, {"dtype": "float16", "method": LARS, "checkpointing": "layer"}),
    ("lars-some", {"num_hidden_layers": 7}, {"dtype": "float32", "method": SOME, "batch": 1, "seq": 70}),
    ("lars-one-token", {}, {"dtype": "float32", "method": SOME, "batch": 3, "seq": 1}),
    ("lars-16-bit-adapter", {}, {"dtype": "bfloat16", "method": {**SOME, "adapter_dtype": "bfloat16"}}),
    ("lars-saved-head", {}, {"dtype": "float32", "method": {**SOME, "modules_to_save": ["lm_head"]}}),
    ("lars-head", {"model_type": "mistral"}, {"dtype": "float32", "method": {**SOME, "target_modules": ["lm_head"]}}),
    ("lars-autocast", {}, {"dtype": "float32", "autocast": "float16", "method": LARS}),
]
MEASURED: list[Case] = [(name, config, {"batch": 2, "seq": 33, **plan}) for name, config, plan in _ROWS]
