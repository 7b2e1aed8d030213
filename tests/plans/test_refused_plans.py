"""Plans that are refused: what does not go together, or has no rule. ``test_wrong_plans.py`` has what is no plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cases.tables import REFUSED
from tests.helpers.refusals import assert_refused

TRACED = ("psoft", {"name": "vblora"})
"""Methods of PEFT's without rules, whose plans are read where it is installed."""
CASES = [
    pytest.param(
        *row, id=f"{subject}-{row[2]}-{i}", marks=[pytest.mark.extra("trace")] * (row[1].get("method") in TRACED)
    )
    for subject, table in REFUSED.items()
    for i, row in enumerate(table)
]


@pytest.mark.parametrize(("config", "keys", "says"), CASES)
def test_refused(config: dict[str, Any], keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Asks the contract: one line that says what is wrong and how to mend it."""
    assert_refused(keys, says, tmp_path, config)
