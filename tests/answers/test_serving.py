"""Serving: how vLLM divides a GPU. ``engines/test_vllm_cache.py`` asks about blocks and groups of layers."""

from __future__ import annotations

import pytest

from estimator.answers.serving import serving
from estimator.engines.vllm.options import ServingOptions


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_vllm_takes_its_share_of_the_card(share: float) -> None:
    """Witness: the meaning of ``--gpu-memory-utilization``. What weights and work leave of it is the cache."""
    found = serving("llama-3.2-1b", "a100-80gb", [100, 1000], ServingOptions(gpu_memory_utilization=share))
    assert found.bytes["requested"] == int(share * found.bytes["total"])
    parts = (found.bytes[part] for part in ("weights", "activation", "non_torch", "kv_cache"))
    assert sum(parts) == found.bytes["requested"]
    assert found.blocks * found.bytes["block"] <= found.bytes["kv_cache"] < (found.blocks + 1) * found.bytes["block"]
    short, long = found.contexts
    assert [short.blocks, long.blocks] == [7, 63]  # of 16 tokens, the last of which may be empty
    assert (short.requests, long.requests) == (found.blocks / 7, found.blocks / 63)
