"""The machine's RAM in the verdict: what is offloaded, loaded or served from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.advice import advise
from estimator.answers.estimate import estimate
from estimator.answers.inverse import solve
from estimator.engines.llama_cpp.command_line import keys_of
from estimator.engines.torch_cpu.engine import LIBRARIES_BYTES
from estimator.engines.vllm.command_line import GRAMMAR
from estimator.errors import InputError
from estimator.plans.margins import NO_MARGIN
from estimator.show.cli import main
from tests.cases.small_models import write_config

GIB = 2**30
LLAMA_33B = {
    "hidden_size": 6656,
    "intermediate_size": 17920,
    "num_hidden_layers": 60,
    "num_attention_heads": 52,
    "num_key_value_heads": 52,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
OFFLOADED = {"name": "zero3", "offload_optimizer": "cpu", "offload_param": "cpu"}
SMALL: dict[str, Any] = {"model": "smollm2-135m", "seq": 64, "device": "rtx-4090"}


def host_of(world: int, tmp_path: Path, host_memory: str) -> Any:
    """LLaMA 33B with all that DeepSpeed can offload."""
    step = {"seq": 2048, "checkpointing": "layer", "dtype": "bfloat16", "device": "h100-80gb"}
    sharding = {**OFFLOADED, "world_size": world}
    return estimate(
        {"model": write_config(tmp_path / "m", LLAMA_33B), **step, "sharding": sharding, "host_memory": host_memory}
    )


def test_what_a_host_of_eight_cards_takes(tmp_path: Path) -> None:
    """Witness: issue 3448 of DeepSpeed, where LLaMA 33B on eight A100 ran out of 600 GB and took 750 to 800 GB."""
    found = host_of(8, tmp_path, "600GB")
    assert 750e9 < found.bytes["host"] < 800e9
    assert found.bytes["host"] == found.bytes["host_all"] + 8 * LIBRARIES_BYTES
    assert (found.fits, found.against, found.verdict) == (False, "host", "does not fit")
    assert found.warnings[-1].startswith("the host runs out first: ")
    assert found.limits == {"process": found.limits["process"], "host": 600 * 10**9}


def test_one_card_whose_host_was_too_small() -> None:
    """Witness: issue 6755 of LLaMA-Factory. A model of 32 billion parameters on one H100 was killed with 744 GB."""
    step = {"model": "qwen2.5-32b", "seq": 1024, "checkpointing": "layer", "dtype": "bfloat16", "device": "h100-80gb"}
    found = estimate({**step, "sharding": {**OFFLOADED, "world_size": 1}, "host_memory": "744GB"})
    assert found.fits is False
    assert found.bytes["process"] < found.limits["process"]


@pytest.mark.parametrize(("host_memory", "fits"), [("1GB", False), ("64GiB", True)])
def test_the_exit_status_names_the_host(host_memory: str, fits: bool, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["smollm2-135m", "--seq", "64", "--device", "rtx-4090", "--sharding", "fsdp2", "--world-size", "2"]
    status = main(["estimate", *words, "--cpu-offload", "--host-memory", host_memory])
    said = " ".join(capsys.readouterr().out.split())
    assert status == (0 if fits else 1)
    assert ("Does not fit in" in said and "of the host's memory" in said) is not fits
    assert ("the host runs out first" in said) is not fits
    assert ("of the host's memory" in said) or fits


def test_it_is_no_part_where_nothing_is_there() -> None:
    assert "host" not in estimate({**SMALL, "host_memory": "1MiB"}).bytes
    assert estimate({**SMALL, "host_memory": "1MiB"}).fits is True


def test_every_rank_loads() -> None:
    """Witness: arithmetic. Weights that are cast are held by each process that reads them."""
    run = {"checkpoint_dtype": "bfloat16"}
    plan = {**SMALL, "dtype": "float32", "sharding": {"name": "fsdp2", "world_size": 4}, "run": run}
    found = estimate({**plan, "host_memory": "2GiB"})
    weights = 4 * found.total_parameters
    assert found.bytes["host_loading"] == 4 * weights
    assert found.bytes["host"] == 4 * (weights + LIBRARIES_BYTES)
    assert found.fits is False
    assert estimate({**plan, "host_memory": "8GiB"}).fits is True
    one = {**plan, "run": {**run, "cpu_ram_efficient_loading": True}, "host_memory": "8GiB"}
    assert estimate(one).bytes["host_loading"] == weights


def test_a_run_s_largest_moment_and_the_host() -> None:
    sharding = {"name": "fsdp2", "world_size": 2, "cpu_offload": True}
    plan = {**SMALL, "sharding": sharding, "run": {}}
    alone, tight = estimate(plan), estimate({**plan, "host_memory": "1GiB"})
    assert (alone.against, alone.fits) == ("run", True)
    assert (tight.against, tight.fits, tight.limits) == ("host", False, {"run": alone.budget_bytes, "host": GIB})
    assert estimate({**plan, "host_memory": "64GiB"}).against == "run"


def test_without_a_device_it_is_the_only_limit() -> None:
    plan = {"model": "smollm2-135m", "seq": 64, "runtime": "torch-cuda", "saved_activations": "on-host"}
    assert estimate(plan).fits is None
    assert estimate({**plan, "host_memory": "1MiB"}).fits is False
    assert estimate({**plan, "host_memory": "64GiB"}).fits is True


@pytest.mark.share(4)
def test_the_largest_batch_is_the_host_s() -> None:
    """Saved activations in the host's memory limit the batch before the card does."""
    plan = {**SMALL, "seq": 1024, "saved_activations": "on-host"}
    found = solve("max-batch", {**plan, "host_memory": "32GiB"}, margin=NO_MARGIN)
    assert found.answer is not None
    assert found.next_value is not None
    assert estimate({**plan, "batch": found.answer, "host_memory": "32GiB"}).fits is True
    after = estimate({**plan, "batch": found.next_value, "host_memory": "32GiB"})
    assert (after.fits, after.against) == (False, "host")
    assert estimate({**plan, "batch": found.next_value}).fits is True


@pytest.mark.share(6)
def test_advice_leaves_what_the_host_has_no_room_for(tmp_path: Path) -> None:
    plan = {"model": write_config(tmp_path / "m", {}), "seq": 64, "device": "rtx-3060"}
    rests = {"sharding": {"name": "fsdp2", "world_size": 2, "cpu_offload": True}}
    (room,), (short,) = (advise({**plan, **rests, "host_memory": ram}) for ram in ("64GiB", "700MiB"))
    assert room.base.fits(room.limit)
    assert not short.base.fits(short.limit)
    assert short.base.result.against == "host"


def test_llama_server_keeps_prompts() -> None:
    """Witness: ``--cache-ram`` of ``common/common.h``: 8,192 MiB where nothing is given."""
    plan = {"model": "llama-3.2-1b", "dtype": "Q4_K_M", "runtime": "llama.cpp", "device": "rtx-4090"}
    kept = {ram: estimate({**plan, "host_memory": "9GiB", "llama_cpp": {"cache_ram": ram}}) for ram in (8192, 0, -1)}
    assert kept[8192].bytes["host"] - kept[0].bytes["host"] == 8 * GIB
    assert kept[-1].bytes["host"] == kept[8192].bytes["host"]
    assert estimate({**plan, "host_memory": "8GiB"}).fits is False
    assert estimate({**plan, "host_memory": "8GiB", "llama_cpp": {"cache_ram": 0}}).fits is True
    assert keys_of("llama-server -m a.gguf -c 4096 -cram 0")["llama_cpp"]["cache_ram"] == 0


@pytest.mark.parametrize(("runtime", "ranks"), [("vllm", "tensor_parallel_size"), ("sglang", "tp_size")])
def test_servers_offload_weights_of_each_rank(runtime: str, ranks: str) -> None:
    """Witness: arithmetic, by the options' own words: GiB of each rank."""
    plan = {"model": "llama-3.1-8b", "runtime": runtime, "seq": 4096, "device": "h100-80gb"}
    block = {runtime: {ranks: 2, "cpu_offload_gb": 4}}
    found = estimate({**plan, **block, "host_memory": "7GiB"})
    assert found.bytes["host_weights"] == found.bytes["host"] == 8 * GIB
    assert (found.verdict, found.against, found.margin_bytes) == ("does not fit", "host", -GIB)
    assert estimate({**plan, **block, "host_memory": "9GiB"}).fits is True


def test_swap_space_of_each_rank() -> None:
    """Witness: vLLM before 0.8, whose `CacheEngine` pins it for each rank. Later engines keep none (issue 27984)."""
    plan = {"model": "llama-3.1-8b", "runtime": "vllm", "device": "h100-80gb", "host_memory": "7GiB"}
    block = {"tensor_parallel_size": 2, "swap_space": 4, "max_num_batched_tokens": 2048}
    old, new = (estimate({**plan, "vllm": {**block, "release": release}}) for release in ("0.11", "0.33"))
    assert (old.bytes["host_swap"], old.verdict, old.unknown) == (8 * GIB, "does not fit", ())
    assert "host_swap" not in new.bytes
    assert new.verdict == "fits"
    unsure = estimate({**plan, "vllm": {**block, "release": "0.11", "max_num_batched_tokens": None}})
    assert (unsure.verdict, unsure.unknown) == ("does not fit", ())  # what is not known is the GPU's alone
    assert GRAMMAR.parse("vllm serve gpt2 --swap-space 4").options == {"swap_space": 4.0}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model": "smollm2-135m", "host_memory": "64GiB"}, "give a budget in its place"),
        ({"model": "smollm2-135m", "runtime": "mlx", "host_memory": "64GiB"}, "give a budget in its place"),
        ({**SMALL, "host_memory": "64"}, "size '64' is not a number with a unit"),
        ({**SMALL, "host_memory": "-1GiB"}, "is not positive"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        estimate(keys)


def test_loading_without_a_rule_is_not_sure() -> None:
    """Asks the contract: experts of other families than the known ones are loaded in a way without a rule."""
    plan = {**SMALL, "model": "qwen3-30b-a3b", "dtype": "nf4", "method": "lora", "host_memory": "64GiB"}
    fitting, too_large = (estimate({**plan, "device": device}) for device in ("b200", "rtx-4090"))
    assert (fitting.verdict, fitting.unknown) == ("not sure", ("the host's memory while it loads",))
    assert (too_large.verdict, too_large.unknown) == ("does not fit", ())
