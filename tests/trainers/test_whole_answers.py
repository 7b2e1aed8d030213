"""What readers make of every key, of shell lines and of changes is what was recorded, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.whole_training_files import GROUPS
from tests.helpers.whole_answers import assert_recorded


@pytest.mark.consistency
@pytest.mark.parametrize("group", GROUPS)
def test_whole_readings_are_those_recorded(group: str, tmp_path: Path) -> None:
    """Witness: the tables, of what this project itself answered before."""
    assert_recorded(group, GROUPS[group](tmp_path / "files"))
