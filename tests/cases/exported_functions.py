"""Plans that are exported as functions, each with its variables, and random values for these."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from estimator.export.function import Function

Case = tuple[dict[str, Any], tuple[str, ...]]

CASES: dict[str, Case] = {
    "lora": ({"model": "llama-3.2-1b", "method": "lora"}, ("batch", "seq", "r")),
    "full eager": ({"model": "smollm2-135m", "attention": "eager", "dtype": "float32"}, ("batch", "seq")),
    "ia3": ({"model": "qwen2.5-0.5b", "method": "ia3"}, ("batch", "seq")),
    "window": ({"model": "mistral-7b-v0.1", "method": {"name": "lora", "r": 4}}, ("batch", "seq")),
    "windows that alternate": ({"model": "gemma-2-2b", "method": "lora"}, ("batch", "seq", "r")),
    "nf4, checkpointed": (
        {"model": "qwen3-0.6b", "dtype": "nf4", "method": "lora", "checkpointing": "layer", "optimizer": "paged-adamw"},
        ("seq", "r"),
    ),
    "int8": ({"model": "smollm2-360m", "dtype": "int8", "method": "lora", "batch": 3}, ("seq",)),
    "segments of layers": (
        {
            "model": "phi-3.5-mini",
            "method": {"name": "lora", "use_dora": True, "target_modules": "all-linear"},
            "checkpointing": "every-4",
        },
        ("batch", "seq"),
    ),
    "sizes": (
        {"model": "qwen3-0.6b", "method": "lora"},
        ("batch", "seq", "num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"),
    ),
    "inference": ({"model": "gemma-3-1b", "task": "infer", "use_cache": True}, ("batch", "seq")),
    "generate": (
        {"model": "llama-3.2-1b", "max_new_tokens": 50, "method": "lora"},
        ("batch", "seq", "max_new_tokens", "r"),
    ),
    "generate, static cache": (
        {"model": "qwen3-0.6b", "max_new_tokens": 9, "cache_implementation": "static", "dtype": "float32", "batch": 2},
        ("seq", "max_new_tokens"),
    ),
    "experts": (
        {"model": "gpt-oss-20b", "method": {"name": "lora", "target_modules": ["q_proj"]}},
        ("batch", "seq", "r"),
    ),
    "gpu": ({"model": "llama-3.2-1b", "method": "lora", "device": "rtx-4090"}, ("batch", "seq", "r")),
    "old gpu": ({"model": "smollm2-135m", "method": "lora", "device": "t4", "dtype": "float16"}, ("batch", "seq")),
    "llama.cpp": ({"model": "llama-3.2-1b", "dtype": "q4_k_m", "llama_cpp": {"type_k": "q8_0"}}, ("n_ctx",)),
    "llama.cpp, windows": ({"model": "gemma-3-1b", "dtype": "q8_0", "llama_cpp": {"n_seq_max": 2}}, ("n_ctx",)),
    "llama.cpp on a phone": ({"model": "qwen3-0.6b", "dtype": "q4_0", "device": "iphone-15-pro"}, ("n_ctx",)),
}

BEYOND_DECODERS: dict[str, Case] = {
    "two stacks": ({"model": "t5-small", "method": "lora"}, ("batch", "seq", "target_seq", "r")),
    "sound": ({"model": "whisper-tiny", "method": "lora"}, ("batch", "target_seq", "r")),
    "learned positions on a gpu": ({"model": "bert-base", "method": "lora", "device": "rtx-4090"}, ("batch", "seq")),
}


def points(f: Function, count: int, seed: int = 0) -> list[dict[str, int]]:
    """Random values of a function's variables, the least and the smallest among them."""
    rng = random.Random(seed)
    first = {v.name: v.least for v in f.variables}
    second = {v.name: _multiple(v, v.least + 1) for v in f.variables}
    rows = [first, second, {v.name: v.value for v in f.variables}]
    while len(rows) < count:
        rows.append({v.name: _multiple(v, _value(v, rng)) for v in f.variables})
    return rows[:count]


_SPANS = {"batch": (1, 40), "seq": (1, 40_000), "r": (1, 300), "max_new_tokens": (1, 3000)}


def _value(v: Any, rng: random.Random) -> int:
    low, high = _SPANS.get(v.name, (v.least, v.most if v.name == "n_ctx" else 3 * v.value))
    if rng.random() < 0.2:
        return min(v.least + rng.randrange(3), v.most)
    return min(max(v.least, round(low * (high / low) ** rng.random())), v.most)


def _multiple(v: Any, value: int) -> int:
    return max(v.least, min(value, v.most) // v.multiple_of * v.multiple_of)


def asked(plan: Mapping[str, Any], values: Mapping[str, int]) -> dict[str, Any]:
    """The plan with values of its variables that are keys of the plan."""
    keys = dict(plan)
    for name, value in values.items():
        if name == "r":
            method = keys["method"]
            keys["method"] = {**({"name": method} if isinstance(method, str) else method), "r": value}
        elif name == "n_ctx":
            keys["llama_cpp"] = {**keys.get("llama_cpp", {}), "n_ctx": value}
        elif name in ("batch", "seq", "target_seq", "max_new_tokens"):
            keys[name] = value
    return keys


def rows_of(columns: Sequence[str], values: Sequence[Mapping[str, int]]) -> list[list[int]]:
    """Values as rows."""
    return [[row[name] for name in columns] for row in values]
