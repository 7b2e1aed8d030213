"""A fresh process: what it is started with, and what is said where it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import estimator
from estimator.errors import InputError
from estimator.io import fresh


def test_how_a_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative folders of PYTHONPATH are left out: an empty one is the current folder."""
    asked: dict[str, Any] = {}

    def run(command: list[str], **keywords: Any) -> subprocess.CompletedProcess[str]:
        asked.update(keywords, command=command)
        if keywords["timeout"] == 2.5:
            raise subprocess.TimeoutExpired(command, 2.5)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/a", "", "b", "/c"]))
    fresh.run("show.captured", {"a": [1]}, {"OWN": "x"})
    assert asked["command"][:3] == [sys.executable, "-P", "-c"]
    assert asked["command"][4:] == [str(Path(estimator.__file__).parent.parent), "estimator.show.captured"]
    assert (asked["input"], asked["text"], asked["capture_output"], asked["timeout"]) == (
        '{"a": [1]}',
        True,
        True,
        None,
    )
    assert (asked["env"]["OWN"], asked["env"]["PYTHONPATH"]) == ("x", os.pathsep.join(["/a", "/c"]))
    monkeypatch.delenv("PYTHONPATH")
    fresh.run("x", 1)
    assert "PYTHONPATH" not in asked["env"]
    with pytest.raises(InputError, match=r"^the process did not end within 2\.5 seconds; ask for less$"):
        fresh.run("x", 1, timeout=2.5)


@pytest.mark.parametrize(
    ("written", "said"), [("one\ntwo\n\n", "two"), ("  \n", "exit status 3"), ("", "exit status 3"), ("x", "x")]
)
def test_why_a_process_failed(written: str, said: str) -> None:
    """The last line on standard error, else the status."""
    assert fresh.reason(subprocess.CompletedProcess(["x"], 3, "", written)) == said
