"""Answers of these groups are those that were recorded (``tests/helpers/recorded_answers.py``)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cases.recorded_bytes import groups, table
from tests.helpers.recorded_answers import EVERY, assert_recorded, parts


@pytest.mark.consistency
@pytest.mark.parametrize(("group", "start"), parts("published"))
def test_bytes_are_those_recorded(group: str, start: int, tmp_path: Path) -> None:
    """Witness: the tables, of what this project itself answered before."""
    assert_recorded(group, start, tmp_path)


def test_every_group_is_asked() -> None:
    """Each group has rows, and is asked in one folder."""
    listed = [
        name
        for path in Path(__file__).parents[1].glob("*/test_recorded_bytes.py")
        for call in re.findall(r"parts\((\"[^)]*)\)", path.read_text(encoding="utf-8"))
        for name in re.findall(r'"(\w+)"', call)
    ]
    assert sorted(listed) == groups()
    assert set(EVERY) <= set(groups())
    assert all(len(table(group)) > 12 for group in groups())
