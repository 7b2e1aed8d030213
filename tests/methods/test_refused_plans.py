"""Plans that the rules of this folder refuse: what does not go together, or has no rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.refusals import assert_refused, refused_by


@pytest.mark.parametrize(("config", "keys", "says"), refused_by("methods"))
def test_refused(config: dict[str, Any], keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Asks the contract: one line that says what is wrong and how to mend it."""
    assert_refused(keys, says, tmp_path, config)
