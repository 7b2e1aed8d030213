"""Formulas as plain text. Every formula is also valid Python."""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Add, Expr, Integer, Max, Mul, Symbol

from ..ledger.sizes import registered
from ..text import human
from .components import EXPORTED, plan_line
from .function import Assignment, Function, Variable
from .polynomials import exact


def to_text(formulas: Sequence[Function]) -> str:
    """Formulas of one plan, in bytes, as text with conditions and a legend of the symbols."""
    lines = [
        f"plan: {plan_line(formulas[0].plan)}",
        "all sizes in bytes; beside them what large terms come to (1 MiB = 2**20 bytes)",
        *fixed_lines(formulas[0]),
    ]
    shown: set[tuple[str, str]] = set()
    for f in formulas:
        if f"where {f.condition}:" not in lines:
            lines += ["", f"where {f.condition}:"]
        for step in f.needed[1]:
            if (step.name, f.condition) not in shown:
                shown.add((step.name, f.condition))
                lines += ["", f"{step.name}: {EXPORTED[step.name]}", *_definition(f, step)]
    meanings = {v.name: v.meaning for v in legend(formulas)}
    meanings |= {name: f"{meanings[name]}; {value} in this model" for f in formulas for name, value in f.values.items()}
    meanings |= {step.name: step.meaning for f in formulas for step in f.needed[0]}
    width = max(map(len, meanings), default=0)
    if meanings:
        lines += ["", "symbols:", *(f"  {name:{width}}  {meaning}" for name, meaning in meanings.items())]
    return "\n".join(lines)


def fixed_lines(f: Function) -> list[str]:
    """A line of the sizes that could not be left symbolic, e.g. ``L = 4 (layers)``; none without such sizes."""
    sizes = ", ".join(f"{name} = {value} ({registered(name).meaning})" for name, value in f.fixed.items())
    return [f"filled in, since the formulas differ elsewhere: {sizes}"] if sizes else []


def legend(formulas: Sequence[Function]) -> list[Variable]:
    """The variables of several functions; those of several formulas in the order of the ledger's symbols."""
    if len(formulas) == 1:
        return list(formulas[0].variables)
    found = {v.name: v for f in formulas for v in f.variables}
    return sorted(found.values(), key=lambda v: registered(v.name).index)


def _definition(f: Function, step: Assignment) -> list[str]:
    """The lines of a step: one for each group of terms, or for each moment of a maximum."""
    x = step.expression
    if isinstance(x, Max):
        width = max(len(name) for name, _ in step.moments)
        lines, previous = [f"  {step.name} = max(moments)", "  moments ="], ""
        for name, value in step.moments:
            label, previous = "" if name == previous else name, name
            lines.append(_commented(f, f"    {label:{width}}  {value}", value))
        return lines
    if x.free_symbols & {Symbol(total.name) for total in f.totals}:
        return [f"  {step.name} = {x}"]
    lines = [f"  {step.name} ="]
    for number, term in enumerate(terms_of(x)):
        text = str(term)
        sign = "- " if text.startswith("-") else "+ " if number else "  "
        lines.append(_commented(f, f"    {sign}{text.removeprefix('-')}", term))
    return lines


def terms_of(x: Expr) -> list[Expr]:
    """The terms of a polynomial, one for each factor in batch, lengths and functions of these."""
    return list(x.as_ordered_terms()) if isinstance(x, Add) else [x]


def _commented(f: Function, line: str, x: Expr) -> str:
    """A line, and what each term of the expression in it comes to in the plan's model, from 1 KiB on."""
    sizes = {Symbol(name): Integer(value) for name, value in f.values.items()}
    token = Mul(*(Symbol(v.name) for v in f.variables if v.name in ("B", "S")))
    found = []
    for term in terms_of(exact(x)):
        amount, outer = term.xreplace(sizes).as_coeff_Mul()
        if abs(amount) >= 1024:
            found.append(human(int(amount)) + ("" if outer == 1 else f" per {'token' if outer == token else outer}"))
    return f"{line}  # {', '.join(found)}" if found else line
