"""The bytes that are answered now, compared with those that were recorded (``tests/cases/recorded_bytes.py``).

Of each group one in n questions is asked, other ones with each commit.
``RECORDED=all pytest tests/witnesses/test_recorded_bytes.py`` asks all of them, in some four minutes. A change that
means to change bytes writes the tables anew: ``python -m tests.cases.recorded_bytes``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from estimator.errors import InputError
from tests.cases.recorded_bytes import Row, answered, differences, groups, table
from tests.helpers.shares import in_turn, turn

EVERY = {
    "steps_gpu": 71,
    "topics_gpu": 71,
    "compositions": 61,
    "optimizers": 31,
    "savings": 61,
    "real": 47,
    "devices": 71,
    "published": 199,
    "formulas": 31,
    "llama_cpp": 31,
}
"""Odd, as settings alternate in most of the tables."""
CHUNK = 60
"""Questions of a test."""


def asked(group: str) -> Sequence[Row]:
    """The questions of a group that are asked."""
    return in_turn(table(group), 1 if os.environ.get("RECORDED") == "all" else EVERY.get(group, 7), turn())


@pytest.mark.consistency
@pytest.mark.parametrize(
    ("group", "start"), [(group, start) for group in groups() for start in range(0, len(asked(group)), CHUNK)]
)
def test_bytes_are_those_recorded(group: str, start: int, tmp_path: Path) -> None:
    """Witness: the tables, of what this project itself answered before."""
    found: list[str] = []
    for number, row in enumerate(asked(group)[start : start + CHUNK]):
        try:
            found += differences(row, answered(row.asked, tmp_path / str(number)))
        except InputError as error:
            found.append(f"{row.name}: was answered, is refused: {error}")
    assert not found, "\n".join([f"{len(found)} figures differ from those recorded", *found])


def test_every_group_is_recorded() -> None:
    """What is asked in part is there."""
    assert set(EVERY) <= set(groups())
    assert all(len(table(group)) > 50 for group in groups())
