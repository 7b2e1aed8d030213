"""What is not answered: one line that says what is wrong and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from tests.cases.small_models import write_config

LONGEST = 500
"""Characters of a line that a person still reads."""


def assert_one_line(text: str) -> None:
    """A message is one readable line: no line break, no escape sequence."""
    assert 0 < len(text) < LONGEST
    assert text.isprintable()


def assert_refused(keys: dict[str, Any], says: str, folder: Path, config: dict[str, Any] | None = None) -> None:
    """A plan is refused with a line that holds ``says``. Without a model it is of a small one, made of ``config``."""
    model = {} if "model" in keys else {"model": write_config(folder / "model", config or {})}
    with pytest.raises(InputError) as caught:
        estimate({**model, **keys})
    assert says in str(caught.value)
    assert_one_line(str(caught.value))
