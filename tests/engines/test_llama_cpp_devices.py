"""llama.cpp over several devices, against workers of the engine's RPC backend."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cases.llama_cpp_devices import predicted
from tests.cases.llama_cpp_runs import device_runs


def differing(run: dict[str, Any], folder: Path) -> str:
    """What differs between a run's buffers and their prediction; empty where nothing does."""
    found = predicted(run, folder)
    return "" if found == run["buffers"] else f"{run}: predicted {found}"


@pytest.mark.share(3)
@pytest.mark.parametrize("number", range(len(device_runs())))
def test_every_buffer_of_every_device(number: int, tmp_path: Path) -> None:
    """Witness: recorded runs of the engine over one, two and three workers."""
    assert not differing(device_runs()[number], tmp_path)


@pytest.mark.share(3)
@pytest.mark.extra("engine")
@pytest.mark.parametrize("count", [4, pytest.param(200, marks=pytest.mark.witness)])
def test_other_runs(count: int, tmp_path: Path) -> None:
    """Witness: the engine. A worker that fails ends the engine's process, so it is asked in one of its own."""
    command = [sys.executable, "-m", "tests.cases.llama_cpp_devices", str(count), f"seed {count}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == count
    found = list(filter(None, (differing(run, tmp_path) for run in runs)))
    assert not found, "\n".join([f"{len(found)} of {count} runs", *found])
