"""Everything that commands print, compared with what is recorded: words, columns, signs, notes, refusals, statuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases.printed import desk, recorded
from tests.cases.printed_lines import GROUPS, SLOW
from tests.helpers.printed import assert_printed

LINES = [
    pytest.param(group, line, marks=[pytest.mark.share(3)] * (line.partition(" ")[0] in SLOW))
    for group in ("questions", "words")
    for line in GROUPS[group]
]


@pytest.fixture(scope="module", autouse=True)
def _desk() -> Iterator[None]:
    with desk():
        yield


@pytest.mark.parametrize(("group", "line"), LINES)
def test_output_is_that_recorded(group: str, line: str) -> None:
    """Witness: what was printed before, and read. The numbers in it have other witnesses."""
    assert_printed(group, line)


@pytest.mark.parametrize("group", ["questions", "words"])
def test_every_record_is_asked(group: str) -> None:
    assert tuple(recorded(group)) == GROUPS[group]
