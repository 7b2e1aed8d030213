"""The log of allocations with every pass of its loops, put together from one pass, is that of a run of all passes.

Our code is asked twice, so this shows consistency, but for the loops that are written by hand.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estimator.engines.replay import Batch, Timeline
from estimator.engines.torch_cuda import passes, process
from estimator.engines.torch_cuda.passes import Passes
from estimator.engines.torch_cuda.process import Logs, log_step, replay
from estimator.ledger import Events, Ledger
from estimator.ledger.sizes import symbol
from estimator.operators import CPU
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.steps.expansion import NotPeriodic
from tests.helpers.logs import entries
from tests.programs.test_loops import CONFIG

STEPS: list[dict[str, Any]] = [
    {"method": {"name": "lora", "target_modules": "all-linear", "r": 3}},
    {"method": "full", "checkpointing": "layer"},
    {"method": "lora", "checkpointing": "layer", "use_reentrant": True},
    {"method": "lora", "saved_activations": "int8"},
    {"method": {"name": "prompt_tuning", "num_virtual_tokens": 20}},
    {"method": "full", "optimizer": "lomo"},
    {"task": "infer"},
]
SHAPES = ((1, 128), (1, 385), (2, 448), (2, 512), (2, 576), (1, 620), (2, 2000), (2, 64 * 64))
"""From no pass that stands for another one to many; whole chunks of 64 tokens, and others."""


@pytest.fixture
def job(tmp_path: Path, request: pytest.FixtureRequest) -> Resolved:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return resolve(parse_plan({"model": str(path), "device": "rtx-4090", **request.param}))


@pytest.mark.consistency
@pytest.mark.parametrize("job", STEPS[1:2], indirect=True, ids=str)
def test_what_stands_for_many_is_played_as_by_calls(job: Resolved) -> None:
    """Witness: the same process with a timeline, where each allocation is a call."""
    logs, batches = Logs(), [Batch(2, 64 * 10, True), Batch(2, 64 * 80, False)]
    used = replay(job, batches, logs=logs)
    assert logs.passes(job, batches) > 60
    assert replay(job, batches, timeline=Timeline()) == used


@pytest.mark.consistency
@pytest.mark.share(8)
@pytest.mark.parametrize("job", STEPS, indirect=True, ids=str)
def test_a_log_is_that_of_all_passes(job: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether sizes are symbols or numbers."""
    logs = Logs()
    found = {shape: (logs.of(job, *shape), log_step(job, *shape)) for shape in SHAPES}

    def not_alike(*args: Any) -> None:
        raise NotPeriodic

    monkeypatch.setattr(Passes, "_check", not_alike)
    for shape, logged in found.items():
        whole = log_step(job, *shape)
        for log in logged:
            assert entries(log) == entries(whole), shape
            assert replace(log, events=whole.events, passes=whole.passes) == whole


@pytest.mark.consistency
@pytest.mark.parametrize("job", [STEPS[0], STEPS[-1]], indirect=True, ids=str)
def test_lengths_with_the_same_formulas_run_a_step_once(job: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(
        process, "run", lambda *args, run=process.run, **keys: (runs.append(args[3:]), run(*args, **keys))
    )
    logs = Logs()
    lengths = (64 * 20, 64 * 30, 64 * 20 + 1, 2000, 5000)
    assert len({sum(logs.of(job, 2, seq).events.sizes) for seq in lengths}) == len(lengths)
    assert len(runs) == len({*runs}) <= 4  # an outline, and the layers where that is none


class ByHand:
    """A log of a loop whose passes hand a tensor on, and keep one until backward."""

    def __init__(self, wrong: str = "") -> None:
        self.events, self.ledger = Events(outlines_loops=True), Ledger(CPU)
        state, kept = self.made(0, 4), []
        for place, count in ((-1, 1), (0, symbol("C")), (1, 1)):
            turn = self.events.turn_of(place, count)
            before, state = state, self.made(turn, 4)
            self.freed(turn, before)
            kept.append((turn, self.made(turn, 8 if place or wrong != "size" else 9)))
            if place == 0 and wrong == "mark":
                self.events.mark("forward")
            self.freed(turn, self.made(turn, 2))
        self.freed(0, self.made(0, 1))
        for turn, one in reversed(kept):
            self.freed(0 if turn == 4 and wrong == "outside" else turn, one)
        self.freed(0, state)

    def made(self, turn: int, nbytes: int) -> int:
        self.ledger.turn = turn
        return self.events.allocated(nbytes, self.ledger)

    def freed(self, turn: int, number: int) -> None:
        self.ledger.turn = turn
        self.events.freed(number, self.ledger)


def test_passes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four passes: each frees the state before it, and backward what it kept, the last one first."""
    log = Passes(ByHand().events).at({"C": 2})
    assert [log.sizes[entry] for entry in log.order if entry >= 0] == [4] + [4, 8, 2] * 4 + [1]
    assert [log.sizes[~entry] for entry in log.order if entry < 0] == [4, 2] * 4 + [1] + [8] * 4 + [4]
    kept = [entry for entry in log.order if entry >= 0 and log.sizes[entry] == 8]
    assert [~entry for entry in log.order if entry < 0 and log.sizes[~entry] == 8] == kept[::-1]
    assert len({*log.order}) == len(log.order)
    assert (log.copies, log.most_copies) == ({}, 1)
    monkeypatch.setattr(passes, "MOST_PASSES", 6)
    log = Passes(ByHand().events).at({"C": 7})
    assert sorted(log.copies.values()) == [7]  # of what a pass keeps; its state is freed by the pass behind it
    assert [log.sizes[number] for number in log.copies] == [8]
    assert (log.order, log.most_copies) == (ByHand().events.order, 7)


@pytest.mark.parametrize("wrong", ["size", "mark", "outside"])
def test_passes_that_are_not_alike(wrong: str) -> None:
    with pytest.raises(NotPeriodic):
        Passes(ByHand(wrong).events)
