"""A plan's function as LaTeX, printed by sympy; needs the ``amsmath`` package."""

from __future__ import annotations

from typing import Any

from sympy import Max, Piecewise, Symbol, true
from sympy.printing.latex import LatexPrinter

from .function import Function
from .heading import heading
from .latex import escape


class _Latex(LatexPrinter):  # type: ignore[misc]
    def _print_Symbol(self, expression: Any) -> str:
        name = expression.name.replace("_", r"\_")
        return rf"\mathit{{{name}}}"

    def _print_Quotient(self, expression: Any, exp: Any = None) -> str:
        above, below = map(self._print, expression.args)
        return rf"\left\lfloor \frac{{{above}}}{{{below}}} \right\rfloor"


def to_equations(f: Function) -> str:
    """An equation for each component, in bytes, with its cases, and a table of variables."""
    printer = _Latex()

    def printed(x: Any) -> str:
        if isinstance(x, Max):
            rows = r" \\ ".join(f"& {printer._print(one)}" for one in x.args)
            return rf"\max \left\{{ \begin{{aligned}} {rows} \end{{aligned}} \right."
        text: str = printer._print(x)
        return text

    lines = [f"% {line}" for line in heading(f)] + [r"% all results are bytes"]
    for step in f.all_needed:
        lines.append(f"% {step.name}: {step.meaning}")
        lines.append(r"\begin{align*}")
        if isinstance(step.expression, Piecewise):
            lines.append(rf"{printed(Symbol(step.name))} &= \begin{{cases}}")
            for value, condition in step.expression.args:
                where = r"\text{otherwise}" if condition == true else rf"\text{{if }} {printer._print(condition)}"
                lines.append(rf"{printed(value)} & {where} \\")
            lines.append(r"\end{cases}")
        else:
            lines.append(rf"{printed(Symbol(step.name))} &= {printed(step.expression)}")
        lines.append(r"\end{align*}")
    lines.append(r"\begin{tabular}{lrrl}")
    lines.append(r"variable & from & to & meaning \\")
    for v in f.variables:
        lines.append(rf"${printed(Symbol(v.name))}$ & {v.least} & {v.most} & {escape(v.meaning)} \\")
    lines.append(r"\end{tabular}")
    return "\n".join(lines) + "\n"
