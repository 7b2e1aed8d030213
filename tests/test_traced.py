"""PEFT methods without rules: the traced step against the measured one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.adapters.traced import installed_methods
from estimator.errors import InputError
from estimator.estimate import estimate, resolve
from estimator.measure import run_step
from estimator.methods import METHODS
from estimator.plan import parse_plan
from estimator.trace import trace_step

from .cases import write_config

CANDIDATES: list[dict[str, Any]] = [
    {"name": "hra", "r": 4, "target_modules": ["q_proj", "down_proj"]},
    {"name": "adaption_prompt", "adapter_len": 4, "adapter_layers": 2},
    {"name": "gralora", "r": 8, "target_modules": ["q_proj", "o_proj"]},
    {"name": "beft"},
    {"name": "road"},
]
TRACED = [block for block in CANDIDATES if block["name"] in installed_methods() - METHODS.keys()]


@pytest.mark.parametrize("block", TRACED, ids=lambda block: block["name"])
def test_step(block: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement. What is held exactly, the peak within 0.5 %."""
    model = write_config(tmp_path / "model", {"hidden_size": 96})
    plan = parse_plan({"model": model, "batch": 2, "seq": 40, "dtype": "float32", "method": block})
    result, measured = estimate(plan), run_step(resolve(plan))
    for key in ("parameters", "buffers", "gradients", "optimizer", "saved"):
        assert result.bytes[key] == measured[key], key
    assert result.bytes["peak_above_resident"] == pytest.approx(measured["peak_above_resident"], rel=0.005)
    assert "has no rules here" in result.warnings[-1]


def test_something_is_traced() -> None:
    assert len(TRACED) >= 2


@pytest.mark.parametrize("method", [{"name": "full"}, {"name": "lora", "r": 3, "target_modules": "all-linear"}])
def test_the_trace_of_a_step_is_the_rules_step(method: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the trace of forward, backward and optimizer, beside rules that measurement has proved."""
    model = write_config(tmp_path / "model", {})
    plan = parse_plan({"model": model, "batch": 2, "seq": 40, "dtype": "float32", "method": method})
    traced, result = trace_step(resolve(plan)), estimate(plan)
    for key in ("parameters", "adapters", "buffers", "gradients", "optimizer", "saved"):
        assert getattr(traced, key) == result.bytes[key], key
    peak = max(value for (value,) in traced.moments.values())
    assert peak == pytest.approx(result.bytes["peak_above_resident"], rel=0.005)


def test_an_option_that_peft_does_not_have(tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {})
    with pytest.raises(InputError, match="PEFT refuses method"):
        estimate(model=model, seq=8, method={**TRACED[0], "no_such_option": 1})
