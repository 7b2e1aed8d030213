"""Formulas as plain text. Every formula is also valid Python."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod

from ..ledger import Size
from .formula import (
    EXPORTED,
    Formula,
    Groups,
    Powers,
    fixed_line,
    group_source,
    grouped,
    legend,
    plan_line,
    product_source,
    source,
    terms,
)


def to_text(formulas: Sequence[Formula]) -> str:
    """Formulas of one plan, in bytes, as text with conditions and a legend of the symbols."""
    lines = [
        f"plan: {plan_line(formulas[0].plan)}",
        "all sizes in bytes; beside them what large terms come to (1 MiB = 2**20 bytes)",
    ]
    if formulas[0].fixed:
        lines.append(f"filled in, since the formulas differ elsewhere: {fixed_line(formulas[0])}")
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
            known = "" if value is None else f"; {value} in this model"
            lines.append(f"  {s.name:{width}}  {s.meaning}{known}")
    return "\n".join(lines)


def _definition(f: Formula, above_is_shown: bool) -> list[str]:
    if not f.moments:
        return [f"  {f.component} =", *_groups(f, f.base)]
    if f.base and above_is_shown:
        if f.component == "peak":
            return ["  peak = resident + peak_above_resident"]
        return [f"  {f.component} = base + peak_above_resident", "  base =", *_groups(f, f.base)]
    lines = []
    if f.base:
        base = f.base_name
        lines += [f"  {f.component} = {base} + max(moments)", f"  {base} =", *_groups(f, f.base), "  moments ="]
    else:
        lines += [f"  {f.component} = max(moments)", "  moments ="]
    width = max(len(name) for name, _ in f.moments)
    previous = ""
    for name, value in f.moments:
        label, previous = "" if name == previous else name, name
        lines.append(_commented(f"    {label:{width}}  {source(value)}", _amounts(f, grouped(terms(value)))))
    return lines


def _groups(f: Formula, size: Size) -> list[str]:
    """A line for each group of terms, with its amount in the plan's model."""
    rows = terms(size)
    if any(c.denominator != 1 for c, _ in rows):
        return [f"    {source(size)}"]
    lines = []
    for i, (outer, inner) in enumerate(grouped(rows)):
        text = group_source(outer, inner)
        sign = "- " if text.startswith("-") else "+ " if i else "  "
        lines.append(_commented(f"    {sign}{text.removeprefix('-')}", _amounts(f, [(outer, inner)])))
    return lines or ["    0"]


def _amounts(f: Formula, groups: Groups) -> list[str]:
    """The amounts of groups in the plan's model, without those below 1 KiB."""
    values = [
        (outer, sum(c * prod(f.values[s.name] ** e for s, e in powers) for c, powers in inner))
        for outer, inner in groups
    ]
    return [_human(value) + _unit(f, outer) for outer, value in values if abs(value) >= 1024]


def _unit(f: Formula, outer: Powers) -> str:
    if not outer:
        return ""
    free = [name for name, fixed in (("B", f.regime.batch_one), ("S", f.regime.seq_one)) if not fixed]
    is_token = [(s.name, e) for s, e in outer] == [(name, 1) for name in free]
    return " per token" if is_token else f" per {product_source(outer)}"


def _commented(line: str, amounts: list[str]) -> str:
    return f"{line}  # {', '.join(amounts)}" if amounts else line


def _human(size: int | Fraction) -> str:
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if abs(size) >= 1024**power:
            return f"{float(size) / 1024**power:.2f} {unit}"
    return f"{float(size) / 1024:.2f} KiB"
