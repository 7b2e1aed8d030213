"""Constants, tables and defaults of this folder are those recorded."""

from __future__ import annotations

import pytest

from tests.cases.whole_modules import questions
from tests.helpers.whole_answers import assert_recorded

pytest.importorskip("mcp")


def test_constants_are_those_recorded() -> None:
    """Witness: what was recorded. A number and its source are compared where its rule is tested."""
    assert_recorded("modules_show", questions("show"))
