"""Formulas as LaTeX, printed by sympy; needs the ``amsmath`` package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..ledger import Size
from ..ledger.sizes import Symbol
from .algebra import definition, groups, variable
from .formula import EXPORTED, Formula, fixed_line, join_signed, legend, plan_line

_NAMES = {"H": "d", "I": "d_{ff}", "K": "n_{kv}", "G": "g", "D": "d_{h}", "query_block": "b_{q}", "key_block": "b_{k}"}
"""The notation of papers for our symbols; other symbols keep their names."""


def to_latex(formulas: Sequence[Formula]) -> str:
    """Formulas of one plan, in bytes, as a LaTeX fragment with conditions and a legend."""
    lines = [f"% plan: {plan_line(formulas[0].plan)}", "% all sizes in bytes"]
    if formulas[0].fixed:
        lines.append(f"% filled in, since the formulas differ elsewhere: {fixed_line(formulas[0])}")
    shown: set[tuple[str, str]] = set()
    for f in formulas:
        lines += [f"% {EXPORTED[f.component]}", r"\begin{align*}"]
        lines += _definition(f, ("peak_above_resident", f.condition()) in shown)
        lines += [rf"& \text{{for }} {_condition(f)}", r"\end{align*}"]
        shown.add((f.component, f.condition()))
    symbols = legend(formulas)
    if symbols:
        lines += [r"\begin{tabular}{ll}", *(_legend_row(s, value) for s, value in symbols.items()), r"\end{tabular}"]
    return "\n".join(lines)


def _definition(f: Formula, above_is_shown: bool) -> list[str]:
    name, above = _name(f.component), _name("peak_above_resident")
    if not f.moments:
        return [rf"{name} &= {_sum(f, f.base)} \\"]
    if f.component == "peak" and above_is_shown:
        return [rf"{name} &= {_name(f.base_name)} + {above} \\"]
    lines = [rf"{_name(f.base_name)} &= {_sum(f, f.base)} \\"] if f.base else []
    added = f"{_name(f.base_name)} + " if f.base else ""
    if f.base and above_is_shown:
        return [*lines, rf"{name} &= {added}{above} \\"]
    lines.append(rf"{name} &= {added}\max \left\{{ \begin{{aligned}}")
    lines += [rf"& {_sum(f, value)} && \text{{{escape(moment)}}} \\" for moment, value in f.moments]
    lines.append(r"\end{aligned} \right\} \\")
    return lines


def _sum(f: Formula, size: Size) -> str:
    """A sum, with a line for each group if the architecture's sizes are symbolic, which makes groups long."""
    parts = [_print(expression) for expression in groups(size)]
    return join_signed(parts, between=r" \\ & \quad " if f.values else " ")


def _print(expression: object) -> str:
    from sympy import latex

    text: str = latex(expression, symbol_names={variable(name): text for name, text in _NAMES.items()})
    return text


def _name(component: str) -> str:
    return rf"M_{{\text{{{component.replace('_', ' ')}}}}}"


def _condition(f: Formula) -> str:
    text = f.condition().replace(">=", r"\ge").replace("==", "=").replace(" and ", r",\; ")
    return re.sub(r"(?<!\\)\b[A-Za-z]\w*", lambda m: _NAMES.get(m[0], m[0]), text)


def _legend_row(s: Symbol, value: int | None) -> str:
    if s.function is not None:
        meaning = f"{escape(s.meaning)}: ${_print(definition(s))}$"
    else:
        meaning = escape(s.meaning) + ("" if value is None else f" ({value})")
    return rf"${_print(variable(s.name))}$ & {meaning} \\"


def escape(text: str) -> str:
    """A text with the escapes that LaTeX needs."""
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
