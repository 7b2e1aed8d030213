"""What a run with symbols gives for a shape is what a run with that shape's numbers gives.

Our code is asked twice, so this shows consistency.
"""

from __future__ import annotations

from typing import Any

import pytest

from estimator.engines.shapes import Shapes, totals_of
from estimator.engines.torch_cuda.process import Logs, log_step
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.steps.step import run
from tests.helpers.logs import entries

MODEL = {"model": "llama-3.2-1b", "device": "rtx-4090"}
SHAPES = ((1, 63, 8), (1, 1000, 8), (1, 896, 24), (3, 64, 24), (2, 4097, 1))
"""Batch, sequence, rank."""


def job(keys: dict[str, Any], batch: int, seq: int, rank: int) -> Resolved:
    return resolve(parse_plan({"method": {"name": "lora", "r": rank}, **MODEL, **keys, "batch": batch, "seq": seq}))


@pytest.mark.consistency
@pytest.mark.share(3)
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"device": None},
        {"method": "full", "gradient_accumulation_steps": 2},
        {"checkpointing": "layer"},
        {"checkpointing": "offloaded"},
        {"attention": "eager", "attention_mask": True},
        {"dtype": "nf4", "optimizer": "adamw-8bit"},
        {"loss": "chunked"},
        {"saved_activations": "int8"},
        {"model": "qwen3.5-27b", "method": {"name": "lora", "target_modules": ["q_proj"]}, "device": None},
        {"device": None, "method": "full", "sharding": {"name": "zero2", "world_size": 4}},
        {"sharding": {"name": "fsdp2", "world_size": 4}},
    ],
    ids=str,
)
def test_totals(keys: dict[str, Any]) -> None:
    totals = Shapes(totals_of)
    for shape in SHAPES:
        one = job(keys, *shape)
        found = totals.of(one, *shape[:2])
        expected = run(one.step, one.sizes(), one.method, *shape[:2])
        found.rows = found.saved_by = expected.rows = expected.saved_by = []
        assert found == expected, shape
        assert [*found.moments] == [*expected.moments], shape


@pytest.mark.consistency
@pytest.mark.parametrize("keys", [{}, {"dtype": "nf4", "checkpointing": "layer"}], ids=str)
def test_logs_of_several_ranks(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rank is a symbol, and so are those that follow."""
    logs = Logs()
    for shape in SHAPES:
        one = job(keys, *shape)
        found, expected = logs.of(one, *shape[:2]), log_step(one, *shape[:2])
        for name in ("base", "added", "buffers", "states"):
            assert getattr(found, name) == getattr(expected, name), (shape, name)
        assert entries(found) == entries(expected)
    runs: list[object] = []
    monkeypatch.setattr(Logs, "_made", lambda *args: runs.append(args))
    logs.of(job(keys, 1, 2000, 48), 1, 2000)
    assert not runs


@pytest.mark.consistency
def test_one_log_has_sums_with_and_without_a_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA sum over many rows has a workspace. The batches of an estimate differ in that."""
    one = job({"model": "llama-3.1-8b", "method": "full", "device": "h100-80gb"}, 1, 2048, 8)
    expected = [log_step(one, 1, seq) for seq in (256, 2048)]
    runs: list[Any] = []
    made = Logs._made
    monkeypatch.setattr(Logs, "_made", lambda *args: (runs.append(args), made(*args))[1])
    logs = Logs()
    for seq, log in zip((256, 2048), expected, strict=True):
        assert entries(logs.of(one, 1, seq)) == entries(log)
    assert len(runs) == 1
    assert len(expected[0].events.sizes) < len(expected[1].events.sizes)


@pytest.mark.consistency
def test_a_bound_stands_for_no_number() -> None:
    """Of pinned blocks a formula has none, so each shape is run."""
    runs = []

    def made(one: Resolved, batch: Any, seq: Any) -> Any:
        runs.append((batch, seq))
        return totals_of(one, batch, seq)

    totals = Shapes(made)
    for seq in (512, 1024):
        totals.of(job({"checkpointing": "offloaded"}, 1, seq, 8), 1, seq)
    assert (1, 1024) in runs
