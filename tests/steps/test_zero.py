"""DeepSpeed's ZeRO: the ledger against steps that DeepSpeed itself ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import run
from tests.cases.small_models import write_config
from tests.cases.zero_steps import CASES, QUANTITIES, RECORD
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import TOLERANCE

MEASURED = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]


@pytest.mark.share(4)
@pytest.mark.parametrize(("name", "config", "plan"), CASES, ids=[name for name, *_ in CASES])
def test_step(name: str, config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: a recorded measurement (``tests/cases/zero_steps.py``), of the largest of the ranks that were asked."""
    resolved = resolve(parse_plan({"model": write_config(tmp_path / "model", config), **plan}))
    totals = run(resolved.step, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq)
    predicted: dict[str, Any] = {quantity: getattr(totals, quantity) for quantity in QUANTITIES}
    predicted["peak_above_resident"] = max(max(peaks) for peaks in totals.moments.values())
    witness = {key: value for key, value in MEASURED[name].items() if key != "rank"}
    assert_figures(predicted, witness, {"peak_above_resident": TOLERANCE})


@pytest.mark.consistency
def test_auto_is_what_transformers_takes(tmp_path: Path) -> None:
    """Witness: ``integrations/deepspeed.py``: the square of the hidden size."""
    model = write_config(tmp_path / "model", {"hidden_size": 48, "num_attention_heads": 4})
    block = {"name": "zero2", "world_size": 2}
    steps = [
        resolve(parse_plan({"model": model, "sharding": {**block, "reduce_bucket_size": size}})).step
        for size in ("auto", 48 * 48)
    ]
    assert steps[0] == steps[1]


@pytest.mark.consistency
def test_a_million_ranks_take_no_longer() -> None:
    """Ranks with the same parameters are one."""
    plan = parse_plan({"model": "smollm2-135m", "seq": 64, "sharding": {"name": "zero2", "world_size": 10**6}})
    resolved = resolve(plan)
    totals = run(resolved.step, resolved.sizes(), resolved.method, 1, 64)
    assert 0 <= totals.rank < 10**6
