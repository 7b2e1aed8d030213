"""Sizes rounded up to whole groups, as numbers, symbols and SymPy expressions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.export.algebra import to_sympy
from estimator.export.formula import formula
from estimator.ledger.sizes import Poly, ceiling, symbol
from estimator.plans.plan import parse_plan
from tests.cases.small_models import write_config

INT8 = {"saved_activations": "int8"}


def test_rounding_up() -> None:
    b, s = symbol("B"), symbol("S")
    assert ceiling(129, 64) == 3
    assert ceiling(128 * b * s, 64) == 2 * b * s
    size = ceiling(96 * b * s + 7, 64)
    assert isinstance(size, Poly)
    assert size == ceiling(96 * b * s + 7, 64)
    assert size.evaluate({"B": 3, "S": 5}) == size.substitute({"B": 3, "S": 5}) == 23
    assert list(size.evaluate({"B": 3, "S": np.array([1, 5])})) == [5, 23]


@pytest.mark.consistency
def test_formulas_in_whole_groups_as_sympy(tmp_path: Path) -> None:
    plan = parse_plan({"model": write_config(tmp_path, {}), "batch": 2, **INT8})
    expression = to_sympy(formula(compile_plan(plan), "saved"))
    for batch, seq in ((2, 33), (5, 7)):
        exact = estimate(plan.model_dump() | {"batch": batch, "seq": seq}).bytes["saved"]
        assert expression.subs({s: {"B": batch, "S": seq}[s.name] for s in expression.free_symbols}) == exact
