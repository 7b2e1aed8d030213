"""Functions as LaTeX, printed by sympy; needs the ``amsmath`` package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sympy import Expr, Max, Piecewise, Symbol, true
from sympy.printing.latex import LatexPrinter

from .components import plan_line
from .function import RESULTS, Function
from .plain_text import fixed_lines, legend

_NAMES = {"H": "d", "I": "d_{ff}", "K": "n_{kv}", "G": "g", "D": "d_{h}", "query_block": "b_{q}", "key_block": "b_{k}"}
"""The notation of papers for symbols of the ledger; others keep their names."""


class _Latex(LatexPrinter):  # type: ignore[misc]
    def _print_Symbol(self, expression: Any) -> str:
        name = expression.name
        if name in RESULTS:
            return rf"M_{{\text{{{name.replace('_', ' ')}}}}}"
        return _NAMES.get(name) or (name if len(name) == 1 else rf"\mathit{{{escape(name)}}}")

    def _print_Quotient(self, expression: Any, exp: Any = None) -> str:
        above, below = map(self._print, expression.args)
        return rf"\left\lfloor \frac{{{above}}}{{{below}}} \right\rfloor"


def about(f: Function) -> list[str]:
    """What is said before formulas of a plan."""
    return [f"plan: {plan_line(f.plan)}", *fixed_lines(f)]


def to_latex(functions: Sequence[Function], head: Sequence[str]) -> str:
    """An equation for each component of a plan's functions, in bytes, with its cases, and a table of variables."""
    printer = _Latex()
    lines = [f"% {line}" for line in (*head, "all results are bytes")]
    shown: set[str] = set()
    for f in functions:
        for step in f.all_needed:
            if step.name in shown:
                continue
            shown.add(step.name)
            names = {x: name for name, x in step.moments}
            lines += [f"% {step.name}: {step.meaning}", r"\begin{align*}"]
            start = f"{printer._print(Symbol(step.name))} &="
            if isinstance(step.expression, Piecewise):
                lines.append(rf"{start} \begin{{cases}}")
                for value, test in step.expression.args:
                    where = r"\text{otherwise}" if test == true else rf"\text{{if }} {printer._print(test)}"
                    lines.append(rf"{_printed(printer, value, names)} & {where} \\")
                lines.append(r"\end{cases}")
            else:
                lines.append(f"{start} {_printed(printer, step.expression, names)}")
            if f.condition and step.name in f.components:
                lines[-1] += r" \\"
                lines.append(rf"& \text{{for }} {_condition(f.condition)}")
            lines.append(r"\end{align*}")
    lines += [r"\begin{tabular}{lrrrl}", r"variable & value & from & to & meaning \\"]
    for v in legend(functions):
        name = printer._print(Symbol(v.name))
        lines.append(rf"${name}$ & {v.value} & {v.least} & {v.most} & {escape(v.meaning)} \\")
    lines.append(r"\end{tabular}")
    return "\n".join(lines) + "\n"


def _printed(printer: _Latex, x: Expr, names: dict[Expr, str]) -> str:
    """An expression; each of the parts of a maximum has a line."""
    if isinstance(x, Max):
        ordered = [one for one in names if one in x.args] or x.args
        rows = (rf"& {_printed(printer, one, {})} && \text{{{escape(names.get(one, ''))}}} \\" for one in ordered)
        return "\n".join([r"\max \left\{ \begin{aligned}", *rows, r"\end{aligned} \right\}"])
    text: str = printer._print(x)
    return text


def _condition(condition: str) -> str:
    text = condition.replace(">=", r"\ge").replace("==", "=").replace(" and ", r",\; ")
    return re.sub(r"(?<!\\)\b[A-Za-z]\w*", lambda m: _NAMES.get(m[0], m[0]), text)


def escape(text: str) -> str:
    """A text with the escapes that LaTeX needs."""
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
