"""FSDP2 and DDP: estimates against recorded steps of ``fully_shard`` and ``DistributedDataParallel``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from tests.cases.sharded_steps import CASES, RECORD
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import assert_step

STEPS = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]


@pytest.mark.share(4)
@pytest.mark.parametrize(("name", "config", "plan"), CASES, ids=[name for name, *_ in CASES])
def test_step(name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: a recorded measurement (``tests/cases/sharded_steps.py``), equal in every byte."""
    found = estimate({"model": write_config(tmp_path / "model", config), **plan})
    assert_figures(found.bytes, STEPS[name])


@pytest.mark.extra("trace")
@pytest.mark.parametrize("name", ["fsdp2", "ddp"])
def test_prompts_beside_a_tied_embedding(name: str, tmp_path: Path) -> None:
    """Witness: measurement. PEFT's model names the embedding a second time, and a mixture of windows is recorded."""
    windows = {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
    config = {**windows, "num_hidden_layers": 2, "tie_word_embeddings": True}
    keys = {"seq": 4, "dtype": "float32", "method": {"name": "prefix_tuning", "num_virtual_tokens": 4}}
    assert_step(config, {**keys, "sharding": {"name": name, "world_size": 2}}, tmp_path)


@pytest.mark.extra("trace")
@pytest.mark.parametrize("processes", [1, 4])
def test_parts_among_one_process_or_all(processes: int, tmp_path: Path) -> None:
    """Witness: measurement. PyTorch takes 1 as false, and the number of all processes as true."""
    sharding = {"name": "fsdp2", "world_size": 4, "reshard_after_forward": processes}
    keys = {"batch": 1, "seq": 2, "dtype": "float32", "sharding": sharding}
    assert_step({"num_hidden_layers": 7, "vocab_size": 100}, keys, tmp_path)


GATHERED = 100 * 96 * 4
"""Bytes of an embedding of 100 tokens in float32, and of a head."""


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, 1),
        ({"param_dtype": "bfloat16"}, 1 / 2),
        ({"reshard_after_forward": True}, None),
        ({"reshard_after_forward": 2}, None),
        ({"replicate": 2}, None),
    ],
    ids=str,
)
def test_what_a_rank_sends(options: dict[str, Any], factor: float | None, tmp_path: Path) -> None:
    """Witness: arithmetic. A ring sends a part less than all: each gather of all parameters, and their reduction."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 7, "vocab_size": 100})
    plan = {"model": model, "dtype": "float32", "batch": 1, "seq": 2}
    world = 4
    alone = estimate(plan).bytes["parameters"]
    found = estimate({**plan, "sharding": {"name": "fsdp2", "world_size": world, **options}})
    root = 2 * GATHERED + 96 * 4  # gathered once: backward begins with it; the layers are gathered twice, then reduced
    if factor is not None:
        assert found.communicated == factor * (3 * alone - root) * (world - 1) // world
    elif "replicate" in options:
        part = alone // 2
        assert found.communicated == (3 * alone - root) // 2 + 2 * part // 2
    elif options["reshard_after_forward"] == 2:  # backward gathers from one other process
        assert found.communicated == 2 * alone * (world - 1) // world + alone // 2
    else:
        assert found.communicated == 3 * alone * (world - 1) // world


def test_what_a_rank_sends_beside_tensor_parallelism(tmp_path: Path) -> None:
    """Witness: arithmetic. What the products exchange, and what FSDP2 sends of the process's part of each parameter."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 7, "vocab_size": 100})
    plan = {"model": model, "dtype": "float32", "batch": 1, "seq": 2}
    world = 2
    alone = estimate({**plan, "sharding": {"tp": 2}})
    found = estimate({**plan, "sharding": {"name": "fsdp2", "world_size": 2 * world, "tp": 2}})
    root = 2 * GATHERED // 2 + 96 * 4  # the norm is whole
    sent = (3 * alone.bytes["parameters"] - root) * (world - 1) // world
    assert found.communicated == alone.communicated + sent
    assert found.trainable_parameters == alone.trainable_parameters


@pytest.mark.parametrize(
    ("options", "method", "more"),
    [
        ({}, {}, 0),  # once, as the module's hooks do
        ({"param_dtype": "bfloat16"}, {}, GATHERED // 2),  # in the dtype it is stored in
        ({}, {"modules_to_save": ["lm_head"]}, -2 * GATHERED),  # not the frozen one, and its gradient is not reduced
    ],
    ids=str,
)
def test_what_a_rank_sends_of_a_head_that_the_loss_gathers(
    options: dict[str, Any], method: dict[str, Any], more: int, tmp_path: Path
) -> None:
    """Witness: arithmetic, beside a loss that calls the head. Adapters leave the head alone in its group."""
    world, method = 4, {"name": "lora", **method}
    sharding = {"name": "fsdp2", "world_size": world, "groups": "accelerate", **options}
    keys = {"dtype": "float32", "seq": 4, "method": method, "sharding": sharding}
    plan = {"model": write_config(tmp_path / "model", {"num_hidden_layers": 2, "vocab_size": 100}), **keys}
    called = estimate({**plan, "loss": "standard"}).communicated
    assert estimate({**plan, "loss": "fused-lm-head"}).communicated == called + more * (world - 1) // world


def test_a_head_that_the_loss_gathers_from_the_host(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {"num_hidden_layers": 2})
    sharding = {"name": "fsdp2", "world_size": 2, "groups": "accelerate", "cpu_offload": True}
    keys = {"dtype": "float32", "seq": 32, "loss": "fused-lm-head", "device": "a100-80gb"}
    plan = {"model": model, "sharding": sharding, **keys}
    estimate(plan)  # the head is in the group of the last norm, which gathers it
    with pytest.raises(InputError, match=r"cpu_offload has no rule with a loss that gathers lm_head\.weight itself"):
        estimate({**plan, "method": "lora"})


@pytest.mark.parametrize("method", ["lora", {"name": "lora", "modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize(("loss", "why"), [("chunked", "for each chunk"), ("liger", "got mixed torch.Tensor")])
def test_a_loss_whose_head_no_group_gathers_is_refused(tmp_path: Path, method: Any, loss: str, why: str) -> None:
    """With adapters accelerate's last group has no norm, and the head is alone in a group whose hook nothing calls."""
    model = write_config(tmp_path / "model", {"num_hidden_layers": 2})
    keys = {"seq": 8, "loss": loss, "method": method}
    shared = {"name": "fsdp2", "world_size": 2}
    with pytest.raises(InputError, match=why):
        estimate(model, **keys, sharding={**shared, "groups": "accelerate"})
    assert estimate(model, **keys, sharding=shared).bytes["peak"]
