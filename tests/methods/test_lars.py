"""LARS: the rule against the reference module, trained for real on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.validation import validate
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.reference.libraries import torch
from estimator.witnesses.reference.model import build_model, build_optimizer
from tests.cases.small_models import write_config

LARS = {"name": "lars"}


@pytest.mark.share(12)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_coefficients(dtype: str, tmp_path: Path) -> None:
    """Witness: the trace of the reference module, for every batch and sequence."""
    model = write_config(tmp_path / "model", {})
    found = validate(parse_plan({"model": model, "dtype": dtype, "method": {**LARS, "r": 5}}))
    assert found.equal
    assert len(found.regimes) == 4


def test_it_trains(tmp_path: Path) -> None:
    """The reference module learns: a repeated batch's loss falls."""
    plan = parse_plan({"model": write_config(tmp_path / "model", {}), "dtype": "float32", "method": LARS, "seq": 16})
    resolved = resolve(plan)
    model = build_model(resolved)
    optimizer = build_optimizer(resolved, model)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    ids = torch.randint(0, 611, (1, 16))
    losses = []
    for _ in range(30):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.95 * losses[0]


def test_trainable_share_of_the_paper() -> None:
    """Witness: the two shares that the paper reports for Llama-3.2-1B, 0.67 % and 0.45 %."""
    lars = estimate(model="llama-3.2-1b", dtype="float32", method={"name": "lars", "r": 8})
    assert lars.trainable_parameters == 8_335_824
    assert round(100 * lars.trainable_parameters / lars.total_parameters, 2) == 0.67
    lora = estimate(model="llama-3.2-1b", method={"name": "lora", "r": 8, "target_modules": "all-linear"})
    assert round(100 * lora.trainable_parameters / lora.total_parameters, 2) == 0.45


@pytest.mark.share(6)
def test_what_grows_with_the_sequence_is_the_base_alone(tmp_path: Path) -> None:
    """Witness: the trace. A token costs the same saved bytes at every rank."""
    model = write_config(tmp_path / "model", {})
    per_token = []
    for r in (2, 64):
        found = validate(parse_plan({"model": model, "dtype": "float32", "method": {**LARS, "r": r}}))
        per_token.append({c.monomial: c.trace for c in found.regimes[0].coefficients if "S" in c.monomial})
    assert per_token[0] == per_token[1]
