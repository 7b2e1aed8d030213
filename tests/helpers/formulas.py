"""Formulas held against the estimates that they are compiled from. This shows consistency, not truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimator.answers.estimate import estimate
from estimator.answers.formulas import compile_plan
from estimator.plans.plan import parse_plan
from tests.helpers.figures import assert_figures

Point = tuple[int, int]
"""A batch and a sequence length."""


def assert_formulas(keys: dict[str, Any], points: Sequence[Point], symbolic: bool = False, every: bool = False) -> None:
    """At each point, the formulas of a plan give the bytes of the plan's estimate there.

    They are compiled at the first point, for all points that lie in its regime, or with ``every`` at each point anew.
    """
    __tracebackhide__ = True
    compiled = None
    for batch, seq in points:
        at = {**keys, "batch": batch, "seq": seq}
        if compiled is None or every:
            compiled = compile_plan(parse_plan(at), symbolic=symbolic)
        values, expected = compiled.evaluate(batch, seq), estimate(at).bytes
        assert_figures(values, {name: expected[name] for name in values.keys() & expected.keys() - {"process"}})
