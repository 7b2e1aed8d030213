"""Methods, savings, optimizers and precisions together: 200 random plans, and 30 of them measured.

What does not go together is refused with a line; what is left has to be answered, and rightly.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.measure import run_step
from tests.cases.random_plans import random_plans
from tests.cases.small_models import write_config
from tests.helpers.measured_steps import assert_near

MEASURED = 30
SEED = 3


def valid_plans(folder: Path, count: int, seed: int) -> Iterator[tuple[dict[str, Any], Plan, Result]]:
    """Plans that are not refused. A refusal is one line that says something."""
    refusals: list[str] = []
    for number, (config, keys) in enumerate(random_plans(seed)):
        model = write_config(folder / str(number), config)
        try:
            plan = parse_plan({"model": model, **keys})
            result = estimate(plan)
        except InputError as error:
            refusals.append(str(error))
            continue
        yield config, plan, result
        count -= 1
        if not count:
            break
    assert all(20 < len(text) < 500 and "\n" not in text for text in refusals)


@pytest.mark.share(4)
@pytest.mark.consistency
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.witness)])
def test_compositions(count: int, tmp_path: Path) -> None:
    """Asks the contract: sums hold, nothing is negative, and more tokens never need less."""
    methods = set()
    for _, plan, result in valid_plans(tmp_path, count, SEED):
        methods.add(plan.method.name)
        sizes = result.bytes
        assert all(isinstance(size, int) and size >= 0 for size in sizes.values())
        assert sizes["resident"] == sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
        assert sizes["peak"] == sizes["resident"] + sizes["peak_above_resident"]
        assert sizes["adapters"] <= sizes["parameters"]
        assert result.moments[result.peak_at] == sizes["peak_above_resident"] == max(result.moments.values())
        for key in ("batch", "seq"):
            more = estimate(plan.model_copy(update={key: getattr(plan, key) + 1})).bytes
            assert more["saved"] >= sizes["saved"], (plan, key)
            assert more["peak"] >= sizes["peak"], (plan, key)
            assert more["resident"] == sizes["resident"]
    assert len(methods) > len(METHODS) // 2


@pytest.mark.share(12)
@pytest.mark.extra("quantised")
@pytest.mark.parametrize("number", range(MEASURED))
def test_measured(number: int, tmp_path: Path) -> None:
    """Witness: measurement. The peak within 0.5 %, and what is held exactly."""
    ((_, plan, result),) = valid_plans(tmp_path, 1, 1000 + number)
    assert_near(result, run_step(resolve(plan)))
