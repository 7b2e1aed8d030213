"""Answers of these groups are those that were recorded (``tests/helpers/recorded_answers.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.recorded_answers import assert_recorded, parts


@pytest.mark.consistency
@pytest.mark.parametrize(
    ("group", "start"),
    parts("chosen_steps", "calls", "corners", "litgpt", "optimizers", "savings", "several_gpus", "steps", "trainers"),
)
def test_bytes_are_those_recorded(group: str, start: int, tmp_path: Path) -> None:
    """Witness: the tables, of what this project itself answered before."""
    assert_recorded(group, start, tmp_path)
