"""Sharded steps against ``fully_shard``, of which one process runs the first rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import to_result
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs import Sharding
from estimator.steps.step import run
from estimator.witnesses.measure import run_step
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import TOLERANCE, assert_measured

TINY = {"batch": 1, "seq": 2, "dtype": "float32"}
"""So few tokens that the peak is where parameters are gathered or gradients reduced."""
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "one rank": ({"vocab_size": 100}, TINY, 1),
    "two": ({"vocab_size": 100, "tie_word_embeddings": True}, TINY, 2),
    "rows that ranks do not divide": ({"vocab_size": 100}, TINY, 7),
    "fewer rows than ranks": ({"vocab_size": 100}, {**TINY, "dtype": "bfloat16"}, 160),
    "activations": ({"vocab_size": 3000}, {"batch": 2, "seq": 33, "dtype": "float32"}, 3),
    "biases": ({"model_type": "qwen2", "vocab_size": 100}, {**TINY, "seq": 8}, 5),
}


@pytest.mark.parametrize("name", CASES)
def test_fsdp2(name: str, tmp_path: Path) -> None:
    """Witness: measurement. Of seven equal layers four are run, and gathers of the others are counted."""
    config, keys, world = CASES[name]
    plan = parse_plan({"model": write_config(tmp_path, {"num_hidden_layers": 7, **config}), **keys})
    resolved = resolve(plan)
    resolved = replace(resolved, step=replace(resolved.step, sharding=Sharding("fsdp2", world)))
    totals = run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    assert_measured(plan, to_result(resolved, totals), run_step(resolved), tolerance=TOLERANCE)
