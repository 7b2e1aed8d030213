"""Which batches and sequences are traced in a regime, and what a measurement is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers import measurement
from estimator.answers.formulas import Regime
from estimator.answers.validation import _grid, validate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.small_models import TINY, write_config


def test_points_are_of_their_regime() -> None:
    """By hand: three lengths on the right side of the window, and one more point for the polynomial's degree."""
    assert _grid(Regime()) == ([2, 3], [2, 21, 59], (5, 40))
    assert _grid(Regime(window=16, window_reached=True)) == ([2, 3], [16, 35, 73], (5, 54))
    assert _grid(Regime(window=1, window_reached=True)) == ([2, 3], [2, 21, 59], (5, 40))
    assert _grid(Regime(window=16, window_reached=False)) == ([2, 3], [2, 6, 15], (5, 10))
    assert _grid(Regime(window=6, window_reached=False)) == ([2, 3], [2, 3, 5], (5, 4))
    assert _grid(Regime(batch_one=True, seq_one=True)) == ([1], [1], None)
    with pytest.raises(InputError, match="a window of at least 6"):
        _grid(Regime(window=5, window_reached=False))


def test_a_measured_process_has_a_fixed_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the allocator's default is asked for, in which the resident set depends on what was freed before."""
    asked: list[Any] = []
    monkeypatch.setattr(measurement, "measured", lambda plan, default_malloc: asked.append(default_malloc))
    plan = parse_plan({"model": "smollm2-135m", "seq": 8})
    record = measurement.measure(plan)
    measurement.measure(plan, default_malloc=True)
    assert asked == [False, True]
    assert record["plan"] == plan.model_dump(exclude_none=True)
    assert record["predicted"]["bytes"]["peak"] > 0


@pytest.mark.share(3)
@pytest.mark.parametrize(
    "keys",
    [
        {"sharding": {"name": "fsdp2", "world_size": 4}},
        {"sharding": {"name": "fsdp2", "world_size": 3, "param_dtype": "bfloat16"}, "method": "lora"},
        {"sharding": {"name": "hsdp", "world_size": 4, "replicate": 2, "groups": "accelerate"}},
    ],
    ids=("full", "lora-cast", "replicas"),
)
def test_a_rank_of_fsdp2(keys: dict[str, Any], tmp_path: Path) -> None:
    """The witness is ``fully_shard`` of the real module, whose gathered parameters are not counted as saved."""
    plan = parse_plan({"model": write_config(tmp_path, TINY), "dtype": "float32", **keys})
    found = validate(plan, chosen=[Regime()])
    assert found.equal, (found.counts, found.regimes)
    assert (
        found.counts[0].trace < validate(plan.model_copy(update={"sharding": None}), chosen=[Regime()]).counts[0].trace
    )
