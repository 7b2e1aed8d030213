"""The short form of a function: one moment, or a few, in place of the largest, with a proved bound of the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from sympy import Ge, Lt, Max, Piecewise, Symbol, lambdify, true

from ..errors import InputError
from .function import Assignment, Function
from .polynomials import Quotient, largest_of

_RANGES: Mapping[str, tuple[int, int]] = {"batch": (2, 64), "seq": (128, 32768), "r": (2, 256)}
"""The values for which a short form is made and its error bounded. Other variables: half to twice the plan's."""
_CLOSE = 0.002
"""How far the proved bound may be above the largest error that was found."""
_MOST_BOXES = 400_000
_ENOUGH, _MOST_MOMENTS = 0.1, 3
"""A form with a larger error gets another moment, up to so many."""


def shortened(f: Function) -> Function:
    """The function where batch and sequence are above one, with the moment that is the best peak, or a few.

    Raises ``InputError`` where a component has no maximum.
    """
    if not f.plan.engine.runs_steps:
        raise InputError(f"--short is for steps in PyTorch; a context's formulas on {f.plan.runtime} are short already")
    ranges = _ranges(f)
    totals = []
    spans = ", ".join(f"{name} {low} to {high}" for name, (low, high) in ranges.items())
    note = f"short form: exact for {spans}"
    for step in f.totals:
        expression = step.expression
        if isinstance(expression, Piecewise):
            expression = _where(expression, {name: high for name, (_, high) in ranges.items()})
        if step.name == "peak_above_resident" and isinstance(expression, Max):
            kept, error = _best(f, expression.args, ranges)
            expression = largest_of(kept)
            note = f"short form: for {spans} peak_above_resident is at most {error:.1%} too small, never too large"
        totals.append(step._replace(expression=expression))
    variables = tuple(
        v._replace(least=low, most=high, value=min(max(v.value, low), high))
        for v, (low, high) in zip(f.variables, ranges.values(), strict=True)
    )
    return replace(f, variables=variables, totals=tuple(totals), notes=(*f.notes, note))


def _ranges(f: Function) -> dict[str, tuple[int, int]]:
    """The least and the largest value of each variable, on the plan's own side of a sliding window."""
    found = {}
    for v in f.variables:
        low, high = _RANGES.get(v.name, (v.value // 2, v.value * 2))
        found[v.name] = max(v.least, low), min(v.most, max(high, v.value))
    pieces = [step.expression for step in f.totals if isinstance(step.expression, Piecewise)]
    for test in {test for piece in pieces for test in piece.atoms(Ge, Lt)}:
        (name, edge), values = (test.lhs.name, int(test.rhs)), {v.name: v.value for v in f.variables}
        low, high = found[name]
        if low < edge <= high:
            found[name] = (edge, high) if values[name] >= edge else (low, edge - 1)
    return found


def _where(expression: Any, values: Mapping[str, int]) -> Any:
    """The piece of an expression that holds at some values."""
    for value, condition in expression.args:
        if condition.subs({Symbol(name): number for name, number in values.items()}) == true:
            return value
    raise AssertionError("the last condition is true")


def _best(f: Function, moments: Sequence[Any], ranges: Mapping[str, tuple[int, int]]) -> tuple[list[Any], float]:
    """The moment whose largest relative error is least, or a few where one is not enough, and a bound of the error.

    Sizes grow with each variable. So over a box of values the largest moment is at most what it is at the upper corner,
    and the chosen one at least what it is at the lower corner. Boxes are halved until the bound is close to an error
    that occurs.
    """
    import numpy as np

    names = list(ranges)
    modules = [{Quotient.__name__: np.floor_divide}, "numpy"]
    at = lambdify([[*names]], [_closed(x, f.sizes) for x in moments], modules=modules)

    def values(points: Any) -> Any:
        found = at(points)
        return np.array([np.broadcast_to(np.asarray(x, dtype=float), points[0].shape) for x in found])

    grid = np.array(list(product(*(np.geomspace(*ranges[name], 12).round() for name in names))), dtype=float).T
    sampled = values(grid)
    largest = sampled.max(axis=0)
    chosen: list[int] = []
    found = 1.0
    while found > _ENOUGH and len(chosen) < _MOST_MOMENTS:
        errors = [(1 - sampled[[*chosen, i]].max(axis=0) / largest).max() for i in range(len(moments))]
        chosen.append(int(np.argmin(errors)))
        found = float(min(errors))
    low = np.array([[float(ranges[name][0])] for name in names])
    high = np.array([[float(ranges[name][1])] for name in names])
    bound, seen = 0.0, 0
    while low.size and seen < _MOST_BOXES:
        seen += low.shape[1]
        least, at_high = values(low)[chosen].max(axis=0), values(high)
        most = at_high.max(axis=0)
        found = max(found, float((1 - at_high[chosen].max(axis=0) / most).max()))
        open_ = 1 - least / most > found + _CLOSE
        low, high = low[:, open_], high[:, open_]
        if not low.size:
            break
        axis = (high / low).argmax(axis=0)
        rows = np.arange(low.shape[1])
        middle = np.sqrt(low[axis, rows] * high[axis, rows])
        below, above = high.copy(), low.copy()
        below[axis, rows] = middle
        above[axis, rows] = middle
        low, high = np.hstack([low, above]), np.hstack([below, high])
    else:
        bound = float((1 - values(low)[chosen].max(axis=0) / values(high).max(axis=0)).max())
    return [moments[i] for i in chosen], max(found + _CLOSE, bound)


def _closed(expression: Any, definitions: Sequence[Assignment]) -> Any:
    """An expression in variables alone."""
    for step in reversed(definitions):
        expression = expression.subs(Symbol(step.name), step.expression)
    return expression
