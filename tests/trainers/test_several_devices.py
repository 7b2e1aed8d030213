"""Files of several devices: the plan's block ``sharding``, or a refusal in one line.

The witness is the tools' sources, in the releases that ``docs/measured/trainer_defaults`` names; they are read by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import Checked, check
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.presets import with_presets
from estimator.show.cli import main

MODEL = "HuggingFaceTB/SmolLM2-135M"
ARGUMENTS: dict[str, Any] = {"model_name_or_path": MODEL, "output_dir": "o", "optim": "sgd", "max_steps": 1}
TRL: dict[str, Any] = {"model_name_or_path": MODEL, "max_length": 64}
AXOLOTL: dict[str, Any] = {"base_model": MODEL, "micro_batch_size": 1, "sequence_len": 64}
FACTORY: dict[str, Any] = {"model_name_or_path": MODEL, "stage": "sft", "finetuning_type": "full", "cutoff_len": 64}
TUNE: dict[str, Any] = {
    "model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
    "tokenizer": {"_component_": "t", "max_seq_len": 64},
}
LAUNCHED: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE", "num_processes": 8, "num_machines": 1}
WRAPS = "TRANSFORMER_BASED_WRAP"
BF16 = {"param_dtype": "bfloat16", "reduce_dtype": "bfloat16"}
EIGHT = {"world_size": 8}


def fsdp(version: int, **keys: Any) -> dict[str, Any]:
    """accelerate's config of FSDP."""
    block = {"fsdp_version": version, "fsdp_auto_wrap_policy": WRAPS, **{f"fsdp_{key}": keys[key] for key in keys}}
    return {**LAUNCHED, "distributed_type": "FSDP", "fsdp_config": block}


def zero(stage: int, **keys: Any) -> dict[str, Any]:
    """DeepSpeed's JSON."""
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage, **keys}}


def read(keys: dict[str, Any], folder: Path, beside: dict[str, Any] | None = None) -> Checked:
    """The answer to a file, with options beside it."""
    path = folder / "train.json"
    path.write_text(json.dumps(keys))
    return check(str(path), {"runtime": "torch-cpu", "seq": 64, **(beside or {})})


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # accelerate
    "accelerate-fsdp2": (fsdp(2), {}, {"name": "fsdp2", **EIGHT, "groups": "accelerate"}),
    "accelerate-fsdp2-kept": (fsdp(2, reshard_after_forward=False), {}, {"reshard_after_forward": False}),
    "accelerate-fsdp2-bf16": ({**fsdp(2), "mixed_precision": "bf16"}, {}, BF16),
    "accelerate-fsdp2-offload": (fsdp(2, offload_params=True), {}, {"cpu_offload": True}),
    "accelerate-fsdp1": (fsdp(1, sharding_strategy="FULL_SHARD"), {}, {"name": "fsdp1", **EIGHT}),
    "accelerate-fsdp1-by-number": (fsdp(1, sharding_strategy=2), {}, {"name": "fsdp1", "reshard_after_forward": False}),
    "accelerate-hybrid": (
        {**fsdp(1, sharding_strategy="HYBRID_SHARD"), "num_machines": 2},
        {},
        {"name": "fsdp1", **EIGHT, "replicate": 2},
    ),
    "accelerate-hsdp": (
        {**fsdp(2), "parallelism_config": {"parallelism_config_dp_replicate_size": 2}},
        {},
        {**EIGHT, "replicate": 2},
    ),
    "accelerate-tp": (
        {**fsdp(2), "parallelism_config": {"parallelism_config_tp_size": 4, "parallelism_config_dp_shard_size": 2}},
        {},
        {**EIGHT, "tp": 4},
    ),
    "accelerate-ddp": ({**LAUNCHED, "distributed_type": "MULTI_GPU"}, {}, {"name": "ddp", **EIGHT}),
    "accelerate-zero": (
        {**LAUNCHED, "distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
        {},
        {"name": "zero3", **EIGHT},
    ),
    # transformers
    "transformers-fsdp": ({**ARGUMENTS, "fsdp": True}, EIGHT, {"name": "fsdp2", **EIGHT, "groups": "accelerate"}),
    "transformers-words": (
        {**ARGUMENTS, "fsdp": "shard_grad_op auto_wrap offload"},
        EIGHT,
        {"name": "fsdp2", "reshard_after_forward": False, "cpu_offload": True},
    ),
    "transformers-fsdp1": (
        {**ARGUMENTS, "fsdp": "full_shard", "fsdp_config": {"version": 1}, "bf16": True},
        EIGHT,
        {"name": "fsdp1", **BF16},
    ),
    "transformers-zero": (
        {**ARGUMENTS, "deepspeed": {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}},
        EIGHT,
        {"name": "zero2", **EIGHT, "reduce_bucket_size": "auto"},
    ),
    "transformers-ddp": (
        {**ARGUMENTS, "ddp_bucket_cap_mb": 50, "ddp_static_graph": True},
        EIGHT,
        {"name": "ddp", **EIGHT, "bucket_cap_mb": 50, "static_graph": True},
    ),
    "transformers-ddp-default": ({**ARGUMENTS, "ddp_bucket_cap_mb": 25}, EIGHT, {"name": "ddp", "bucket_cap_mb": None}),
    "transformers-unused": (
        {**ARGUMENTS, "ddp_find_unused_parameters": False},
        EIGHT,
        {"find_unused_parameters": False},
    ),
    "transformers-hsdp": (
        {**ARGUMENTS, "fsdp": True, "parallelism_config": {"dp_replicate_size": 2, "dp_shard_size": 4}},
        {},
        {**EIGHT, "replicate": 2},
    ),
    "trl-mixed": ({**TRL, "fsdp": True}, EIGHT, {"name": "fsdp2", **BF16, "groups": "accelerate"}),
    # Axolotl
    "axolotl-fsdp1": ({**AXOLOTL, "fsdp_config": {"auto_wrap_policy": WRAPS}}, EIGHT, {"name": "fsdp1", **BF16}),
    "axolotl-fsdp2": (
        {**AXOLOTL, "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}, "dp_shard_size": 4},
        {},
        {"name": "fsdp2", "world_size": 4, "reshard_after_forward": True, **BF16},
    ),
    "axolotl-policy": (
        {**AXOLOTL, "fsdp_version": 2, "fsdp_config": {"mixed_precision_policy": "fp16"}},
        EIGHT,
        {"param_dtype": "float16", "reduce_dtype": "float16"},
    ),
    # LLaMA-Factory
    "llama-factory-zero": ({**FACTORY, "deepspeed": zero(3)}, EIGHT, {"name": "zero3", **EIGHT}),
    # torchtune
    "torchtune": (TUNE, EIGHT, {"name": "fsdp2", **EIGHT, "reshard_after_forward": True}),
    "torchtune-kept": (
        {**TUNE, "fsdp_reshard_after_forward": False, "data_parallel_replicate_dim": 2, "data_parallel_shard_dim": -1},
        EIGHT,
        {**EIGHT, "reshard_after_forward": False, "replicate": 2},
    ),
    # DeepSpeed
    "deepspeed": (
        zero(
            3, stage3_prefetch_bucket_size=7, stage3_param_persistence_threshold="auto", offload_param={"device": "cpu"}
        ),
        {"model": MODEL, **EIGHT},
        {
            "name": "zero3",
            **EIGHT,
            "stage3_prefetch_bucket_size": 7,
            "stage3_param_persistence_threshold": "auto",
            "offload_param": "cpu",
        },
    ),
    "deepspeed-keys-of-other-stages": (
        zero(3, allgather_bucket_size=2e8, stage3_prefetch_bucket_size=7),
        {"model": MODEL, **EIGHT},
        {"name": "zero3", "allgather_bucket_size": None, "stage3_prefetch_bucket_size": 7},
    ),
    "deepspeed-one": (
        zero(2, offload_optimizer={"device": "cpu"}),
        {"model": MODEL, "world_size": 1},
        {"name": "zero2", "world_size": 1, "offload_optimizer": "cpu"},
    ),
    "deepspeed-older-offload": (
        zero(2, cpu_offload=True),
        {"model": MODEL, **EIGHT},
        {"name": "zero2", "offload_optimizer": "cpu"},
    ),
    "deepspeed-buckets": (
        zero(1, reduce_bucket_size=2e8, allgather_bucket_size=2e8, overlap_comm=True, contiguous_gradients=False),
        {"model": MODEL, **EIGHT},
        {"reduce_bucket_size": 200_000_000, "overlap_comm": True, "contiguous_gradients": False},
    ),
}
"""A file's keys, what is given beside it, and what the block says at least."""


@pytest.mark.parametrize("name", CASES)
def test_the_block_of_a_file(name: str, tmp_path: Path) -> None:
    """The block is read or refused by the plan, never dropped."""
    keys, beside, expected = CASES[name]
    checked = read(keys, tmp_path, {"model": MODEL, **beside} if name.startswith("accelerate") else beside)
    block = checked.keys["sharding"]
    assert {key: block.get(key) for key in expected} == expected
    assert checked.plan is not None or "sharding" in checked.error


def test_checkpoints_of_llama_factory_beside_fsdp2(tmp_path: Path) -> None:
    """By hand: they are not reentrant there, and what is loaded lies on the host."""
    fsdp2 = {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}
    checked = read({**FACTORY, **fsdp2}, tmp_path, EIGHT)
    assert (checked.keys["sharding"]["name"], checked.keys["use_reentrant"]) == ("fsdp2", False)
    said = [(one.value, one.why) for one in checked.assumptions if one.key == "use_reentrant"]
    assert (False, "LLaMA-Factory's with FSDP2") in said
    assert checked.keys["run"]["device_map"] == "none"


ALONE = {
    "deepspeed": (zero(2), {"model": MODEL}),
    "one process": ({**fsdp(2), "num_processes": 1}, {"model": MODEL}),
    "no launcher": (TRL, {}),
    "no fsdp": ({**ARGUMENTS, "fsdp": "", "fsdp_config": {"version": 2}}, {}),
    "torchtune": ({**TUNE, "custom_sharded_layers": ["tok_embeddings"]}, {}),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_file_of_one_process_shares_nothing(name: str, tmp_path: Path) -> None:
    keys, beside = ALONE[name]
    checked = read(keys, tmp_path, beside)
    assert checked.result is not None, checked.error
    assert checked.plan is not None
    assert checked.plan.sharding is None


REFUSED = {
    "no world": (
        {**ARGUMENTS, "fsdp": True},
        {},
        "sharding has no world_size; add the number of processes: --world-size",
    ),
    "no wrapping": (
        {**LAUNCHED, "distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}},
        {"model": MODEL},
        "is NO_WRAP: only TRANSFORMER_BASED_WRAP has rules",
    ),
    "by size": (fsdp(1, auto_wrap_policy="SIZE_BASED_WRAP"), {"model": MODEL}, "is SIZE_BASED_WRAP"),
    "no shard": (
        fsdp(1, sharding_strategy="NO_SHARD"),
        {"model": MODEL},
        "'NO_SHARD' has no rule; known are FULL_SHARD",
    ),
    "unknown words": ({**ARGUMENTS, "fsdp": "hybrid_shard"}, EIGHT, "has no rule for hybrid_shard"),
    "another version": (fsdp(3), {"model": MODEL}, "is none of 1 and 2"),
    "sequences": ({**fsdp(2), "parallelism_config": {"sp_size": 2}}, {"model": MODEL}, "splits each sequence"),
    "TPU": ({**LAUNCHED, "distributed_type": "XLA"}, {"model": MODEL}, "in a way that has no rules here"),
    "stage 0": (zero(0), {"model": MODEL, **EIGHT}, "is stage 0, without a rule on several devices; take 1 to 3"),
    "offload on one": (
        zero(2, offload_optimizer={"device": "cpu"}),
        {"model": MODEL},
        "--world-size, 1 for one device",
    ),
    "hpZ": (zero(3, zero_hpz_partition_size=8), {"model": MODEL, **EIGHT}, "zero_hpz_partition_size: 8 has no rule"),
    "disk": (
        zero(3, offload_param={"device": "nvme"}),
        {"model": MODEL, **EIGHT},
        "keeps weights or states outside the GPU",
    ),
    "units": (
        {**TUNE, "custom_sharded_layers": ["tok_embeddings"]},
        EIGHT,
        "are units of their own, which has no rule",
    ),
    "a policy": (
        {**AXOLOTL, "fsdp_version": 2, "fsdp_config": {"mixed_precision_policy": "fp8"}},
        EIGHT,
        "has no reduce_dtype among",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    keys, beside, says = REFUSED[name]
    error = read(keys, tmp_path, beside).error
    assert says in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("launcher", "world", "each"),
    [
        ("torchrun --nproc_per_node 4", 4, 4),
        ("torchrun --nnodes 2 --nproc_per_node=8", 16, 8),
        ("deepspeed --num_gpus 2", 2, 2),
        ("deepspeed --include localhost:0,1,3", 3, 3),
        ("python -m torch.distributed.run --nproc_per_node 2", 2, 2),
        ("accelerate launch --num_processes 4 --num_machines 2", 4, 2),
    ],
)
def test_a_launcher_says_how_many(launcher: str, world: int, each: int) -> None:
    checked = check(f"{launcher} sft.py --model_name_or_path {MODEL} --max_length 64", {"runtime": "torch-cpu"})
    block = checked.keys["sharding"]
    assert (block["name"], block["world_size"]) == ("ddp", world)
    assert checked.keys["run"]["processes_per_host"] == each


def test_options_of_accelerate_s_launcher() -> None:
    options = "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --num_processes 4"
    line = f"accelerate launch {options} sft.py --model_name_or_path {MODEL} --max_length 64"
    block = check(line, {"runtime": "torch-cpu"}).keys["sharding"]
    assert {key: block[key] for key in ("name", "world_size")} == {"name": "fsdp2", "world_size": 4}


def test_more_processes_than_there_can_be() -> None:
    line = f"torchrun --nproc_per_node 99999999 sft.py --model_name_or_path {MODEL} --max_length 64"
    assert "sharding.world_size" in check(line, {"runtime": "torch-cpu"}).error


def test_axolotl_casts_no_embedding_of_a_sharded_model(tmp_path: Path) -> None:
    """Witness: ``axolotl/loaders/model.py``, which leaves out the cast under FSDP."""
    keys = {**AXOLOTL, "fsdp_version": 2, "fsdp_config": {"auto_wrap_policy": WRAPS}}
    for beside, said in (({}, True), (EIGHT, False)):
        file = AXOLOTL if not beside else keys
        assert any(one.key == "embeddings" for one in read(file, tmp_path, beside).assumptions) is said


def test_processes_that_are_no_number() -> None:
    with pytest.raises(InputError, match="--nproc_per_node gpu is no number of processes"):
        check(f"torchrun --nproc_per_node gpu sft.py --model_name_or_path {MODEL} --max_length 64")


def test_the_command_line_says_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(zero(2)))
    options = ["--model", MODEL, "--seq", "64", "--runtime", "torch-cpu", "--world-size", "8"]
    assert main(["check", str(path), *options, "--all"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["sharding", "zero2"] in rows
    assert ["world_size", "8"] in rows
    assert main(["check", str(path), *options, "--sharding", "fsdp2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["sharding"]["name"] == "fsdp2"


def test_what_trains_is_in_float32_without_a_trainer_too(tmp_path: Path) -> None:
    """Witness: ``fsdp2_prepare_model``."""
    checked = read({**fsdp(2), "mixed_precision": "bf16"}, tmp_path, {"model": MODEL})
    assert (checked.plan.dtype, checked.plan.autocast) == ("bfloat16", "bfloat16")
    assert checked.plan.upcasts_trained == "fsdp2_prepare_model"


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("runtime", ["torch-cpu", "torch-cuda"])
def test_trl_s_own_loss_beside_fsdp2(runtime: str, adapted: bool, tmp_path: Path) -> None:
    """TRL's default loss is fused with a head that FSDP2 shares, with and without adapters."""
    keys = {**TRL, "fsdp": True, "use_peft": adapted}
    checked = read(keys, tmp_path, {**EIGHT, "runtime": runtime})
    assert checked.result is not None, checked.error
    assert (checked.plan.loss, checked.plan.sharding.groups) == ("fused-lm-head", "accelerate")


def test_an_option_takes_the_place_of_the_file_s_block(tmp_path: Path) -> None:
    keys = fsdp(1, sharding_strategy="NO_SHARD")
    checked = read(keys, tmp_path, {"model": MODEL, "sharding": "fsdp2", "world_size": 2})
    assert checked.result is not None, checked.error
    assert (checked.plan.sharding.name, checked.plan.sharding.world_size) == ("fsdp2", 2)


@pytest.mark.parametrize(
    ("trainer", "name", "given", "dtype", "autocast", "groups"),
    [
        ("hf-trainer", "fsdp2", {"dtype": "bfloat16", "autocast": "bfloat16"}, "bfloat16", "bfloat16", "accelerate"),
        ("llama-factory", "fsdp2", {"method": "full", "autocast": "bfloat16"}, "float32", "bfloat16", "accelerate"),
        ("trl-sft", "fsdp2", {"method": "lora"}, "float32", "bfloat16", "accelerate"),
        ("trl-sft", "fsdp1", {"method": "lora"}, "float32", "bfloat16", "transformers"),
        ("axolotl", "fsdp1", {}, "bfloat16", "bfloat16", "accelerate"),
        ("axolotl", "fsdp1", {"method": "lora"}, "bfloat16", "bfloat16", "transformers"),
        ("axolotl", "fsdp2", {}, "bfloat16", "bfloat16", "layers"),
        ("axolotl", "fsdp2", {"method": "lora"}, "bfloat16", "bfloat16", "layers"),
        ("axolotl", "zero2", {}, "bfloat16", None, None),
    ],
)
def test_a_sharded_trainer(
    trainer: str, name: str, given: dict[str, Any], dtype: str, autocast: str | None, groups: str | None
) -> None:
    """Witness: accelerate's ``prepare_model`` and ``fsdp2_prepare_model``, which cast what trains; Axolotl's own, which
    does not; what transformers' Trainer tells accelerate of adapters; DeepSpeed's own.
    """
    block = {"name": name, "world_size": 4}
    plan = parse_plan({"model": "llama-3.2-1b", "trainer": trainer, "sharding": block, **given})
    assert (plan.dtype, plan.autocast) == (dtype, autocast)
    assert (plan.upcasts_trained is not None) is (groups in ("accelerate", "transformers"))
    said = {one.key: one for one in plan.assumptions()}
    expected = {"groups": groups, **BF16} if groups is not None else {}
    assert {key: said[key].value for key in expected} == expected
    if groups == "layers":
        assert said["reshard_after_forward"].value is True
    if groups is not None:  # what no plan says yet
        unsaid = groups == "layers" and plan.method.peft
        assert ("gathers each matrix of an adapter apart" in said["groups"].why) is unsaid


@pytest.mark.parametrize(("keys", "dtype"), [({}, "bfloat16"), ({"quant_storage": "uint8"}, "float16")])
def test_packed_weights_decide_the_dtype_of_a_trainer_s_units(keys: dict[str, Any], dtype: str) -> None:
    """Witness: ``update_fsdp_plugin_peft``."""
    base = {"model": "llama-3.2-1b", "trainer": "axolotl", "dtype": "nf4", "method": "lora", "autocast": "float16"}
    sharding = parse_plan({**base, "sharding": {"name": "fsdp1", "world_size": 4}, **keys}).sharding
    assert sharding is not None
    assert (sharding.param_dtype, sharding.reduce_dtype) == (dtype, dtype)


def test_packed_weights_leave_the_dtype_of_fsdp2() -> None:
    """Witness: ``Trainer._prepare_for_training``, which calls ``update_fsdp_plugin_peft`` for FSDP1 alone."""
    base = {
        "model": "llama-3.2-1b",
        "trainer": "llama-factory",
        "dtype": "nf4",
        "method": "lora",
        "autocast": "float16",
    }
    filled, _ = with_presets({**base, "sharding": {"name": "fsdp2", "world_size": 4}})
    assert (filled["quant_storage"], filled["sharding"]["param_dtype"]) == ("bfloat16", "float16")


@pytest.mark.parametrize(
    ("trainer", "keys", "unused"),
    [
        ("hf-trainer", {}, True),
        ("hf-trainer", {"checkpointing": "layer"}, False),
        ("hf-trainer", {"checkpointing": "layer", "method": "lora"}, True),
        ("axolotl", {}, False),
        ("llama-factory", {}, False),
        ("torchtune", {}, False),
    ],
)
def test_unused_parameters_under_ddp(trainer: str, keys: dict[str, Any], unused: bool) -> None:
    """Witness: ``Trainer.create_accelerator_and_postprocess`` and the tools that tell it otherwise."""
    block = {"name": "ddp", "world_size": 2}
    plan = parse_plan({"model": "llama-3.2-1b", "trainer": trainer, "sharding": block, **keys})
    assert plan.sharding is not None
    assert plan.sharding.find_unused_parameters is unused


def test_a_trainer_without_accelerate_keeps_plain_groups() -> None:
    for trainer in ("torchtune", "loop"):
        plan = parse_plan({"model": "llama-3.2-1b", "trainer": trainer, "sharding": {"name": "fsdp2", **EIGHT}})
        assert plan.sharding is not None
        assert (plan.sharding.groups, plan.sharding.param_dtype) == (None, None)


def test_a_file_s_dtype_of_one_process_is_not_that_of_several(tmp_path: Path) -> None:
    """Witness: accelerate casts bfloat16 weights that train to float32 where precision is mixed."""
    keys = {**TRL, "dtype": "bfloat16", "bf16": True, "optim": "sgd", "gradient_checkpointing": False, "fsdp": True}
    wide, lora = (read(keys, tmp_path, {**EIGHT, **beside}) for beside in ({"dtype": "float32"}, {"method": "lora"}))
    narrow = read(keys, tmp_path, EIGHT)
    assert narrow.keys["dtype"] == lora.keys["dtype"] == "bfloat16"
    assert any("accelerate casts" in assumption.why for assumption in narrow.assumptions)
    assert narrow.result.bytes["resident"] == wide.result.bytes["resident"]


QUANTISED = [
    {"model_name_or_path": MODEL, "stage": "sft", "finetuning_type": "lora", "quantization_bit": 4, "template": "x"},
    {**AXOLOTL, "adapter": "qlora", "load_in_4bit": True, "lora_target_linear": True},
    {"model_name_or_path": MODEL, "use_peft": True, "load_in_4bit": True, "max_length": 64, "bf16": True},
]
"""Files of LLaMA-Factory, Axolotl and TRL whose base is NF4."""


@pytest.mark.parametrize("keys", QUANTISED, ids=["llama-factory", "axolotl", "trl"])
@pytest.mark.parametrize("inline", [True, False])
def test_a_deepspeed_json_casts_what_is_not_quantised(keys: dict[str, Any], inline: bool, tmp_path: Path) -> None:
    """Asks the contract: ``bf16.enabled`` casts floating parameters, and leaves packed weights packed."""
    config = {**zero(2), "bf16": {"enabled": True}}
    (tmp_path / "ds.json").write_text(json.dumps(config))
    block = config if inline and "base_model" not in keys else "ds.json"  # Axolotl takes a path alone
    (tmp_path / "file.yaml").write_text(json.dumps({**keys, "deepspeed": block}))
    plan = check(str(tmp_path / "file.yaml"), EIGHT).keys
    assert (plan["dtype"], plan["rest_dtype"]) == ("nf4", "bfloat16")


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({**TRL, "deepspeed": "ds.json"}, "ds.json"),
        ({**AXOLOTL, "deepspeed": "none/zero3.json"}, "none/zero3.json"),
        ({**TRL, "fsdp": True, "fsdp_config": "fsdp.json"}, "fsdp.json"),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "z.json"}}, "z.json"),
    ],
)
def test_a_file_that_is_named_and_missing(keys: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Asks the contract: what a missing file would say is no assumption of ours."""
    path = tmp_path / "file.yaml"
    path.write_text(json.dumps(keys))
    with pytest.raises(InputError, match=f"names the file '{named}', which is missing; put it in"):
        check(str(path), EIGHT)


def test_a_missing_config_of_the_launcher(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--config_file names the file 'a\.yaml', which is missing"):
        check(f"accelerate launch --config_file a.yaml sft.py --model_name_or_path {MODEL} --max_length 64")
