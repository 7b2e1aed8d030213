"""Compiled formulas of plans of every kind, against the estimates that they are compiled from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases.kinds import Formulas
from tests.cases.small_models import write_config
from tests.cases.tables import FORMULAS
from tests.helpers.formulas import assert_formulas

CASES = {f"{subject}-{case.name}": case for subject, table in FORMULAS.items() for case in table}


@pytest.mark.share(16)
@pytest.mark.consistency
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_formulas_give_the_bytes_of_an_estimate(case: Formulas, tmp_path: Path) -> None:
    """Asks the formula itself: at every point, with batch and sequence as symbols and as numbers."""
    keys = {"model": write_config(tmp_path / "model", case.config), **case.keys}
    assert_formulas(keys, case.points, symbolic=case.symbolic, every=case.every)
