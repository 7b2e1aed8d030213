"""Which rank of a step under FSDP1 is answered for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from estimator.answers.estimate import estimate
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import run
from tests.cases.sharding import LAYERS, TINY
from tests.cases.sharding_fsdp1 import PEFT
from tests.cases.small_models import write_config

WORLD = 5


@pytest.mark.extra("trace")
@pytest.mark.parametrize("options", [{}, PEFT], ids=["layers", "adapters-apart"])
def test_largest_rank(options: dict[str, str], tmp_path: Path) -> None:
    """Witness: measurements of all ranks, of which the first with the most bytes is answered for."""
    from estimator.witnesses.measure import run_step

    lora = {"name": "lora", "target_modules": ["up_proj", "down_proj"]}
    sharding = {"name": "fsdp1", "world_size": WORLD, **options}
    plan = parse_plan({**TINY, "model": write_config(tmp_path / "model", LAYERS), "method": lora, "sharding": sharding})
    resolved = resolve(plan)
    measured = [run_step(resolved, rank=rank) for rank in range(WORLD)]
    states = [one["optimizer"] for one in measured]
    assert len(set(states)) > 1
    totals = run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    assert totals.rank == states.index(max(states))
    assert estimate(plan).bytes["optimizer"] == max(states)


def test_a_million_ranks_take_no_longer() -> None:
    """CPU time, against a world of two."""

    def seconds(world: int) -> float:
        sharding = {"name": "fsdp1", "world_size": world}
        plan = {"model": "llama-3.2-1b", "method": "lora", "dtype": "float32", "sharding": sharding}
        resolved = resolve(parse_plan(plan))
        start = time.process_time()
        run(resolved.step, resolved.sizes(), resolved.method, 1, 512)
        return time.process_time() - start

    seconds(2)
    assert seconds(10**6) < 2 * seconds(2) + 0.1
