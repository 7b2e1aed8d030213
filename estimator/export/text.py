"""Formulas as plain text; every formula shown is also valid Python."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

from .formula import (
    EXPORTED,
    Formula,
    Powers,
    Terms,
    group_source,
    grouped,
    legend,
    plan_line,
    product_source,
    source,
    terms,
)
from ..symbols import Size


def to_text(formulas: Sequence[Formula]) -> str:
    """Formulas of one plan as text, in bytes, with where they hold and a legend of their symbols."""
    lines = [f"plan: {plan_line(formulas[0].plan)}", "all sizes in bytes; # gives amounts, 1 MiB = 2**20 bytes"]
    condition = ""
    shown: set[str] = set()
    for f in formulas:
        if f.condition() != condition:
            condition = f.condition()
            shown.clear()
            lines += ["", f"where {condition}:"]
        lines += ["", f"{f.component}: {EXPORTED[f.component]}"]
        lines += _definition(f, "peak_above_resident" in shown)
        shown.add(f.component)
    symbols = legend(formulas)
    if symbols:
        lines += ["", "symbols:"]
        width = max(len(s.name) for s in symbols)
        for s, value in symbols.items():
            known = "" if value is None else f"; {value} in {formulas[0].plan.model}"
            lines.append(f"  {s.name:{width}}  {s.meaning}{known}")
    return "\n".join(lines)


def _definition(f: Formula, above_is_shown: bool) -> list[str]:
    if not f.moments:
        return [f"  {f.component} =", *_groups(f, f.base)]
    if f.component == "peak" and above_is_shown:
        return ["  peak = resident + peak_above_resident"]
    lines = []
    if f.component == "peak":
        lines += ["  peak = resident + max(moments)", "  resident =", *_groups(f, f.base), "  moments ="]
    else:
        lines += [f"  {f.component} = max(moments)", "  moments ="]
    width = max(len(name) for name, _ in f.moments)
    previous = ""
    for name, value in f.moments:
        label, previous = "" if name == previous else name, name
        lines.append(_commented(f"    {label:{width}}  {source(value)}", _amounts(f, value)))
    return lines


def _groups(f: Formula, size: Size) -> list[str]:
    """One line per group of terms, with what it amounts to in the plan's model."""
    rows = terms(size)
    if any(c.denominator != 1 for c, _ in rows):
        return [f"    {source(size)}"]
    lines = []
    for i, (outer, inner) in enumerate(grouped(rows)):
        text = group_source(outer, inner)
        sign = "- " if text.startswith("-") else "+ " if i else "  "
        lines.append(_commented(f"    {sign}{text.removeprefix('-')}", [_amount(f, outer, inner)]))
    return lines or ["    0"]


def _amounts(f: Formula, size: Size) -> list[str]:
    """The groups of a moment that come to a KiB or more per unit of their factor."""
    groups = [g for g in grouped(terms(size)) if abs(_value(f, g[1])) >= 1024]
    return [_amount(f, outer, inner) for outer, inner in groups]


def _amount(f: Formula, outer: Powers, inner: Terms) -> str:
    amount = _human(_value(f, inner))
    if not outer:
        return amount
    free = [name for name, fixed in (("B", f.regime.batch_one), ("S", f.regime.seq_one)) if not fixed]
    unit = "token" if [(s.name, e) for s, e in outer] == [(name, 1) for name in free] else product_source(outer)
    return f"{amount} per {unit}"


def _value(f: Formula, inner: Terms) -> Fraction:
    total = Fraction(0)
    for coefficient, powers in inner:
        total += coefficient * prod(f.values[s.name] ** e for s, e in powers)
    return total


def _commented(line: str, amounts: list[str]) -> str:
    return f"{line}  # {', '.join(amounts)}" if amounts else line


def _human(size: Fraction) -> str:
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            break
        value /= 1024
    else:
        unit = "TiB"
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.2f} {unit}"
