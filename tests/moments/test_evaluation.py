"""Evaluation: what the loop keeps, against the loop of a real ``Trainer``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.moments.evaluation import Evaluation, evaluation
from estimator.moments.options import RunOptions
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases import trl_evaluations
from tests.cases.kinds import Case
from tests.cases.small_models import TINY, write_config
from tests.helpers.evaluation_loop import held_by_training, measured_evaluation
from tests.helpers.figures import assert_figures

KEEPS = {"compute_metrics": True}
TOKENS = {**KEEPS, "preprocess_logits_for_metrics": "argmax"}
LORA = {"name": "lora", "r": 3, "target_modules": ["q_proj", "v_proj"]}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "losses": ({}, {}),
    "losses-rest": ({"attention_mask": True, "seq": 33}, {"eval_samples": 13}),
    "losses-one-batch": ({}, {"eval_samples": 3}),
    "logits": ({}, KEEPS),
    "logits-rest": ({}, {**KEEPS, "eval_samples": 10}),
    "logits-one-batch": ({}, {**KEEPS, "eval_samples": 3}),
    "logits-loss-only": ({}, {**KEEPS, "prediction_loss_only": True}),
    "list": ({}, {**KEEPS, "eval_do_concat_batches": False, "eval_samples": 11}),
    "each-batch": ({}, {**KEEPS, "batch_eval_metrics": True}),
    "argmax-two-batches": ({}, {**TOKENS, "eval_samples": 8}),
    "argmax": ({}, {**TOKENS, "eval_samples": 12}),
    "argmax-list-moved": ({}, {**TOKENS, "eval_do_concat_batches": False, "eval_accumulation_steps": 2}),
    "moved-each": ({}, {**KEEPS, "eval_accumulation_steps": 1}),
    "moved": ({}, {**KEEPS, "eval_accumulation_steps": 2, "eval_samples": 23}),
    "moved-whole": ({}, {**KEEPS, "eval_accumulation_steps": 2, "eval_samples": 16}),
    "mask": ({"attention_mask": True}, KEEPS),
    "bfloat16": ({"dtype": "bfloat16"}, KEEPS),
    "bfloat16-moved": ({"dtype": "bfloat16"}, {**KEEPS, "eval_accumulation_steps": 2, "eval_samples": 23}),
    "bfloat16-list": ({"dtype": "bfloat16"}, {**KEEPS, "eval_do_concat_batches": False}),
    "autocast": ({"autocast": "bfloat16"}, KEEPS),
    "autocast-losses": ({"autocast": "bfloat16"}, {}),
    "autocast-frozen": ({"autocast": "bfloat16", "dtype": "bfloat16", "method": LORA}, KEEPS),
    "lora": ({"method": LORA, "checkpointing": "layer"}, KEEPS),
    "eager": ({"attention": "eager"}, KEEPS),
    "long": ({"seq": 70, "batch": 3}, {**KEEPS, "per_device_eval_batch_size": 16, "eval_samples": 33}),
    "collated": ({"data_collator": True}, KEEPS),
    "collated-eager": ({"data_collator": True, "attention": "eager"}, {}),
    "noise": ({"neftune_noise_alpha": 5.0}, {}),
    "chunked": ({"loss": "chunked", "loss_chunk": 8}, {}),
    "cut": ({"loss": "cce"}, {}),
    "prompts": ({"method": {"name": "prompt_tuning", "num_virtual_tokens": 5}}, KEEPS),
    "adalora": ({"method": {"name": "adalora", "total_step": 100}}, {}),
}
FAMILIES = ("mistral", "qwen2", "qwen3", "gemma2", "phi3")


@pytest.mark.share(12)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("case", CASES)
def test_loop_of_trainer(case: str, tmp_path: Path) -> None:
    """Witness: measurement of ``Trainer.evaluate``, within 64 bytes."""
    keys, block = CASES[case]
    config = {**TINY, "vocab_size": 611 if keys.get("loss") is None else 30011}
    assert_evaluation(config, keys, block, tmp_path)


@pytest.mark.share(3)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    """Witness: measurement of ``Trainer.evaluate``. Some of the families have written programs, some recorded ones."""
    config = {**TINY, "vocab_size": 331, "model_type": family, "pad_token_id": 0}
    assert_evaluation(config, {"dtype": "bfloat16", "seq": 31}, {**KEEPS, "eval_samples": 6}, tmp_path)


@pytest.mark.parametrize("release", trl_evaluations.LOSSES)
@pytest.mark.parametrize("case", trl_evaluations.CASES, ids=lambda case: case[0])
def test_losses_of_trl(case: Case, release: str, tmp_path: Path) -> None:
    """Witness: recorded evaluations of TRL's ``SFTTrainer``, within 64 bytes."""
    name, config, plan = case
    record = json.loads(trl_evaluations.RECORD.read_text(encoding="utf-8"))[release]["peaks"]
    keys = trl_evaluations.plan_of(config, plan, trl_evaluations.LOSSES[release], tmp_path)
    options = RunOptions(**trl_evaluations.RUN)
    (largest, _), _ = Evaluation(resolve(parse_plan(keys)), options, options.eval_samples or 0).peaks()
    assert_figures({name: largest}, {name: record[name]}, 64)


@pytest.mark.share(3)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("accumulation", [1, 3])
def test_batches_of_the_step_before(accumulation: int, tmp_path: Path) -> None:
    """Witness: the tensors that are alive where a real training loop begins to evaluate."""
    model = write_config(tmp_path / "model", TINY)
    plan = {"model": model, "batch": 2, "seq": 17, "dtype": "float32", "gradient_accumulation_steps": accumulation}
    resolved = resolve(parse_plan(plan))
    options = RunOptions(eval_samples=2, per_device_eval_batch_size=2)
    (moment,) = evaluation(resolved, options, 0)
    (largest, _), _ = Evaluation(resolved, options, 2).peaks()
    assert moment.bytes - largest == held_by_training(resolved, tmp_path / "out")


def assert_evaluation(config: dict[str, Any], keys: dict[str, Any], block: dict[str, Any], tmp_path: Path) -> None:
    """The largest bytes of the loop are those of a real one, within 64."""
    __tracebackhide__ = True
    model = write_config(tmp_path / "model", config)
    resolved = resolve(parse_plan({"model": model, "batch": 2, "seq": 17, "dtype": "float32", **keys}))
    options = RunOptions(**{"eval_samples": 20, "per_device_eval_batch_size": 4, **block})
    assert options.eval_samples is not None
    (largest, _), host = Evaluation(resolved, options, options.eval_samples).peaks()
    assert host[0] == largest
    seen = measured_evaluation(resolved, options, tmp_path / "out")
    assert_figures({"bytes": largest}, {"bytes": seen}, 64)
