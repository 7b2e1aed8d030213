"""Sizes of quantised models that others measured on a GPU."""

from __future__ import annotations

import pytest

from estimator import estimate

ROTARY = 1 << 10
"""Bytes: the frequencies that no published breakdown counts."""
MIB = 1 << 20
PUBLISHED = {
    "mistral-7b-v0.3": (16, 3328, 416.013671875, 1077.015625),
    "deepseek-coder-1.3b": (16, 579, 72.38525390625, 528.3828125),
    "qwen2.5-coder-1.5b": (16, 624.75, 78.105712890625, 907.427734375),
    "qwen2.5-7b": (16, 3111.5, 388.949462890625, 4197.771484375),
    "llama-3.2-3b": (16, 1344, 168.011962890625, 1538.66796875),
    "llama-3.2-1b": (16, 464, 58.0068359375, 1015.2578125),
    "smollm2-1.7b": (32, 768, 96.01025390625, 432.3828125),
    "tinyllama-1.1b": (32, 462, 57.7593994140625, 534.7265625),
    "smollm2-360m": (32, 150, 18.763671875, 205.238037109375),
}
"""LoRA's rank on q, k, v and o; MiB of packed weights, of their scales, and of the rest in float32 with the
adapters: NF4 models on a T4, from fitcheck-llm 0.3.1's data/measurements (github.com/Anassbzdd/fitcheck)."""


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_sizes(model: str) -> None:
    """Witness: a GPU's allocator, as published."""
    rank, packed, scales, rest = PUBLISHED[model]
    method = {"name": "lora", "r": rank, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    answer = estimate(model=model, dtype="nf4", kbit_preparation=True, method=method).bytes
    assert answer["parameters"] == (packed + rest) * MIB
    assert 0 < answer["buffers"] - scales * MIB <= ROTARY
