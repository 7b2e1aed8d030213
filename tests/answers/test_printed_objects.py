"""Every figure and word of the objects that answers are, compared with what is recorded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases.printed import desk, recorded
from tests.cases.printed_lines import GROUPS, SLOW
from tests.helpers.printed import assert_printed


@pytest.fixture(scope="module", autouse=True)
def _desk() -> Iterator[None]:
    with desk():
        yield


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[pytest.mark.share(3)] * (line.partition(" ")[0] in SLOW)) for line in GROUPS["objects"]],
)
def test_object_is_that_recorded(line: str) -> None:
    """Witness: what was answered before. The numbers in it have other witnesses."""
    assert_printed("objects", line)


def test_every_record_is_asked() -> None:
    assert tuple(recorded("objects")) == GROUPS["objects"]
