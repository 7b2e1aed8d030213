"""Serving: how vLLM divides a GPU. ``engines/test_vllm_cache.py`` asks about blocks and groups of layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.serving import serving, smallest_cluster
from estimator.engines.vllm.command_line import GRAMMAR
from estimator.engines.vllm.serving_options import ServingOptions
from estimator.errors import InputError
from estimator.show.cli import main


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_vllm_takes_its_share_of_the_card(share: float) -> None:
    """Witness: the meaning of ``--gpu-memory-utilization``. What weights and work leave of it is the cache."""
    found = serving("llama-3.2-1b", "a100-80gb", [100, 1000], ServingOptions(gpu_memory_utilization=share))
    assert found.bytes["requested"] == int(share * found.bytes["total"])
    parts = (found.bytes[part] for part in ("weights", "activation", "non_torch", "cudagraph", "kv_cache"))
    assert sum(parts) == found.bytes["requested"]
    assert found.blocks * found.bytes["block"] <= found.bytes["kv_cache"] < (found.blocks + 1) * found.bytes["block"]
    short, long = found.contexts
    assert [short.blocks, long.blocks] == [7, 63]  # of 16 tokens, the last of which may be empty
    assert (short.requests, long.requests) == (found.blocks / 7, found.blocks / 63)


def test_a_request_of_one_block() -> None:
    found = serving("llama-3.2-1b", "a100-80gb", [1], ServingOptions())
    (least,) = found.contexts
    assert (least.blocks, least.requests) == (1, found.blocks)


def test_inverse_questions() -> None:
    """The answer starts, and the next one does not."""

    def starts(**options: Any) -> bool:
        options = {"max_model_len": 30000, **options}
        return serving("qwen3-32b", "h100-80gb", [1], ServingOptions(**options), False).refusal is None

    found = serving("qwen3-32b", "h100-80gb", [1], ServingOptions(max_model_len=30000))
    assert found.longest is not None
    assert found.least_share is not None
    assert starts(max_model_len=found.longest)
    assert not starts(max_model_len=found.longest + 16)
    assert starts(gpu_memory_utilization=found.least_share)
    assert not starts(gpu_memory_utilization=round(found.least_share - 0.01, 2))
    assert found.most_requests == int(found.max_concurrency) == 1


def test_the_smallest_cluster() -> None:
    """One card fewer does not do, as the layouts are tried."""
    options = ServingOptions(max_model_len=8192)
    found = {one.device: one for one in smallest_cluster("qwen3-32b", ["rtx-4090", "h100-80gb"], options)}
    assert [one.cards for one in found.values()] == sorted(one.cards for one in found.values())
    assert (found["h100-80gb"].cards, found["rtx-4090"].cards) == (1, 4)
    half = options.model_copy(update={"tensor_parallel_size": 2})
    assert serving("qwen3-32b", "rtx-4090", [1], half, False).refusal is not None
    for given in ({"pipeline_parallel_size": 2}, {"tensor_parallel_size": 2}):  # what is given stays as it is
        (layout,) = smallest_cluster("qwen3-32b", ["h100-80gb"], ServingOptions(max_model_len=8192, **given))
        assert vars(layout) == vars(layout) | given | {"cards": 2}
    with pytest.raises(InputError, match="runs no CUDA"):
        smallest_cluster("qwen3-32b", ["iphone-15"], options)


def test_a_figure(tmp_path: Path) -> None:
    """A curve of requests against their length."""
    pytest.importorskip("matplotlib")
    target = tmp_path / "served.svg"
    assert main(["serving", "llama-3.2-1b", "--device", "l40s", "--output", str(target), "--quiet"]) == 0
    assert "requests at once" in target.read_text(encoding="utf-8")


def test_a_plan_of_a_server(tmp_path: Path) -> None:
    """Consistency: a plan's figures are those of ``serving``; the batch's cache decides."""
    plan = {"model": "qwen3-32b", "task": "serve", "device": "h100-80gb", "seq": 8192, "vllm": {"max_num_seqs": 64}}
    one = serving("qwen3-32b", "h100-80gb", [8192], ServingOptions(max_model_len=8192, max_num_seqs=64), False)
    found = estimate({**plan, "batch": 4})
    assert (found.bytes["weights"], found.bytes["available"]) == (one.bytes["weights"], one.bytes["kv_cache"])
    assert found.bytes["kv_cache"] == 4 * one.contexts[0].blocks * one.bytes["block"]
    assert found.to_dict()["kv_tokens"] == one.kv_tokens
    most = int(one.max_concurrency)
    assert [estimate({**plan, "batch": batch}).fits for batch in (most, most + 1)] == [True, False]
    file = tmp_path / "plans.jsonl"
    file.write_text(json.dumps(plan) + "\n" + json.dumps({**plan, "vllm": {"tensor_parallel_size": 3}}))
    assert main(["estimate", "--plans", str(file), "--json"]) == 0


@pytest.mark.share(3)
def test_each_mend_lets_it_start() -> None:
    """What an error suggests is asked again."""
    options = ServingOptions(max_model_len=40960)
    stopped = serving("qwen3-32b", "h100-80gb", [8192], options)
    assert stopped.refusal is not None
    assert stopped.mends
    for mend in stopped.mends:
        given = GRAMMAR.parse(f"vllm serve qwen3-32b --max-model-len 40960 {mend}").options
        assert serving("qwen3-32b", "h100-80gb", [8192], ServingOptions(**given)).refusal is None, mend
    longest = int(stopped.mends[0].split()[1])
    assert f"estimated maximum model length is {longest}." in stopped.refusal
    one_more = serving("qwen3-32b", "h100-80gb", [8192], ServingOptions(max_model_len=longest + 16))
    assert one_more.refusal is not None
