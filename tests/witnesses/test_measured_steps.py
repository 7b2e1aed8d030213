"""Formula against measurement: a real step on PyTorch's CPU allocator, for every measured case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cases.tables import MEASURED
from tests.helpers.measured_steps import assert_step

CASES = [
    pytest.param(
        *(config, plan),
        id=f"{subject}-{name}",
        marks=pytest.mark.extra("quantised" if subject == "quantised_bases" else "trace"),
    )
    for subject, table in MEASURED.items()
    for name, config, plan in table
]


@pytest.mark.share(36)
@pytest.mark.parametrize(("config", "plan"), CASES)
def test_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_step(config, plan, tmp_path)
