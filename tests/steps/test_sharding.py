"""What acts around a step whose model several processes share, held against PyTorch's own functions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.bulk import FormulaCache
from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import CPU, Cuda
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs import Blocks
from estimator.steps.sharding.ddp import Ddp, bucket_assignment
from estimator.steps.sharding.scope import Parts
from tests.cases.sharding import ACCELERATE, CALLS, INFERENCES, LAYERS, MANY, MIXED, TIED, TINY
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import EXACT, assert_call, assert_pass


@pytest.mark.extra("trace")
def test_buckets_are_those_of_torch() -> None:
    """Witness: ``torch.distributed._compute_bucket_assignment_by_size``, over sizes at and beside the limits."""
    import torch
    from torch.distributed import _compute_bucket_assignment_by_size as assigned

    chosen = random.Random(5)
    for _ in range(200):
        limits = chosen.choice(([1000], [400, 1000], [2000, 400]))
        numels = [chosen.choice((1, 50, 99, 100, 101, 250, 251, 600)) for _ in range(chosen.randrange(1, 30))]
        tensors = [torch.empty(n, dtype=chosen.choice((torch.float32, torch.bfloat16))) for n in numels]
        sizes = [(str(tensor.dtype), tensor.nbytes) for tensor in tensors]
        assert bucket_assignment(sizes, limits) == assigned(tensors, limits)[0]
        found = assigned(tensors, limits, [False] * len(tensors), list(range(len(tensors))))[0]
        full = [own for own in found if own not in bucket_assignment(sizes, limits, arrived=True)[-2:]]
        assert bucket_assignment(sizes, limits, arrived=True)[: len(full)] == full
        assert sorted(bucket_assignment(sizes, limits, arrived=True)) == sorted(found)


WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
DEEP = {**WIDE, "num_hidden_layers": 7, "vocab_size": 500}


@pytest.mark.extra("trace")
@pytest.mark.parametrize(
    ("config", "plan"),
    [
        (DEEP, {"dtype": "float32"}),
        ({**DEEP, "model_type": "qwen3", "tie_word_embeddings": True}, {"dtype": "bfloat16", "checkpointing": "layer"}),
    ],
)
def test_buckets_of_a_replay_are_those_of_ddp(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the buckets of a real ``DistributedDataParallel`` after three steps, in the order of gradients."""
    from estimator.engines.torch_cuda.process import log_step
    from estimator.witnesses.measure import _step
    from estimator.witnesses.reference.model import build_model
    from estimator.witnesses.reference.sharding import shard

    sharding = {"name": "ddp", "world_size": 2, "bucket_cap_mb": 1}
    keys = {"model": write_config(tmp_path / "model", config), "batch": 1, "seq": 8, **plan, "sharding": sharding}
    resolved = resolve(parse_plan(keys))
    model = shard(build_model(resolved), resolved)
    step = _step(resolved, model)
    for _ in range(3):
        step.run()
    buckets = [bucket.buffer().nbytes for bucket in model.reducer._get_zeros_like_grad_buckets()]
    found = log_step(resolve(parse_plan({**keys, "device": "rtx-4090"})), 1, 8).sharding
    assert found.later == buckets
    assert found.first == [sum(buckets)]
    assert len(buckets) > 4


@pytest.mark.parametrize(
    ("world", "keys", "options", "passes"),
    [
        (1, {}, {}, 1),
        (4, {}, {}, 1),
        (6, {"gradient_accumulation_steps": 2}, {}, 1),
        (6, {"gradient_accumulation_steps": 2}, {"sync_each_batch": True}, 2),
    ],
)
def test_what_a_rank_sends(
    world: int, keys: dict[str, Any], options: dict[str, Any], passes: int, tmp_path: Path
) -> None:
    """Each pass that reduces sends the buffers, and each gradient twice to all but one of the ranks (a ring)."""
    sharding = {"name": "ddp", "world_size": world, **options}
    plan = {"model": write_config(tmp_path / "model", {}), "dtype": "float32", "seq": 8, **keys, "sharding": sharding}
    found = estimate(parse_plan(plan))
    sent = 2 * found.bytes["gradients"] * (world - 1) // world + (found.bytes["buffers"] if world > 1 else 0)
    assert found.communicated == passes * sent
    assert found.bytes["communication"] == found.bytes["gradients"]


@pytest.mark.share(4)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("config", "plan"), [row[1:] for row in INFERENCES], ids=[row[0] for row in INFERENCES])
def test_inference(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement, of a forward pass that finds what the one before has left gathered."""
    assert_pass(config, plan, tmp_path)


@pytest.mark.share(4)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(("config", "plan"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_generate(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement, of the second call."""
    assert_call(config, plan, tmp_path)


@pytest.mark.parametrize("name", ["fsdp2", "fsdp1"])
def test_the_first_inference_gathers_more(name: str, tmp_path: Path) -> None:
    """By hand: the root, 3,000 rows twice and a norm, is kept, and sent in the first pass alone.

    On a GPU the log has both passes, so its peak is the first one's, where the root is gathered beside its copies.
    """
    model = write_config(tmp_path / "model", {"vocab_size": 3000, "num_hidden_layers": 7})
    keys = {"model": model, "task": "infer", "batch": 1, "seq": 2, "dtype": "float32"}
    keys |= {"sharding": {"name": name, "world_size": 3}}
    plan = parse_plan(keys)
    found, width = estimate(plan), 96
    root, layers = 4 * width * (2 * 3000 + 1), 3 * found.bytes["parameters"]
    assert 0 <= found.bytes["communication"] - root < 64
    assert 0 <= found.communicated - 2 * (layers - found.bytes["communication"]) // 3 < 64 * width
    on_gpu = estimate(parse_plan({**keys, "device": "rtx-4090"}))
    assert (
        on_gpu.bytes["allocated_peak"] > found.bytes["communication"] + found.bytes["peak_above_resident"] + root // 2
    )


@pytest.mark.share(9)
@pytest.mark.extra("trace")
@pytest.mark.parametrize(
    ("config", "keys", "sharding", "ranks"),
    [
        ({}, TINY, {"name": "fsdp2", "world_size": 7}, ["0-5", "6"]),
        ({}, {**TINY, "dtype": "bfloat16"}, {"name": "fsdp2", "world_size": 160}, ["0-31", "32-85", "86-95", "96-99"]),
        ({}, TINY, {"name": "hsdp", "world_size": 10, "replicate": 2, "cpu_offload": True}, ["0-3, 5-8", "4, 9"]),
        (TIED, {**MANY, "gradient_clipping": True}, {"name": "fsdp2", "world_size": 7, **ACCELERATE, **MIXED}, ["0-5"]),
        ({}, {**MANY, "method": "lora"}, {"name": "fsdp2", "world_size": 5}, ["0-3", "4"]),
        ({}, TINY, {"name": "fsdp1", "world_size": 3}, ["0", "1", "2"]),
        ({}, {**MANY, "method": "lora"}, {"name": "fsdp1", "world_size": 6, "replicate": 2}, ["0, 3", "1-2, 4-5"]),
    ],
    ids=str,
)
def test_ranks_that_differ(
    config: dict[str, Any], keys: dict[str, Any], sharding: dict[str, Any], ranks: list[str], tmp_path: Path
) -> None:
    """Witness: measurement, of a step that the first and the last of equal ranks run."""
    from estimator.witnesses.measure import run_step

    model = write_config(tmp_path / "model", {**LAYERS, **config})
    plan = parse_plan({"model": model, **keys, "sharding": sharding})
    found = estimate(plan)
    assert [one["ranks"] for one in found.ranks][: len(ranks)] == ranks
    assert found.to_dict()["ranks"] == FormulaCache().estimate(plan).to_dict()["ranks"]
    main = max(found.ranks, key=lambda one: one["bytes"]["process"])
    assert dict(found.bytes) == main["bytes"]
    for one in found.ranks:
        numbers = one["ranks"].replace("-", ", ").split(", ")
        for rank in {int(numbers[0]), int(numbers[-1])}:
            measured = run_step(resolve(plan), rank=rank)
            witness = {key: measured[key] for key in EXACT}
            peak = measured["peak_without_matmul_scratch"]
            assert_figures(one["bytes"], {**witness, "peak_above_resident": peak}, {"peak_above_resident": 64})


@pytest.mark.parametrize(
    ("keys", "sharding"),
    [
        ({}, {"name": "fsdp2", "world_size": 2}),  # rows that divide
        ({}, {"name": "ddp", "world_size": 7}),
        ({}, {"name": "fsdp2", "world_size": 14, "tp": 2}),
        ({"method": "ln_tuning"}, {"name": "fsdp2", "world_size": 3}),  # the frozen embedding alone does not divide
        ({"device": "rtx-4090"}, {"name": "fsdp2", "world_size": 7}),
    ],
    ids=str,
)
def test_ranks_that_are_not_told_apart(keys: dict[str, Any], sharding: dict[str, Any], tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {"vocab_size": 800})
    assert (
        "ranks" not in estimate({"model": model, "dtype": "float32", "seq": 8, **keys, "sharding": sharding}).to_dict()
    )


def test_what_ddp_keeps_and_sends() -> None:
    """By hand: gradients of all copies of a layer, and which were used, in two maps; the host has one of a GPU's."""
    for device, maps in ((CPU, 2), (Cuda((8, 0)), 1)):
        ledger = Ledger(device)
        first, layer = (ledger.parameter(name, (10,), "float32", True) for name in "ab")
        frozen = ledger.parameter("c", (10,), "float32", False)
        layer.copies = 3
        for shape, dtype in (((2,), "float32"), ((1,), "float32"), ((1,), "int64")):
            ledger.buffer(shape, dtype)
        parts = Parts((first, frozen), {"layers.0": (layer,)}, {}, {}, {}, {}, "")
        plain, asked = (Ddp(world_size=4, find_unused_parameters=on).scope(ledger, parts) for on in (False, True))
        assert (plain.communication, asked.communication) == (160, 160 + maps * 4 * 4)
        plain.before_forward()
        assert plain.communicated == 12 + 8
        plain.before_backward(False)
        plain.before_forward()
        assert plain.communicated == 20
        plain.before_backward(True)
        assert plain.communicated == 20 + 2 * 160 * 3 // 4
        first.unreached = True
        Ddp(world_size=4, static_graph=True).scope(ledger, parts)
        with pytest.raises(InputError, match="sharding ddp stops in the second step, since a gets no gradient"):
            Ddp(world_size=4).scope(ledger, parts)


def test_blocks_of_ddp() -> None:
    """By hand: a bucket of two buffers is sent as one copy; the first bucket of gradients is full with 1 MiB."""
    stored = [("float32", 8), ("float32", 4), ("int64", 8)]
    trained = [("float32", 1 << 20), ("float32", 4), ("bfloat16", 2)]
    later = [1 << 20, 4, 2]
    assert Ddp(world_size=2).blocks(stored, trained) == Blocks([12], [(1 << 20) + 4, 2], later)
    wide = Ddp(world_size=2, bucket_cap_mb=2).blocks(stored, trained)
    assert wide == Blocks([12], [(1 << 20) + 4, 2], [(1 << 20) + 4, 2])
    unused = [*later, 3 * 4]
    assert Ddp(world_size=2, find_unused_parameters=True).blocks(stored, trained) == Blocks([12], unused, unused)


PREPARED = {"autocast": "bfloat16", "trainer": "hf-trainer", "dtype": "bfloat16", "batch": 1, "seq": 5}


@pytest.mark.parametrize("name", ["fsdp1", "fsdp2"])
@pytest.mark.parametrize("method", ["full", {"name": "freeze", "top_layers": 2}])
def test_accelerate_keeps_what_trains_in_float32(name: str, method: Any, tmp_path: Path) -> None:
    """Witness: ``Accelerator.prepare_model`` and ``fsdp2_prepare_model``, whose steps are measured elsewhere.

    FSDP1 casts whole flat parameters, frozen ones among them, and FSDP2 each parameter that trains.
    """
    model = write_config(tmp_path, {**LAYERS, "tie_word_embeddings": False})
    block = {"name": name, "world_size": 2}

    def asked(**keys: Any) -> Mapping[str, int]:
        return estimate(parse_plan({"model": model, "method": method, "sharding": block, **PREPARED, **keys})).bytes

    cast, plain, wide = asked(), asked(autocast=None), asked(dtype="float32")
    grown = cast["parameters"] - plain["parameters"]
    assert cast["gradients"] == wide["gradients"] == 2 * plain["gradients"]
    assert grown == plain["gradients"]
    if method == "full":
        assert {**cast} == {**wide}
    else:
        assert cast["parameters"] < wide["parameters"]
    assert asked(sharding={**block, "groups": "layers"})["gradients"] == plain["gradients"]
