"""Mixtures of experts: each implementation of transformers, and what depends on how tokens choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases.causal_classes import CLASSES
from tests.cases.small_models import write_config

pytestmark = pytest.mark.extra("trace")


def step(name: str, tmp_path: Path, **keys: Any) -> Result:
    """The estimate of a step, which is equal to the measured one."""
    from estimator.witnesses.measure import run_step
    from tests.helpers.measured_steps import assert_measured
    from tests.helpers.routing import routed

    path = write_config(tmp_path / "model", {**CLASSES[name], "model_type": name})
    plan = parse_plan({"model": path, "batch": 2, "seq": 24, "dtype": "float32", **keys})
    estimated = estimate(plan)
    with routed(plan.routing):
        measured = run_step(resolve(plan))
    return assert_measured(plan, estimated, measured, tolerance=64)


@pytest.mark.share(6)
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss"])
@pytest.mark.parametrize("kind", ["eager", "batched_mm", "grouped_mm"])
def test_implementations(name: str, kind: str, tmp_path: Path) -> None:
    """Witness: measurement."""
    step(name, tmp_path, experts_implementation=kind)


@pytest.mark.share(3)
@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_routing(name: str, tmp_path: Path) -> None:
    """Witness: measurement. Only experts that run one by one depend on it, and the answer says so."""
    balanced, worst = (
        step(name, tmp_path, experts_implementation="eager", routing=routing) for routing in ("balanced", "worst")
    )
    assert balanced.bytes["peak"] != worst.bytes["peak"]
    assert any("routing: worst" in warning for warning in balanced.warnings)
    grouped = step(name, tmp_path, routing="worst")
    assert not any("routing" in warning for warning in grouped.warnings)


def test_a_class_with_experts_of_its_own(tmp_path: Path) -> None:
    """Asks the class: it has no implementations to choose from."""
    with pytest.raises(InputError, match="experts_implementation"):
        step("dbrx", tmp_path, experts_implementation="eager")
