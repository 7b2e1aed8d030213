"""``estimator timeline`` and ``--phases``: the numbers are the estimate's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator import estimate
from estimator.engines.replay import Timeline
from estimator.engines.torch_cuda.process import Process
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.helpers.drawings import pixels

MODEL = "smollm2-135m"


@pytest.mark.parametrize("keys", [{}, {"method": "full", "checkpointing": "layer"}, {"task": "infer"}], ids=str)
def test_phases(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the answer's own peaks, and a process that is watched after every allocation."""
    plan = parse_plan({"model": MODEL, "method": "lora", "device": "rtx-4060", "seq": 300, **keys})
    result = estimate(plan)
    phases = {phase.name: phase for phase in result.phases}
    parts = ["forward"] if plan.task == "infer" else ["forward", "backward", "optimizer step"]
    assert list(phases) == ["after load", *parts, "after step"]
    assert max(phases[part].allocated for part in parts) == result.bytes["allocated_peak"]
    assert max(phases[part].reserved for part in parts) == result.bytes["reserved_peak"]
    assert phases["after load"].allocated >= result.bytes["parameters"] + result.bytes["buffers"]
    assert phases["after step"].allocated <= phases[parts[-1]].allocated
    assert result.to_dict()["phases"][0]["name"] == "after load"
    timeline = Timeline()
    process = Process(resolve(plan), timeline=timeline)
    for batch in plan.engine.batches(plan):
        process.step(batch.rows, batch.seq, batch.empty_cache)
    starts = [(at, part) for at, part in timeline.parts if part == "forward"]
    at = starts[-1][0]
    end = next(stop for stop, part in timeline.parts if stop > at and part != "forward")
    live = np.array(timeline.live).sum(axis=1)
    assert max(live[at - 1 : end]) == phases["forward"].allocated
    arguments = ["estimate", MODEL, "--method", "lora", "--device", "rtx-4060", "--phases"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("after load", "optimizer step", "after step"))
    assert main(["estimate", MODEL, "--phases"]) == 2


def test_timeline_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figure is drawn, the numbers are the estimate's."""
    path = tmp_path / "timeline.png"
    command = ["timeline", MODEL, "--method", "lora", "--seq", "256", "--device", "rtx-4060"]
    assert main([*command, "--output", str(path)]) == 0
    assert "Allocated peak" in capsys.readouterr().out
    drawn = pixels(path)
    height, width, _ = drawn.shape
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50
    for part in (drawn[: height // 5], drawn[:, : width // 2], drawn[:, width // 2 :]):  # heading, both steps
        assert (part.min(axis=2) < 230).mean() > 0.005
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = estimate(model=MODEL, method="lora", seq=256, device="rtx-4060").bytes
    assert record["allocated_peak"] == max(map(sum, record["live_bytes"])) == found["allocated_peak"]
    assert record["reserved_peak"] == max(record["reserved_bytes"]) == found["reserved_peak"]
    assert record["out_of_memory"] is None
    short = ["timeline", MODEL, "--runtime", "torch-cuda", "--seq", "2048", "--budget", "1GiB"]
    assert main([*short, "--output", str(path)]) == 1
    assert "Out of memory in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "set runtime: torch-cuda"),
        (["--runtime", "torch-cuda", "--output", "t.gif"], ".png"),
        (["--device", "rtx-4091"], "rtx-4090"),
        (["--runtime", "torch-cuda", "--budget", "8"], "unit"),
        (["--runtime", "torch-cuda", "--lengths", "none.jsonl"], "none.jsonl"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wrong, exit status 2."""
    assert main(["timeline", MODEL, *arguments]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
    assert says in captured.err
