"""vLLM in the process of a trainer. Its bytes are those of the engine ``vllm``, whose tests hold them against logs.

What TRL gives it, and when it sleeps, is TRL 1.16's own source (``trl/generation/vllm_generation.py``). No process of
this kind was measured, so these tests say that the parts agree.
"""

from __future__ import annotations

from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.sentences import verdict

pytestmark = pytest.mark.consistency

KEYS: dict[str, Any] = {
    "model": "llama-3.2-1b",
    "trainer": "trl-rloo",
    "method": "lora",
    "batch": 4,
    "seq": 256,
    "device": "rtx-4090",
}
VLLM: dict[str, Any] = {"use_vllm": True, "vllm_max_model_length": 4096}


def test_its_share_is_that_of_the_engine() -> None:
    options = {"gpu_memory_utilization": 0.3, "max_num_batched_tokens": 4096, "max_num_seqs": 4, "max_model_len": 4096}
    alone = estimate(model=KEYS["model"], runtime="vllm", seq=4096, device="rtx-4090", vllm=options).bytes
    found = estimate(KEYS, **VLLM)
    assert found.bytes["vllm"] == alone["requested"]
    fixed = sum(alone[part] for part in ("weights", "activation", "non_torch", "cudagraph"))
    blocks = found.bytes["vllm_needed"] - fixed - alone["kv_cache"]
    assert 0 < blocks == alone["kv_cache"] // 256  # the null block, of 16 tokens
    assert found.limits["vllm_needed"] == alone["requested"]


def test_where_the_process_is_largest() -> None:
    """Awake, vLLM keeps all but what steps take from PyTorch's allocator. Asleep, it takes its share to generate."""
    server, awake, asleep = (
        estimate(KEYS, **more).bytes
        for more in ({"use_vllm": True, "vllm_mode": "server"}, VLLM, {**VLLM, "vllm_enable_sleep_mode": True})
    )
    assert server["reserved_peak"] == awake["reserved_peak"] == asleep["reserved_peak"]
    assert "vllm" not in server
    assert server["process"] < asleep["process"] < awake["process"] < server["process"] + awake["vllm"]
    for more, says in (({}, "vLLM generates"), ({"batch": 8, "seq": 4096}, "the trainer's step")):
        result = estimate(KEYS, **{**VLLM, "vllm_enable_sleep_mode": True, **more})
        assert any(says in warning for warning in result.warnings)


def test_what_is_there_while_it_sleeps() -> None:
    """What its graphs and libraries hold stays; weights and cache are given back."""
    large = {**KEYS, "batch": 8, "seq": 4096}
    step = estimate(large, use_vllm=True, vllm_mode="server").bytes["process"]
    share = {"gpu_memory_utilization": 0.3, "max_num_batched_tokens": 4096, "max_num_seqs": 8, "max_model_len": 4096}
    alone = estimate(model=KEYS["model"], runtime="vllm", seq=4096, device="rtx-4090", vllm=share).bytes
    asleep = estimate(large, **VLLM, vllm_enable_sleep_mode=True).bytes["process"]
    assert asleep - step == alone["non_torch"] + alone["cudagraph"] > alone["non_torch"]


def test_a_share_without_room_for_a_request_does_not_fit() -> None:
    """In vLLM's words, with what to give in place."""
    result = estimate(KEYS, use_vllm=True, vllm_gpu_memory_utilization=0.2)
    assert result.fits is False
    says = verdict(result)
    assert says.startswith("Does not fit in")
    assert "of vllm's share of the card: " in says
    assert " for the process " in says
    assert says.endswith(" are left.")
    assert any("max seq len (131072)" in one and "vllm_max_model_length: 256" in one for one in result.warnings)
    assert estimate(KEYS, use_vllm=True, vllm_gpu_memory_utilization=0.2, vllm_max_model_length=256).fits


def test_a_model_in_four_bits_is_packed_in_both() -> None:
    wide, packed = (estimate(KEYS, **VLLM, dtype=dtype).bytes["vllm_needed"] for dtype in ("bfloat16", "nf4"))
    assert packed < wide
