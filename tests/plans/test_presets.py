"""Presets: the keys they set, whose defaults they are, and that a key of the user's wins.

The witness of a tool's defaults is its release: ``docs/make_trainer_defaults.py`` reads them from its sources.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.presets import RECIPES, TRAINERS

MODEL = "llama-3.2-1b"
DEFAULTS = Path(__file__).parents[2] / "docs" / "measured" / "trainer_defaults"


def defaults(tool: str) -> dict[str, Any]:
    """A tool's defaults as its release has them."""
    found: dict[str, Any] = json.loads((DEFAULTS / f"{tool}.json").read_text(encoding="utf-8"))["defaults"]
    return found


@pytest.mark.parametrize(("release", "named"), [("1.9", "TRL 1.9's trl-dpo"), ("1.16", "TRL 1.16.0's trl-dpo")])
def test_the_release_of_trl_that_is_asked_is_named(release: str, named: str) -> None:
    plan = parse_plan({"model": "smollm2-135m", "trainer": "trl-dpo", "trl": release})
    assert {one.why for one in plan.assumptions() if one.key == "batch"} == {
        f"{named} sets it; give the key to replace it"
    }


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_a_preset_sets_is_an_assumption_with_its_source(trainer: str) -> None:
    plan = parse_plan({"model": MODEL, "trainer": trainer, "runtime": "torch-cuda"})
    assumed = {one.key: one for one in plan.assumptions()}
    assumed.pop("prompt_seq", None)  # half of seq, whatever that is
    assert set(assumed) == set(plan.preset_keys) - {"method"}
    for one in assumed.values():
        assert one.why.startswith(TRAINERS[trainer].whose)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_key_that_is_given_wins_over_a_preset(trainer: str) -> None:
    given = {"batch": 3, "seq": 77, "dtype": "float16", "optimizer": "sgd", "checkpointing": "none", "autocast": None}
    plan = parse_plan({"model": MODEL, "trainer": trainer, "runtime": "torch-cuda", **given})
    assert {key: getattr(plan, key) for key in given} == given


def test_loop_sets_nothing() -> None:
    assert estimate(MODEL, trainer="loop").bytes == estimate(MODEL).bytes


def test_the_trainers_presets_are_their_releases_defaults() -> None:
    """transformers', TRL's, Axolotl's and LLaMA-Factory's own defaults, by the plan's keys."""
    transformers, trl = defaults("transformers"), defaults("trl")
    hf = parse_plan({"model": MODEL, "trainer": "hf-trainer"})
    assert (hf.batch, hf.gradient_accumulation_steps) == (
        transformers["per_device_train_batch_size"],
        transformers["gradient_accumulation_steps"],
    )
    assert hf.gradient_clipping == (transformers["max_grad_norm"] > 0)
    sft = parse_plan({"model": MODEL, "trainer": "trl-sft"})
    assert sft.seq == trl["max_length"]
    assert (sft.checkpointing == "layer") is trl["gradient_checkpointing"]
    axolotl = defaults("axolotl")
    ax = parse_plan({"model": MODEL, "trainer": "axolotl"})
    assert (ax.batch, ax.seq) == (axolotl["micro_batch_size"], axolotl["sequence_len"])
    assert (ax.checkpointing == "layer") is axolotl["gradient_checkpointing"]
    factory = defaults("llama_factory")
    lf = parse_plan({"model": MODEL, "trainer": "llama-factory"})
    assert lf.seq == factory["cutoff_len"]
    assert lf.method.name == factory["finetuning_type"]
    assert getattr(lf.method, "r", None) == factory["lora_rank"]
    assert (lf.checkpointing == "none") is factory["disable_gradient_checkpointing"]
    assert lf.use_reentrant is factory["use_reentrant_gc"]


def test_qlora_is_a_method_with_its_base() -> None:
    plan = parse_plan({"model": MODEL, "method": "qlora"})
    assert (plan.method.name, plan.dtype, plan.double_quant, plan.kbit_preparation) == ("lora", "nf4", True, True)
    assert {RECIPES["qlora"].whose} == set(plan._whose.values())
    wider = parse_plan({"model": MODEL, "method": {"name": "qlora", "r": 64}, "dtype": "int8"})
    assert (getattr(wider.method, "r", None), wider.dtype) == (64, "int8")


def test_a_recipe_goes_before_a_trainers_defaults() -> None:
    plan = parse_plan({"model": MODEL, "method": "qlora", "trainer": "trl-sft"})
    assert (plan.dtype, plan.compute_dtype, plan.seq) == ("nf4", "bfloat16", 1024)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [("trl", "did you mean trl-sft"), (3, "is not known"), ("", "known are trl-sft")],
)
def test_an_unknown_trainer_is_refused(trainer: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_plan({"model": MODEL, "trainer": trainer})


NF4 = {"method": "lora", "dtype": "nf4"}
LAYER = {"checkpointing": "layer"}
SET: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"trainer": "hf-trainer"}, {"batch": 8, "dtype": "bfloat16", "optimizer": "adamw-fused", "keep_logits": False}),
    ({"trainer": "hf-trainer"}, {"gradient_clipping": True, "data_collator": True, "convert_outputs_to_fp32": False}),
    ({"trainer": "hf-trainer", "optimizer": "adamw-8bit"}, {"embedding_optim_bits": 32}),
    ({"trainer": "hf-trainer", "autocast": "bfloat16"}, {"convert_outputs_to_fp32": True}),
    ({"trainer": "trl-sft"}, {"dtype": "float32", "loss": "fused-lm-head", "autocast": "bfloat16", **LAYER}),
    ({"trainer": "trl-sft", "trl": "1.9"}, {"loss": "chunked-nll"}),
    ({"trainer": "trl-sft", **NF4}, {"rest_dtype": "float32", "compute_dtype": "float32"}),
    ({"trainer": "trl-reward"}, {"head": "sequence-classification", "data_collator": False}),
    ({"trainer": "trl-dpo"}, {"loss_type": "sigmoid", "data_collator": True, "beta": None, "num_generations": None}),
    ({"trainer": "trl-grpo"}, {"num_generations": 8, "beta": 0.0}),
    ({"trainer": "axolotl"}, {"seq": 512, "batch": 1, "expandable_segments": False, "use_reentrant": None}),
    ({"trainer": "axolotl", "device": "rtx-4090", **LAYER}, {"expandable_segments": True, "use_reentrant": True}),
    ({"trainer": "axolotl", "runtime": "torch-cuda"}, {"expandable_segments": True}),
    ({"trainer": "axolotl", "device": "raspberry-pi-5-8gb"}, {"expandable_segments": False}),
    ({"trainer": "axolotl", **NF4}, {"compute_dtype": "bfloat16", "double_quant": True, "quant_storage": "bfloat16"}),
    ({"trainer": "axolotl-dpo"}, {"use_reentrant": False, "loss_type": "sigmoid", "reference": None, **LAYER}),
    ({"trainer": "axolotl-kto", "method": "lora"}, {"reference": None}),
    ({"trainer": "torchtune", **LAYER}, {"batch": 2, "loss": "ce-chunked-output", "use_reentrant": False}),
]


@pytest.mark.parametrize(("keys", "values"), SET, ids=str)
def test_what_a_trainer_sets(keys: dict[str, Any], values: dict[str, Any]) -> None:
    """By hand, from the sources that ``presets.py`` names."""
    plan = parse_plan({"model": MODEL, **keys})
    assert {key: getattr(plan, key) for key in values} == values


def test_a_reference_that_is_loaded_by_itself() -> None:
    """By hand: of Axolotl's KTO in full fine-tuning, in float32, unless its log-probabilities are there before."""
    plan = {"model": MODEL, "trainer": "axolotl-kto"}
    found: Any = parse_plan(plan).reference
    assert (found.model, found.dtype) == (MODEL, "float32")
    assert parse_plan({**plan, "precompute_ref_log_probs": True}).reference is None


DDP = {"name": "ddp", "world_size": 2}
FSDP1, FSDP2 = ({"name": name, "world_size": 2} for name in ("fsdp1", "fsdp2"))
SHARED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"trainer": "hf-trainer", "sharding": DDP}, {"find_unused_parameters": True}),
    ({"trainer": "hf-trainer", "sharding": DDP, **LAYER}, {"find_unused_parameters": False}),
    ({"trainer": "hf-trainer", "sharding": DDP, "method": "lora", **LAYER}, {"find_unused_parameters": True}),
    ({"trainer": "axolotl", "sharding": DDP}, {"find_unused_parameters": False}),
    ({"trainer": "llama-factory", "sharding": DDP}, {"find_unused_parameters": False}),
    ({"trainer": "hf-trainer", "sharding": FSDP2}, {"groups": "accelerate", "param_dtype": None}),
    ({"trainer": "hf-trainer", "sharding": FSDP2, "autocast": "bfloat16"}, {"reduce_dtype": "bfloat16"}),
    ({"trainer": "hf-trainer", "sharding": FSDP1, "method": "lora"}, {"groups": "transformers"}),
    ({"trainer": "hf-trainer", "sharding": FSDP2, "method": "lora"}, {"groups": "accelerate"}),
    ({"trainer": "hf-trainer", "sharding": FSDP1, "quant_storage": "bfloat16", **NF4}, {"param_dtype": "bfloat16"}),
    ({"trainer": "axolotl", "sharding": FSDP2}, {"groups": "layers", "reshard_after_forward": True}),
]


@pytest.mark.parametrize(("keys", "values"), SHARED, ids=str)
def test_how_a_trainer_shares_a_model(keys: dict[str, Any], values: dict[str, Any]) -> None:
    """By hand, from the sources that ``presets.py`` names."""
    block = parse_plan({"model": MODEL, **keys}).sharding
    assert {key: getattr(block, key) for key in values} == values
