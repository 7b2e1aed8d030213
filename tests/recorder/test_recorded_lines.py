"""Programs of small modules are, line by line, what they were when ``tests/data/recorded_lines.json`` was written.

Whether they are right is measured elsewhere. A change that means to record otherwise writes the file anew
(``python -m tests.cases.recorded_programs``).
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from tests.cases.recorded_programs import RECORD, cases, difference

WERE = json.loads(RECORD.read_text(encoding="utf-8"))
CASES = cases()


def test_each_case_is_recorded() -> None:
    assert list(WERE["lines"]) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_lines(name: str, tmp_path: Path, reference_threads: None) -> None:
    if (now := {package: version(package) for package in WERE["versions"]}) != WERE["versions"]:
        pytest.skip(f"recorded under {WERE['versions']}, and {now} are installed")
    assert difference(CASES[name](tmp_path), WERE["lines"][name]) == ""
