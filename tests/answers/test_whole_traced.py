"""Comparisons with a trace, and what the callback asks and writes, are those recorded, part by part."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.whole_traced import GROUPS
from tests.helpers.whole_answers import assert_recorded


@pytest.mark.consistency
@pytest.mark.parametrize("group", GROUPS)
def test_whole_answers_are_those_recorded(group: str, tmp_path: Path) -> None:
    """Witness: the table, of what this project itself answered before."""
    assert_recorded(group, GROUPS[group](tmp_path))
