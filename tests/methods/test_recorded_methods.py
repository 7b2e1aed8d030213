"""PEFT methods without rules: the step of the recorded module against the measured one, and every question."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.advice import advise
from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.answers.inverse import solve
from estimator.errors import InputError
from estimator.methods.other import installed_methods
from estimator.methods.registry import METHODS
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.measure import run_step
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import assert_near

CANDIDATES: list[dict[str, Any]] = [
    {"name": "gralora", "r": 8, "target_modules": ["q_proj", "o_proj"]},
    {"name": "tinylora", "r": 2},
]
RECORDED = [block for block in CANDIDATES if block["name"] in installed_methods() - METHODS.keys()]


@pytest.mark.parametrize("block", RECORDED, ids=lambda block: block["name"])
def test_step(block: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. What is held exactly, the peak within 0.5 %."""
    model = write_config(tmp_path / "model", {"hidden_size": 96})
    plan = parse_plan({"model": model, "batch": 2, "seq": 40, "dtype": "float32", "method": block})
    result = estimate(plan)
    assert_near(result, run_step(resolve(plan)))
    assert result.peft == version("peft")
    assert f"PEFT {version('peft')} run with method {block['name']}" in " ".join(result.warnings)


def test_something_is_recorded() -> None:
    assert RECORDED


def test_an_option_that_peft_does_not_have(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {})
    with pytest.raises(InputError, match="PEFT refuses method"):
        estimate(model=model, seq=8, method={**RECORDED[0], "no_such_option": 1})


@pytest.mark.parametrize("runtime", ["torch-cpu", "torch-cuda"])
def test_logits_let_go(runtime: str, tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {})
    plan = {"model": model, "seq": 64, "dtype": "float32", "runtime": runtime, "method": RECORDED[0]}
    kept, gone = (estimate({**plan, "keep_logits": keep}).bytes["peak"] for keep in (True, False))
    assert kept - gone == 64 * 611 * 4


@pytest.mark.share(6)
def test_every_question_is_answered(tmp_path: Path) -> None:
    """Asks the contract: what needs many steps takes a recorded method, too."""
    plan = {"model": write_config(tmp_path / "model", {}), "seq": 8, "method": RECORDED[0]}
    assert compile_plan(parse_plan(plan)).totals.moments
    assert advise({**plan, "budget": "1GiB"})
    answer = solve("max-seq", {**{k: v for k, v in plan.items() if k != "seq"}, "budget": "450MiB"}).answer
    assert answer
    assert answer > 1


def test_methods_that_are_installed() -> None:
    """Witness: PEFT, whose source is read alone elsewhere."""
    peft = pytest.importorskip("peft")
    assert installed_methods() == {one.value.lower() for one in peft.PeftType}
