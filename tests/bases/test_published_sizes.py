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


def test_nothing_packed_is_trained() -> None:
    """Witness: PEFT's ``print_trainable_parameters`` for r=16 on q, k, v and o; AdamW has two states of each."""
    method = {"name": "lora", "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    for dtype in ("nf4", "int8", "gptq"):
        result = estimate(model="llama-3.2-1b", dtype=dtype, method=method)
        assert result.trainable_parameters == 3_407_872
        assert result.bytes["gradients"] == 4 * 3_407_872


def test_a_published_file_of_packed_weights() -> None:
    """Witness: TheBloke/Llama-2-7B-AWQ (4 bits, groups of 128), 3.89 GB. GPTQ's layers have two tensors more, by hand:
    the group of each input, and eight shifts, in int32."""
    keys = {"model": "llama-2-7b", "rest_dtype": "float16", "method": "lora"}
    awq, gptq = (estimate(**keys, dtype=dtype).bytes for dtype in ("awq", "gptq"))
    adapters = awq["gradients"]
    assert (awq["parameters"] - adapters + awq["buffers"]) / 1e9 == pytest.approx(3.89, abs=0.005)
    assert gptq["parameters"] == awq["parameters"]
    assert gptq["buffers"] - awq["buffers"] == 32 * 4 * (6 * 4096 + 11008 + 7 * 8)
