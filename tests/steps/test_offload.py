"""Parameters, gradients and states that rest on the host: estimates for a card against PyTorch's own code.

The witness of FSDP2 is a record of its steps on a device without memory (``tests/cases/offloaded_steps.py``). FSDP1's
has none, since it pins memory: its rules are read from its source, and held against arithmetic.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.steps.offloading import block_bytes
from tests.cases.offloaded_steps import CASES, RECORD
from tests.cases.sharding import LAYERS
from tests.cases.small_models import write_config

STEPS = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]
CARD = {"device": "h100-80gb"}


@pytest.mark.share(3)
@pytest.mark.parametrize(("name", "config", "plan"), CASES, ids=[name for name, *_ in CASES])
def test_card_and_host(name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: FSDP2's own code, where single numbers are no operator's results and a mesh has tensors of its ranks."""
    found = estimate({"model": write_config(tmp_path / "model", config), **plan, **CARD}).bytes
    theirs = STEPS[name]
    assert found["resident"] == theirs["card"]
    assert found["peak"] == theirs["card_peak"]
    if "cpu_offload" in plan["sharding"]:
        rests = found["host_parameters"] + found["host_optimizer"]
        assert abs(rests - theirs["cpu"]) <= 64
        peak = rests + found["host_gradients"] + found["host_peak"] - found["host_pinned"] - found["host_optimizer"]
        assert abs(peak - theirs["cpu_peak"]) <= 64


SHAPES = [(100, 96)] * 2 + [(96, 96)] * 2 + [(32, 96)] * 2 + [(128, 96)] * 2 + [(96, 128)] + [(96, 1)] * 3
"""Of the parameters of one layer, embedding, head and norm."""
ONE_LAYER = {"num_hidden_layers": 1, "vocab_size": 100, "intermediate_size": 128}


def test_pinned_blocks_are_powers_of_two(tmp_path: Path) -> None:
    """Witness: arithmetic. Half of 100 rows of 96 float32 numbers takes 32 KiB, and so does its gradient.

    What does not train has no gradient there. What accelerate leaves out, packed weights, stays on the card.
    """
    plan = {"model": write_config(tmp_path / "model", ONE_LAYER), "dtype": "float32", "batch": 1, "seq": 2, **CARD}
    halves = [rows // 2 * columns * 4 for rows, columns in SHAPES]
    of_all = sum(map(block_bytes, halves))
    offload = {"name": "fsdp2", "cpu_offload": True, "world_size": 2}
    full = estimate({**plan, "sharding": offload}).bytes
    assert (full["host_parameters"], full["host_gradients"]) == (sum(halves), sum(halves))
    assert full["host_pinned"] == 2 * of_all
    assert full["parameters"] == full["gradients"] == full["optimizer"] == 0
    lora = {"name": "lora", "r": 8, "target_modules": ["q_proj"]}
    factors = [4 * 96 * 4, 48 * 8 * 4]
    added = estimate({**plan, "method": lora, "sharding": offload}).bytes
    assert added["host_gradients"] == sum(factors)
    assert added["host_pinned"] == of_all + 2 * sum(map(block_bytes, factors))
    nf4 = {"dtype": "nf4", "rest_dtype": "float32", "method": lora}
    packed = estimate({**plan, **nf4, "sharding": {**offload, "groups": "accelerate"}}).bytes
    assert packed["parameters"] == 61440 // 2  # packed weights of the layer
    assert packed["host_parameters"] == sum(halves[:2]) + sum(halves[-3:]) + sum(factors)


def test_processes_of_a_host(tmp_path: Path) -> None:
    """Witness: arithmetic. A host has eight processes, or as many as the run says, and no more than there are."""
    plan = {"model": write_config(tmp_path / "model", ONE_LAYER), "dtype": "float32", "batch": 1, "seq": 2, **CARD}
    for world, run, there in ((2, None, 2), (100, None, 8), (100, {"processes_per_host": 3}, 3)):
        sharding = {"name": "fsdp2", "cpu_offload": True, "world_size": world}
        found = estimate({**plan, "sharding": sharding, **({"run": run} if run else {})})
        assert found.bytes["host_all"] == there * found.bytes["host_peak"]
        assert any(f"of {there} processes; each pinned block is a power of two" in one for one in found.warnings)
        moments = [one.bytes for one in found.run_moments if (one.moment, one.where) == ("step", "host")]
        assert moments == ([found.bytes["host_all"]] if run else [])


FSDP1 = {"name": "fsdp1", "cpu_offload": True, "world_size": 3}
LAYER, ROOT = 24768, 6432
"""Elements that one of three ranks has of a layer's flat parameter, and of the rest's, aligned and padded."""


def test_flat_parameters_rest_on_the_host(tmp_path: Path) -> None:
    """Witness: arithmetic, by ``_flat_param.py``. A shard is pinned, and so is a gradient of its size.

    A gathered unit has a copy of its shard beside it. The gradients of all units are on the card until backward ends.
    Before backward a unit is found with gradients, which it copies; then the unit before it is.
    """
    plan = {"model": write_config(tmp_path / "model", LAYERS), "dtype": "float32", "batch": 1, "seq": 2, **CARD}
    alone = estimate({**plan, "sharding": {"name": "fsdp1", "world_size": 3}})
    found = estimate({**plan, "sharding": FSDP1})
    shards = [ROOT * 4, *[LAYER * 4] * 7]
    sizes = found.bytes
    assert sizes["parameters"] == sizes["gradients"] == sizes["optimizer"] == 0
    assert sizes["host_parameters"] == sizes["host_gradients"] == sum(shards)
    assert sizes["host_pinned"] == 2 * sum(map(block_bytes, shards))
    assert sizes["host_peak"] == sizes["host_pinned"] + sizes["host_optimizer"] + 2 * LAYER * 4
    assert found.moments["inputs forward"] == alone.moments["inputs forward"] + ROOT * 4
    assert found.moments["first block backward"] == alone.moments["first block backward"]
    before, after = ({one.name: one.allocated for one in result.phases} for result in (alone, found))
    assert before["optimizer step"] - after["optimizer step"] >= 4 * sum(shards)  # no gradients are left there, either
    kept = estimate({**plan, "sharding": {**FSDP1, "reshard_after_forward": False}}).bytes
    assert kept["host_peak"] < sizes["host_peak"]  # what is not freed after forward is not found with gradients


def test_a_frozen_flat_parameter_has_a_gradient_on_the_host(tmp_path: Path) -> None:
    """Witness: arithmetic. ``_cpu_grad`` is as large as the shard, whether or not it trains (``qlora`` by FSDP1)."""
    plan = {"model": write_config(tmp_path / "model", LAYERS), "batch": 1, "seq": 2, **CARD}
    qlora = {"dtype": "nf4", "rest_dtype": "bfloat16", "quant_storage": "bfloat16", "method": "lora"}
    found = estimate({**plan, **qlora, "sharding": {**FSDP1, "groups": "transformers"}}).bytes
    assert found["parameters"] == 0
    assert found["host_gradients"] == found["host_parameters"] > 2 * found["host_optimizer"]
    narrow = {"name": "fsdp1", "cpu_offload": True, "param_dtype": "bfloat16", "reduce_dtype": "float32"}
    one = estimate({**plan, "dtype": "float32", "sharding": {**narrow, "world_size": 1}})
    alone = estimate({**plan, "dtype": "float32", "sharding": {**narrow, "world_size": 1, "cpu_offload": False}})
    whole = 3 * ROOT  # of the rest, cast from a copy in float32
    assert one.moments["inputs forward"] >= whole * 6 > alone.moments["inputs forward"]


TUNED = {"dtype": "bfloat16", "batch": 1, "seq": 2, **CARD}
BUCKETS = {"reduce_bucket_size": 1000, "world_size": 2, "offload_optimizer": "cpu"}
LARGEST = 128 * 96
"""Elements of the largest parameter."""


@pytest.mark.parametrize("accumulates", [1, 2])
def test_states_of_zero_2_rest_on_the_host(accumulates: int, tmp_path: Path) -> None:
    """Witness: arithmetic, by ``stage_1_and_2.py``. Pinned are float32 copies, their gradients, parameters in 16 bits
    and a buffer for the largest parameter, of which the card has one, too; with accumulation whole gradients.
    """
    plan = {"model": write_config(tmp_path / "model", ONE_LAYER), **TUNED, "gradient_accumulation_steps": accumulates}
    part = sum(rows * columns for rows, columns in SHAPES) // 2
    found = estimate({**plan, "sharding": {"name": "zero2", **BUCKETS}}).bytes
    assert found["optimizer"] == found["gradients"] == 0
    assert found["communication"] == LARGEST * 2
    assert (found["host_gradients"], found["host_optimizer"]) == (part * 4, part * 12)
    pinned = [part * 4, part * 4, part * 2, LARGEST * 2]
    added = found["host_pinned"] - sum(map(block_bytes, pinned))
    assert (added > 0) is (accumulates > 1)
    assert found["host_peak"] == found["host_pinned"] + part * 8


def test_parameters_of_zero_3_rest_on_the_host(tmp_path: Path) -> None:
    """Witness: arithmetic, by ``stage3.py``. The bucket stays on the card, and so do whole parameters; what is gathered
    has the rank's own part beside it. float32 copies are not pinned. Each part is pinned by itself first
    (``partition_parameters.py``), and its block stays in PyTorch's cache when the flat tensor has it.
    """
    plan = {"model": write_config(tmp_path / "model", ONE_LAYER), **TUNED}
    part = sum(rows * columns for rows, columns in SHAPES) // 2
    sharding = {"name": "zero3", **BUCKETS, "stage3_param_persistence_threshold": 100}
    states = estimate({**plan, "sharding": sharding}).bytes
    found = estimate({**plan, "sharding": {**sharding, "offload_param": "cpu"}}).bytes
    assert states["parameters"] == (part + 3 * 96) * 2
    assert states["communication"] == 1000 * 2
    assert states["host_pinned"] == block_bytes(part * 2) + block_bytes(part * 4)
    assert (states["host_gradients"], states["host_optimizer"]) == (part * 4, part * 12)
    assert states["host_peak"] == states["host_pinned"] + part * (12 + 2)
    assert (found["parameters"], found["host_parameters"]) == (0, part * 2)
    assert found["communication"] == (1000 + 3 * 96) * 2
    assert found["host_pinned"] == states["host_pinned"] + block_bytes(part * 2) + sum(
        block_bytes(rows * columns // 2 * 2) for rows, columns in SHAPES
    )
    assert found["host_peak"] == found["host_pinned"] + part * 12
    alone = {**sharding, "world_size": 1, "offload_param": "cpu"}
    assert estimate({**plan, "sharding": alone}).bytes["parameters"] == 0


def test_a_cached_block_of_a_part_holds_the_gradients(tmp_path: Path) -> None:
    """Witness: arithmetic, by ``CachingHostAllocator.h``. Where one parameter is most of a model, its part's block is
    of the size that the gradients in 16 bits ask for.
    """
    config = {**ONE_LAYER, "vocab_size": 4096, "tie_word_embeddings": True}
    sharding = {"name": "zero3", **BUCKETS, "offload_param": "cpu"}
    plan = {**TUNED, "model": write_config(tmp_path / "model", config), "sharding": sharding}
    found = estimate(plan).bytes
    parts = [4096 * 96, *(rows * columns for rows, columns in SHAPES if (rows, columns) != (100, 96))]
    part = sum(parts) // 2
    assert block_bytes(parts[0]) == block_bytes(part * 2) == 2**19
    assert found["host_pinned"] == sum(map(block_bytes, parts)) + block_bytes(part * 2) + block_bytes(part * 4)


def test_gradients_that_are_added_to_on_the_host_arrive_there_first(tmp_path: Path) -> None:
    """Witness: arithmetic. SGD makes nothing, so the largest gradient that arrives is all that is not pinned."""
    plan = {"model": write_config(tmp_path / "model", ONE_LAYER), "dtype": "float32", "batch": 1, "seq": 2, **CARD}
    block = {"name": "fsdp2", "cpu_offload": True, "world_size": 2, "sync_each_batch": True}
    once = estimate({**plan, "optimizer": "sgd", "sharding": block}).bytes
    twice = estimate({**plan, "optimizer": "sgd", "sharding": block, "gradient_accumulation_steps": 2}).bytes
    assert once["host_peak"] == once["host_pinned"]
    assert twice["host_peak"] == twice["host_pinned"] + LARGEST // 2 * 4
