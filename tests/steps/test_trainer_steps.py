"""Steps of real trainers: what a plan says of them is what they take."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve, step_of, window_of
from estimator.recorder.hugging_face import recorded_config
from estimator.steps.step import run
from tests.cases import trl_steps
from tests.cases.small_models import write_config
from tests.cases.trainer_loops import HF_TRAINER, TRAINERS
from tests.helpers.trainer_steps import assert_step_of, assert_trainer_step, hf_trainer, trl_sft

RECORDED = json.loads(trl_steps.RECORD.read_text(encoding="utf-8"))
SFT = [pytest.param(name, config, plan, id=name) for name, config, plan in trl_steps.CASES]


@pytest.mark.share(6)
@pytest.mark.parametrize(("config", "plan"), [pytest.param(*case, id=name) for name, *case in TRAINERS])
def test_hf_trainer(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: ``Trainer.training_step``, clipping, the optimizer's step and ``zero_grad``."""
    assert_trainer_step(hf_trainer, config, {**HF_TRAINER, **plan}, tmp_path)


@pytest.mark.parametrize(("name", "config", "plan"), SFT)
@pytest.mark.parametrize("release", RECORDED)
def test_trl_recorded(release: str, name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: TRL's ``SFTTrainer.training_step``, measured where that release is installed."""
    keys = {"model": write_config(tmp_path, config), **plan, "loss": trl_steps.LOSSES[release]}
    assert_step_of(parse_plan(keys), RECORDED[release]["steps"][name])


@pytest.mark.witness
@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL, which no extra brings: make witness installs it")
@pytest.mark.parametrize(("name", "config", "plan"), SFT)
def test_trl(name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the installed TRL's ``SFTTrainer.training_step``."""
    release = ".".join(version("trl").split(".")[:2])
    assert_trainer_step(trl_sft, config, {**plan, "loss": trl_steps.LOSSES[release]}, tmp_path)


@pytest.mark.consistency
@pytest.mark.parametrize("attention", ["sdpa", "flash"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_packed_rows_on_a_gpu(family: str, attention: str, tmp_path: Path) -> None:
    """A packed row of a hand-written model takes what the recording of its real module takes."""
    keys = {"batch": 3, "seq": 40, "packing": True, "attention": attention, "checkpointing": "layer", "method": "lora"}
    model = write_config(tmp_path, {"model_type": family})
    plan = parse_plan({"model": model, "device": "h100-80gb", **keys})
    written = resolve(plan)
    config = recorded_config(written.spec.raw, model)
    method = plan.method.build(config, plan.dtype)
    step = step_of(plan, config, window_of(config, method))
    recorded = Resolved(plan, replace(written.spec, read=config), method, step)
    totals = [run(one.step, one.sizes(), one.method, plan.batch, plan.seq) for one in (written, recorded)]
    assert totals[0].saved == totals[1].saved
    assert max(map(max, totals[0].moments.values())) == max(map(max, totals[1].moments.values()))
