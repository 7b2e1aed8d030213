"""Formulas as sympy's expressions in positive integer symbols, and as a script that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Expr, Max, Symbol, floor

from .components import EXPORTED, plan_line
from .function import Function
from .plain_text import fixed_lines, legend
from .polynomials import Quotient, changed, exact


def variable(name: str) -> Symbol:
    """The sympy symbol of a size."""
    return Symbol(name, integer=True, positive=True)


def to_sympy(f: Function) -> Expr:
    """The exact bytes as one expression, with the definitions of functions of S in their place."""
    named: dict[Any, Any] = {Symbol(v.name): variable(v.name) for v in f.variables}
    sizes, totals = f.needed
    for step in sizes:
        named[Symbol(step.name)] = step.expression.replace(Quotient, lambda a, b: floor(a / b)).xreplace(named)
    for step in totals:
        named[Symbol(step.name)] = changed(step.expression, lambda x: exact(x).xreplace(named))
    return named[Symbol(f.components[0])]


def sympy_source(formulas: Sequence[Function]) -> str:
    """A Python script with an expression for each component, such as ``saved_bytes``."""
    lines = [f"# plan: {plan_line(formulas[0].plan)}", *(f"# {line}" for line in fixed_lines(formulas[0]))]
    lines += ["from sympy import Max, Min, Piecewise, Symbol, floor", ""]
    for v in legend(formulas):
        lines.append(f'{v.name} = Symbol("{v.name}", integer=True, positive=True)  # {v.meaning}')
    shown = set()
    for f in formulas:
        sizes, totals = f.needed
        bytes_of = {Symbol(step.name): Symbol(f"{step.name}_bytes") for step in totals}
        for step in (*sizes, *totals):
            if step.name in shown:
                continue
            shown.add(step.name)
            if step in sizes:
                lines.append(f"{step.name} = {step.expression}  # {step.meaning}")
                continue
            lines += ["", f"# {EXPORTED[step.name]}, where {f.condition}"]
            if isinstance(step.expression, Max):
                rows = [f"    {exact(x)},  # {name}" for name, x in step.moments]
                lines += [f"{step.name}_bytes = Max(", *rows, "    evaluate=False,", ")"]
            else:
                lines.append(f"{step.name}_bytes = {exact(step.expression).xreplace(bytes_of)}")
    return "\n".join(lines)
