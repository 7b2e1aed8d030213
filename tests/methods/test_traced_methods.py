"""PEFT methods without rules: the traced step against the measured one."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.advice import advise
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.answers.traced import trace_step
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.methods.traced import installed_methods
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.measure import run_step
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import EXACT, assert_near

CANDIDATES: list[dict[str, Any]] = [
    {"name": "hra", "r": 4, "target_modules": ["q_proj", "down_proj"]},
    {"name": "adaption_prompt", "adapter_len": 4, "adapter_layers": 2},
    {"name": "gralora", "r": 8, "target_modules": ["q_proj", "o_proj"]},
    {"name": "tinylora", "r": 2},
    {"name": "road"},
]
TRACED = [block for block in CANDIDATES if block["name"] in installed_methods() - METHODS.keys()]


@pytest.mark.parametrize("block", TRACED, ids=lambda block: block["name"])
def test_step(block: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. What is held exactly, the peak within 0.5 %."""
    model = write_config(tmp_path / "model", {"hidden_size": 96})
    plan = parse_plan({"model": model, "batch": 2, "seq": 40, "dtype": "float32", "method": block})
    result, measured = estimate(plan), run_step(resolve(plan))
    assert_near(result, measured)
    assert "has no rules here" in result.warnings[-1]
    assert f"the installed PEFT's own module, release {version('peft')};" in result.warnings[-1]


def test_something_is_traced() -> None:
    assert len(TRACED) >= 2


@pytest.mark.parametrize("method", [{"name": "full"}, {"name": "lora", "r": 3, "target_modules": "all-linear"}])
def test_the_trace_of_a_step_is_the_rules_step(method: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the trace of forward, backward and optimizer, beside rules that measurement has proved."""
    model = write_config(tmp_path / "model", {})
    plan = parse_plan({"model": model, "batch": 2, "seq": 40, "dtype": "float32", "method": method})
    traced, result = trace_step(resolve(plan)), estimate(plan)
    witness = {key: getattr(traced, key) for key in ("adapters", *EXACT)}
    witness["peak_above_resident"] = max(value for (value,) in traced.moments.values())
    assert_figures(result.bytes, witness, {"peak_above_resident": result.bytes["peak_above_resident"] // 200})


def test_an_option_that_peft_does_not_have(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {})
    with pytest.raises(InputError, match="PEFT refuses method"):
        estimate(model=model, seq=8, method={**TRACED[0], "no_such_option": 1})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimizer": "lomo"}, "does not go with optimizer: lomo"),
        ({"loss": "chunked"}, "no labels to read"),
        ({"gradient_accumulation_steps": 2}, "of one batch"),
        ({"saved_activations": "int8"}, "does not quantise"),
        ({"method": "poly"}, "cannot be traced"),
    ],
)
def test_what_a_trace_does_not_follow(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Asks the contract: an option that changes memory is refused, not ignored."""
    model = write_config(tmp_path / "model", {})
    with pytest.raises(InputError, match=message):
        estimate({"model": model, "seq": 8, "method": TRACED[0], **keys})


def test_logits_let_go(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {})
    plan = {"model": model, "seq": 64, "dtype": "float32", "method": TRACED[0]}
    kept, gone = (estimate({**plan, "keep_logits": keep}).bytes["peak"] for keep in (True, False))
    assert kept - gone == 64 * 611 * 4


@pytest.mark.parametrize("runtime", ["torch-cpu", "torch-cuda"])
def test_output_dropped_before_the_step(runtime: str, tmp_path: Path) -> None:
    """The optimizer's copies of the embedding are the peak of full training; the logits are alive then or not."""
    model = write_config(tmp_path / "model", {"vocab_size": 9000, "num_hidden_layers": 1})
    plan = {"model": model, "seq": 64, "dtype": "float32", "runtime": runtime, "optimizer": "adamw-foreach"}
    plan["method"] = {**TRACED[0], "modules_to_save": ["lm_head", "embed_tokens"]}
    held, gone = (estimate({**plan, "drop_output_before_step": drop}) for drop in (False, True))
    assert held.moments["optimizer step"] - gone.moments["optimizer step"] == 64 * 9000 * 4 + 4


def test_no_formula_and_no_advice(tmp_path: Path) -> None:
    plan = {"model": write_config(tmp_path / "model", {}), "seq": 8, "method": TRACED[0]}
    with pytest.raises(InputError, match="a formula does not go with"):
        compile_plan(parse_plan(plan))
    with pytest.raises(InputError, match="advice does not go with method"):
        advise({**plan, "budget": "1GiB"})
