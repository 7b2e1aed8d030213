"""llama.cpp's buffers as a function of the context: computed at every context there is, and fitted in pieces.

The engine rounds a sequence's context up to a multiple of 256, so a model has some hundred contexts. Each is asked of
the rules. A piece is a run of contexts over which a component is one polynomial, so the function is exact at all of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Any

from sympy import Add, Integer, Le, Piecewise, Symbol

from ..answers.estimate import Progress
from ..errors import InputError
from ..plans.models import load
from ..plans.plan import Plan
from .function import Assignment, Function, Variable
from .polynomials import Quotient, quotient

_DEGREE = 2
_MOST_CONTEXTS = 1024
"""Contexts that are asked. The function of a model with more holds up to there, 262,144 tokens of a sequence."""
_MOST_PIECES = 64


def function_of_context(plan: Plan, progress: Progress = lambda: None) -> Function:
    """The bytes of a plan of an engine without steps as a function of its context. Raises ``InputError``."""
    engine, key = plan.engine, plan.engine.context_key
    model = engine.model(plan, load)
    value, least, last, step = engine.contexts(plan, model)
    contexts = [n * step for n in range(max(1, -(-least // step)), min(-(-last // step), _MOST_CONTEXTS) + 1)]
    found: dict[str, list[int]] = {}
    for context in contexts:
        for name, nbytes in engine.figures(engine.at_context(plan, context), model).bytes.items():
            found.setdefault(name, []).append(nbytes)
        progress()
    value = min(max(value, least), contexts[-1])
    variable = Variable(key, value, least, contexts[-1], engine.meanings[key])
    rounded = Symbol(f"{key}_rounded")
    size = Assignment(
        rounded.name,
        step * Quotient(Symbol(key) + step - 1, Integer(step)),
        f"{key}, rounded up as the engine does, to a multiple of {step}",
    )
    made = []
    for name, values in found.items():
        expression = _fitted(rounded, contexts, values)
        if isinstance(expression, Piecewise) and len(expression.args) > _MOST_PIECES:
            raise InputError(
                f"{name} is no polynomial of {key}, not even in {_MOST_PIECES} pieces; `estimator max-context` and "
                "`estimator estimate` answer for one context"
            )
        made.append(Assignment(name, expression, engine.meanings[name]))
    # The divisor of a fitted polynomial is at most the square of the step, times two.
    largest = Integer(max(max(values) for values in found.values()) * 2 * step**2)
    return Function(plan, (variable,), (size,), tuple(made), tuple(found), largest)


def _fitted(x: Any, contexts: Sequence[int], values: Sequence[int]) -> Any:
    """An expression in pieces that has the values at the contexts, and each piece its polynomial."""
    pieces: list[tuple[Any, int]] = []
    start = 0
    while start < len(values):
        stop, polynomial = _longest(contexts, values, start)
        pieces.append((_expression(x, polynomial), contexts[stop - 1]))
        start = stop
    if len(pieces) == 1:
        return pieces[0][0]
    *rows, (otherwise, _) = pieces
    return Piecewise(*((expression, Le(x, last)) for expression, last in rows), (otherwise, True), evaluate=False)


def _longest(contexts: Sequence[int], values: Sequence[int], start: int) -> tuple[int, list[Fraction]]:
    """Where the polynomial of the lowest degree through the next values stops to hold, and its coefficients.

    A polynomial must hold at two more contexts than it has coefficients, or it says nothing.
    """
    best: tuple[int, list[Fraction]] = (start + 1, [Fraction(values[start])])
    for degree in range(_DEGREE + 1):
        count = degree + 1
        if start + count > len(values):
            break
        polynomial = _through(contexts[start : start + count], values[start : start + count])
        stop = start + count
        while stop < len(values) and _at(polynomial, contexts[stop]) == values[stop]:
            stop += 1
        if stop > best[0] and (stop - start >= count + 2 or stop == len(values) or degree == 0):
            best = (stop, polynomial)
    return best


def _through(xs: Sequence[int], ys: Sequence[int]) -> list[Fraction]:
    """The coefficients of the polynomial through some points, the constant first (Newton's divided differences)."""
    table = [Fraction(y) for y in ys]
    for level in range(1, len(xs)):
        for i in range(len(xs) - 1, level - 1, -1):
            table[i] = (table[i] - table[i - 1]) / (xs[i] - xs[i - level])
    found = [table[-1]]
    for x, value in zip(reversed(xs[:-1]), reversed(table[:-1]), strict=True):
        shifted = [Fraction(0), *found]
        found = [a - x * b for a, b in zip(shifted, [*found, Fraction(0)], strict=True)]
        found[0] += value
    while len(found) > 1 and not found[-1]:
        found.pop()
    return found


def _at(polynomial: Sequence[Fraction], x: int) -> Fraction:
    return sum((c * x**n for n, c in enumerate(polynomial)), Fraction(0))


def _expression(x: Any, polynomial: Sequence[Fraction]) -> Any:
    divisor = lcm(*(c.denominator for c in polynomial))
    total = Add(*(Integer(int(c * divisor)) * x**n for n, c in enumerate(polynomial)))
    return quotient(total, divisor)
