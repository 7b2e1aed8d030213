"""Formulas: a component's bytes as a function of the ledger's symbols, in one regime or in all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sympy import Integer, Symbol

from ..answers.formulas import MANY_TOKENS, Compiled, Regime
from ..ledger.sizes import registered, symbols_of
from .function import LENGTHS, Function, Variable, least, most
from .regimes import Steps


def formula(compiled: Compiled, component: str, *others: Compiled) -> Function:
    """The formula of one of ``EXPORTED`` where the compiled regime holds, or one of several.

    Its variables are the lengths and, of those that are symbols, the sizes of the architecture that it needs.
    """
    regime, plan = compiled.regime, compiled.plan
    names: dict[str, Any] = {name: Symbol(name) for name in (*LENGTHS, *compiled.values)}
    pieces = [(one.regime, one) for one in (compiled, *others)]
    steps = Steps(pieces, names, lambda symbol: (symbol.name, symbol.meaning), all_moments=bool(compiled.values))
    steps.add(component)
    f = Function(plan, (), tuple(steps.sizes), tuple(steps.totals.values()), (component,), Integer(0))
    used = {x.name for step in f.all_needed for x in step.expression.free_symbols}
    known = {**compiled.given, **compiled.values}
    variables = []
    for symbol in sorted(map(registered, known), key=lambda one: one.index):
        name = symbol.name
        if name in used or (others and name in LENGTHS):
            lower, upper = (least(name), most(name)) if others else _range(name, regime)
            variables.append(Variable(name, min(max(known[name], lower), upper), lower, upper, symbol.meaning))
    bounds = [f"{v.name} >= {v.least}" for v in variables if v.name not in LENGTHS and v.least > 1]
    free = symbols_of(compiled.totals.parameters)
    return replace(
        f,
        variables=tuple(variables),
        condition="" if others else " and ".join([regime.condition(), *bounds]),
        fixed={name: value for name, value in compiled.values.items() if name not in free},
    )


def _range(name: str, regime: Regime) -> tuple[int, int]:
    """The least and the largest value of a symbol in a regime."""
    lower, upper = least(name), most(name)
    if name in ("B", "S", "T", "M"):
        lower = 2
    if name == "S" and regime.window is not None:
        return (max(lower, regime.window), upper) if regime.window_reached else (lower, regime.window - 1)
    return (MANY_TOKENS if name == "N" else lower), upper
