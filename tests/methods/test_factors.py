"""Methods that factor a weight: how, by PEFT's own function; ``cases/factors_and_rotations.py`` has measured steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.methods.lokr import factorization
from tests.cases.small_models import TINY, write_config


@pytest.mark.extra("trace")
@pytest.mark.parametrize("factor", [-1, 1, 4, 7, 16, 1000])
def test_factors_of_a_dimension(factor: int) -> None:
    """Witness: PEFT."""
    from peft.tuners.lokr import layer

    for dimension in (1, 2, 7, 16, 36, 97, 100, 576, 4096, 11008):
        assert factorization(dimension, factor) == layer.factorization(dimension, factor)


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_rows_are_dropped_where_it_is_asked(name: str, tmp_path: Path) -> None:
    """A mask of rows, and what it is multiplied with, are saved then alone."""
    keys: dict[str, Any] = {"model": write_config(tmp_path, TINY), "batch": 2, "seq": 9, "dtype": "float32"}
    plain, dropped = (
        estimate(keys, method={"name": name, "r": 4, "rank_dropout": share}).bytes["saved"] for share in (0.0, 0.3)
    )
    assert plain < dropped
