"""Steps of TRL's trainers. The witness is each trainer's own loop on the CPU, recorded with date and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.answers.inverse import solve
from estimator.errors import InputError
from estimator.export.step_function import function_of_step
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.trainer_programs import steps_of
from estimator.steps.trainers import TRAINERS
from tests.cases.trl_loops import FACTORY, LIVE, OF_RELEASE, RECORD, RECORD_FACTORY, RECORDS_OLDER, cases

MEASURED: dict[str, dict[str, int]] = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]
TOLERANCE = 64
"""Bytes at the peak: small tensors of the loop around the step, such as the loss that it logs."""


def plan_of(config: dict[str, Any], keys: dict[str, Any], folder: Path) -> Any:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    for key in {"reference", "reward_model", "teacher"} & {*keys}:
        blocks = []
        for number, one in enumerate(keys[key] if isinstance(keys[key], list) else [keys[key]]):
            other = folder / f"{key}{number}.json"
            other.write_text(json.dumps(one["config"]), encoding="utf-8")
            blocks.append({"model": str(other), "dtype": one["dtype"]})
        keys = {**keys, key: blocks if isinstance(keys[key], list) else blocks[0]}
    return parse_plan({"model": str(path), **keys})


ALL = [*cases(), *LIVE]


@pytest.mark.share(4)
@pytest.mark.parametrize(("name", "config", "keys"), ALL, ids=[name for name, *_ in ALL])
def test_a_step_is_what_the_trainer_takes(
    name: str, config: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    if any(name == live for live, *_ in LIVE):
        pytest.importorskip("trl")
    is_the_trainers(estimate(plan_of(config, keys, tmp_path)).bytes, MEASURED[name])


@pytest.mark.parametrize(
    ("release", "name", "config", "keys"), [(release, *case) for release, own in OF_RELEASE.items() for case in own]
)
def test_a_step_of_an_older_release(
    release: str, name: str, config: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    measured = json.loads(RECORDS_OLDER[release].read_text(encoding="utf-8"))["steps"]
    is_the_trainers(estimate(plan_of(config, {**keys, "trl": release}, tmp_path)).bytes, measured[name])


@pytest.mark.parametrize(("name", "config", "keys"), FACTORY, ids=[name for name, *_ in FACTORY])
def test_a_step_of_llama_factory(name: str, config: dict[str, Any], keys: dict[str, Any], tmp_path: Path) -> None:
    """Its checkpoints are reentrant, as its preset says."""
    measured = json.loads(RECORD_FACTORY.read_text(encoding="utf-8"))["steps"][name]
    is_the_trainers(estimate(plan_of(config, keys, tmp_path)).bytes, measured)


def is_the_trainers(found: Mapping[str, int], measured: Mapping[str, int]) -> None:
    for part in ("parameters", "reference", "optimizer"):
        assert found.get(part, 0) == measured[part], part
    assert abs(found["peak_above_resident"] - measured["peak_above_resident"]) <= TOLERANCE


def test_every_case_is_measured() -> None:
    assert {name for name, *_ in ALL} == {*MEASURED}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_has_its_default_step(trainer: str) -> None:
    keys = {"model": "smollm-135m", "trainer": trainer, "batch": 8, "seq": 40}
    keys |= {"teacher": "smollm-360m"} if TRAINERS[trainer].has_teacher else {}
    for method in ("full", {"name": "lora", "target_modules": "all-linear"}):
        for more in ({}, {"autocast": None, "dtype": "bfloat16"}, {"device": "rtx-4090"}):
            resolve(parse_plan({**keys, "method": method, **more}))


def test_every_shipped_step_runs() -> None:
    """Every loss of a trainer, with each reference, under autocast and without, as on a CPU and as on a GPU."""
    for trainer, one in TRAINERS.items():
        steps = steps_of(one.steps or trainer, one.release or "1.16")
        assert steps, trainer
        for key in steps:
            assert key.reference in ("none", "copy", "adapter-off", "precomputed")


LORA = {"name": "lora", "r": 4, "target_modules": ["q_proj"]}


def test_the_processes_of_a_job_share_prompts() -> None:
    """Completions of a prompt may be in several processes: TRL divides the rows of all of them."""
    keys = {"model": "smollm-135m", "trainer": "trl-grpo", "batch": 4, "seq": 64, "num_generations": 8}
    assert estimate(parse_plan({**keys, "sharding": {"name": "ddp", "world_size": 2}})).bytes["communication"]
    with pytest.raises(InputError, match="batch: 4 is not a multiple"):
        estimate(parse_plan(keys))


def test_batches_between_the_first_and_the_last_are_alike() -> None:
    """Several processes send at the last batch of an update alone, so a third stands for those between."""
    keys = {"model": "smollm-135m", "batch": 4, "seq": 64, "sharding": {"name": "ddp", "world_size": 2}}
    for trainer in ("trl-grpo", "trl-orpo"):
        own = {**keys, "trainer": trainer}
        three, many = (estimate(parse_plan({**own, "gradient_accumulation_steps": n})) for n in (4, 8))
        assert three.bytes["gradients"] == many.bytes["gradients"]
        assert three.communicated == many.communicated


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"trainer": "trl-grpo", "batch": 6}, "batch: 6 is not a multiple of num_generations: 8"),
        (
            {"trainer": "trl-grpo", "batch": 6, "gradient_accumulation_steps": 2},
            "batch: 6 in 2 steps of a generation is not a multiple of num_generations: 8",
        ),
        (
            {"trainer": "trl-grpo", "batch": 8, "gradient_accumulation_steps": 4, "steps_per_generation": 3},
            "generated every 3 batches, of which gradient_accumulation_steps: 4 is neither",
        ),
        ({"trainer": "trl-dpo", "reward_model": "smollm-135m"}, "reward_model belongs to trainer: trl-grpo, trl-rloo"),
        (
            {"trainer": "trl-grpo", "batch": 8, "reward_model": {"model": "smollm-135m", "device": "cuda"}},
            "moves it to",
        ),
        ({"trainer": "trl-orpo", "reference": "copy"}, "its loss has none"),
        (
            {"trainer": "trl-dpo", "head": "sequence-classification"},
            "trainer: trl-dpo has no rule with head: sequence-classification",
        ),
        (
            {"trainer": "trl-dpo", "method": {"name": "lora", "target_modules": ["lm_head"]}},
            "past the adapter on it; take lm_head out of the method's targets",
        ),
        ({"trainer": "trl-reward", "reference": "gpt2"}, "reference: gpt2 does not go .* its loss has none"),
        ({"trainer": "trl-rloo", "reference": "gpt2"}, "trl-rloo loads its reference by the policy's own name"),
        ({"trainer": "trl-dpo", "reference": "gpt-two"}, "unknown model 'gpt-two'"),
        ({"trainer": "trl-dpo", "reference": "bert-base"}, "reference: bert-base has head: masked-lm"),
        ({"trainer": "trl-dpo", "reference": 3}, "reference must be none, adapter-off, copy, a model or a block"),
        ({"trainer": "trl-dpo", "reference": {"model": "gpt2", "dtyp": 1}}, "unknown key 'reference.dtyp'"),
        (
            {"trainer": "trl-dpo", "reference": {"model": "gpt2", "device": "cpu"}, "device": "rtx-4090"},
            "reference.device: cpu does not go with trainer: trl-dpo",
        ),
        (
            {"trainer": "trl-dpo", "reference": "gpt2", "sharding": {"name": "fsdp2", "world_size": 4}},
            "reference: gpt2 has no rule with sharding: fsdp2",
        ),
        ({"trainer": "trl-dpo", "reference": "gpt2", "model": "llama-3.2-1b"}, "reference has a vocabulary of 50,257"),
        (
            {"trainer": "trl-dpo", "reference": {"model": "smollm-360m", "dtype": "gptq"}, "device": "rtx-4090"},
            "reference: dtype: gptq has no rule",
        ),
        (
            {"trainer": "trl-grpo", "batch": 8, "reward_model": {"model": "smollm-360m", "dtype": "nf4"}},
            "reward_model: dtype: nf4 has no rule",
        ),
        (
            {"trainer": "trl-distillation", "teacher": "smollm-360m", "use_vllm": True},
            "use_vllm belongs to trainer: trl-grpo, trl-rloo",
        ),
        ({"trainer": "trl-gkd"}, "trl-gkd does not go without a teacher"),
        ({"trainer": "trl-gkd", "teacher": "gpt2"}, "teacher: gpt2 has a vocabulary of 50,257, and the model one of"),
        ({"trainer": "trl-gkd", "teacher": "smollm-360m", "seq_kd": True}, "seq_kd: true has no rule with lmbda: 0.5"),
        ({"trainer": "trl-gkd", "teacher": "smollm-360m", "beta": 1.5}, "beta: 1.5 does not go with trainer: trl-gkd"),
        ({"trainer": "trl-dpo", "teacher": "smollm-360m"}, "teacher belongs to trainer: trl-gkd, trl-distillation"),
        ({"trainer": "trl-distillation", "teacher": "smollm-360m", "lmbda": 0.1}, "lmbda belongs to trainer: trl-gkd"),
        ({"trainer": "trl-distillation", "teacher": "smollm-360m", "trl": "1.14"}, "trl: 1.14 has no rule with"),
        (
            {"trainer": "trl-distillation", "teacher": "smollm-360m", "num_generations": 2},
            "num_generations belongs to trainer: trl-grpo, trl-rloo",
        ),
        (
            {"trainer": "trl-gkd", "teacher": "smollm-360m", "sharding": {"name": "fsdp2", "world_size": 2}},
            "trainer: trl-gkd has no rule with sharding: fsdp2",
        ),
        ({"trainer": "trl-kto", "batch": 1}, "Actual .not effective. batch size must be > 1"),
        ({"trainer": "axolotl-kto", "batch": 1}, "batch: 1 does not go with trainer: axolotl-kto"),
        ({"trainer": "axolotl-dpo", "trl": "1.14"}, "trl belongs to a trainer of TRL"),
        ({"trainer": "axolotl-simpo", "precompute_ref_log_probs": True}, "precompute_ref_log_probs belongs to trainer"),
        ({"trainer": "trl-grpo", "reference": "copy", "batch": 8}, "beta is 0"),
        (
            {"trainer": "trl-dpo", "reference": "none", "precompute_ref_log_probs": True},
            "reference: none does not go with precompute_ref_log_probs: true",
        ),
        ({"trainer": "trl-grpo", "batch": 8, "reward_model": []}, "reward_model is a list of 0; give 1 to 8 models"),
        ({"trainer": "trl-dpo", "reference": "none"}, "compares with a reference"),
        ({"trainer": "trl-dpo", "reference": "adapter-off"}, "take reference: copy"),
        (
            {"trainer": "trl-dpo", "loss_type": "likely"},
            "loss_type: likely has no rule with trainer: trl-dpo; known",
        ),
        ({"trainer": "trl-dpo", "prompt_seq": 64}, "prompt_seq: 64 leaves no completion of seq: 64"),
        ({"trainer": "trl-grpo", "batch": 8, "trl": "1.14", "loss_type": "cispo"}, "known are dapo, grpo"),
        ({"trainer": "trl-dpo", "seq": 1}, "seq: 1 leaves no completion"),
        (
            {"trainer": "trl-dpo", "sharding": {"name": "fsdp2", "world_size": 4}},
            "reference: copy has no rule with sharding: fsdp2; set precompute_ref_log_probs: true",
        ),
        (
            {"trainer": "trl-dpo", "method": LORA, "sharding": {"name": "zero2", "world_size": 4}},
            "trainer: trl-dpo has no rule with sharding: zero2; take ddp, or fsdp2",
        ),
    ],
)
def test_what_a_trainer_refuses(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        estimate(parse_plan({"model": "smollm-135m", "seq": 64, "batch": 2, **keys}))


def test_the_fewest_rows_that_kto_takes() -> None:
    """TRL refuses one row, unless its loss estimates no divergence; a search begins with the fewest that it takes."""
    keys = {"model": "smollm-135m", "trainer": "trl-kto", "seq": 64, "budget": "900MiB"}
    for loss_type, least in (("kto", 2), ("apo_zero_unpaired", 1)):
        assert solve("max-batch", {**keys, "loss_type": loss_type}).next_value == least


def test_lengths_are_cut_where_the_trainer_cuts_them() -> None:
    """A batch has the length of its longest row: at most TRL's ``max_length``, or what the plan says."""
    keys = {"model": "smollm-135m", "batch": 2, "trainer": "trl-dpo", "attention_mask": True}
    for lengths, seq in (
        ({"histogram": {"20": 50, "64": 50}}, 64),
        ({"histogram": {"20": 50, "5000": 50}}, 1024),
        ({"histogram": {"20": 50, "5000": 50}, "truncate": 300}, 300),
    ):
        plan = parse_plan({**keys, "lengths": lengths})
        assert plan.seq == seq
        cut = [one.value for one in plan.assumptions() if one.key == "truncate"]
        assert cut == ([] if "truncate" in lengths else [1024])
    with pytest.raises(InputError, match="seq: 50 does not go with lengths, whose longest is 64"):
        parse_plan({**keys, "lengths": {"histogram": {"20": 50, "64": 50}}, "seq": 50})


def test_rows_of_a_formula_and_of_an_export() -> None:
    """A loop over the rows needs their number; a row has a prompt and a completion, and a model no open sizes."""
    plan = parse_plan({"model": "smollm-135m", "trainer": "trl-orpo", "batch": 3, "seq": 64})
    with pytest.raises(InputError, match="name fewer variables"):
        compile_plan(plan)
    fewer = compile_plan(plan, numbers=("batch",)).evaluate(3, 77)["peak"]
    assert fewer == estimate(plan.model_copy(update={"seq": 77})).bytes["peak"]
    (seq,) = function_of_step(plan, ("seq",), False, lambda: None).variables
    assert seq.least == 2
    with pytest.raises(InputError, match="open sizes does not go with trainer: trl-orpo"):
        compile_plan(plan, symbolic=True)


def test_what_a_reference_takes() -> None:
    """A copy has the bytes of the model; with an adapter switched off there is none; precomputed, neither."""
    keys = {"model": "smollm-135m", "trainer": "trl-dpo", "batch": 2, "seq": 64}
    full, off, before = (
        estimate(parse_plan({**keys, **more})).bytes
        for more in ({}, {"method": LORA}, {"precompute_ref_log_probs": True})
    )
    assert full["reference"] == full["parameters"]
    assert "reference" not in off
    assert "reference" not in before
    copied = estimate(parse_plan({**keys, "method": LORA, "reference": "copy"})).bytes
    assert copied["reference"] == off["parameters"] - off["adapters"]
    buffers = copied["buffers"] - off["buffers"]
    assert copied["resident"] == off["resident"] + copied["reference"] + buffers
    assert before["resident"] == full["resident"] - full["reference"] - buffers


def test_a_reference_with_the_name_of_the_policy_is_a_copy() -> None:
    """On a GPU, too, whose log is made layer by layer for a copy, and of every layer for another model."""
    keys = {"model": "smollm-135m", "trainer": "trl-dpo", "batch": 2, "seq": 64}
    for more in ({"device": "rtx-4090"}, {"method": LORA, "dtype": "bfloat16", "autocast": None}):
        copy, named = (
            estimate(parse_plan({**keys, **more, "reference": one})).bytes for one in ("copy", "{model: smollm-135m}")
        )
        assert copy == named


def test_a_gpu_keeps_no_states_of_a_reference() -> None:
    """Adapters and a copy: the process has the copy's bytes more than with the adapter off, and no states of it."""
    keys = {"model": "smollm-135m", "trainer": "trl-dpo", "batch": 1, "seq": 64, "method": LORA, "device": "rtx-4090"}
    plain = {**keys, "dtype": "bfloat16", "autocast": None}
    off, copied = (estimate(parse_plan({**plain, "reference": one})).bytes for one in ("adapter-off", "copy"))
    assert copied["process"] - off["process"] < copied["reference"] + 2**26


@pytest.mark.parametrize(
    ("trainer", "own", "loss_type"),
    [("dpo", "dpo", "sigmoid"), ("kto", "kto", "kto"), ("orpo", "orpo", None), ("simpo", "cpo", "simpo")],
)
def test_a_trainer_of_axolotl_is_one_of_trl_1_9(trainer: str, own: str, loss_type: str | None) -> None:
    """With Axolotl's own keys, and with the reference of KTO that TRL loads in float32 (see the release's sources)."""
    keys = {"model": "smollm-135m", "batch": 2, "seq": 64, "checkpointing": "none"}
    kto = {"reference": {"model": "smollm-135m", "dtype": "float32"}} if trainer == "kto" else {}
    for method in ("full", LORA):
        same = {**keys, "method": method}
        loss = {} if loss_type is None else {"loss_type": loss_type}
        plain = {**same, "trainer": f"trl-{own}", "trl": "1.9", "dtype": "bfloat16", **loss}
        found = estimate(parse_plan({**same, "trainer": f"axolotl-{trainer}"}))
        assert found.bytes == estimate(parse_plan({**plain, **(kto if method == "full" else {})})).bytes
        json.dumps(found.to_dict())


@pytest.mark.share(3)
def test_another_reference_is_loaded_in_its_own_dtype() -> None:
    """A GPU has its bytes, and of packed weights those of before they were packed while they are loaded."""
    keys = {"model": "smollm-135m", "trainer": "trl-dpo", "batch": 1, "seq": 64, "device": "rtx-4090"}
    wide, narrow, packed = (
        estimate(parse_plan({**keys, "reference": {"model": "smollm-360m", "dtype": dtype}})).bytes
        for dtype in ("float32", "bfloat16", "nf4")
    )
    assert wide["reference"] == 2 * narrow["reference"] > 4 * packed["reference"]
    assert wide["parameters"] == packed["parameters"]
    assert packed["process"] < narrow["process"] < wide["process"]


def test_adapters_are_without_dropout() -> None:
    """``disable_dropout`` is DPO's default, and none of GRPO's."""
    for trainer, same in (("trl-dpo", True), ("trl-grpo", False)):
        keys = {"model": "smollm-135m", "trainer": trainer, "batch": 8, "seq": 64, "checkpointing": "none"}
        peaks = [
            estimate(parse_plan({**keys, "method": {**LORA, "lora_dropout": p}})).bytes["saved"] for p in (0.0, 0.5)
        ]
        assert (peaks[0] == peaks[1]) == same, trainer


def test_what_experts_leave_out_is_said() -> None:
    answer = estimate(
        parse_plan({"model": "mixtral-8x7b", "trainer": "trl-dpo", "method": LORA, "seq": 64, "batch": 1})
    )
    assert any("load-balancing loss" in warning for warning in answer.warnings)
