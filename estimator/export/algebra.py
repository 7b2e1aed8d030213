"""Formulas as sympy expressions in positive integer symbols. sympy is imported in functions, since it is slow."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from operator import add, floordiv, mul, pow, sub
from typing import TYPE_CHECKING, Any

from ..ledger import Size
from ..ledger.sizes import Symbol
from .formula import EXPORTED, Formula, fixed_line, grouped, legend, plan_line, terms

if TYPE_CHECKING:
    import sympy

Name = Callable[[str], Any]
Operator = Callable[[Any, Any], Any]


def to_sympy(f: Formula) -> sympy.Expr:
    """The exact bytes as an expression, with the definitions of functions of S in their place."""
    from sympy import Add, Max

    base = Add(*groups(f.base, define=True))
    if not f.moments:
        return base
    # Not evaluated, since sympy would compare every pair of moments, which takes long and decides nothing.
    return base + Max(*(Add(*groups(value, define=True)) for _, value in f.moments), evaluate=False)


def sympy_source(formulas: Sequence[Formula]) -> str:
    """A Python script with an expression for each component, such as ``saved_bytes``."""
    from sympy import Add

    symbols = legend(formulas)
    lines = [f"# plan: {plan_line(formulas[0].plan)}"]
    if formulas[0].fixed:
        lines.append(f"# filled in, since the formulas differ elsewhere: {fixed_line(formulas[0])}")
    lines += ["from sympy import Max, Min, Piecewise, Symbol, floor", ""]
    for s in sorted(symbols, key=lambda s: s.function is not None):
        value = f'Symbol("{s.name}", integer=True, positive=True)' if s.function is None else definition(s)
        lines.append(f"{s.name} = {value}  # {s.meaning}")
    for f in formulas:
        lines += ["", f"# {EXPORTED[f.component]}, where {f.condition()}"]
        base = Add(*groups(f.base))
        if not f.moments:
            lines.append(f"{f.component}_bytes = {base}")
            continue
        lines.append(f"{f.component}_bytes = {base} + Max(" if base else f"{f.component}_bytes = Max(")
        lines += [f"    {Add(*groups(value))},  # {moment}" for moment, value in f.moments]
        lines += ["    evaluate=False,", ")"]
    return "\n".join(lines)


def groups(size: Size, define: bool = False) -> list[sympy.Expr]:
    """Expressions whose sum is a size, one for each factor in B, S and functions of these.

    With ``define``, the definitions of functions are in their place.
    """
    from sympy import Add, Mul, Pow, Rational

    def factor(s: Symbol, exponent: int) -> Any:
        return Pow(definition(s) if define and s.function is not None else variable(s.name), exponent)

    found = []
    for outer, inner in grouped(terms(size)):
        rows = [Mul(Rational(c.numerator, c.denominator), *(factor(s, e) for s, e in powers)) for c, powers in inner]
        found.append(Mul(Add(*rows), *(factor(s, e) for s, e in outer)))
    return found


def variable(name: str) -> sympy.Symbol:
    """The sympy symbol of a size."""
    from sympy import Symbol as Variable

    return Variable(name, integer=True, positive=True)


def definition(s: Symbol, name: Name = variable, divide: Operator = floordiv) -> sympy.Expr:
    """The definition of a function symbol, from its definition in Python.

    ``name`` gives what stands for a size, and ``divide`` the quotient of two, rounded down.
    """
    return _translate(ast.parse(str(s.source), mode="eval").body, name, {**_OPERATORS, ast.FloorDiv: divide})


_OPERATORS: dict[type[ast.operator], Operator] = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Pow: pow}


def _translate(node: ast.expr, name: Name, operators: dict[type[ast.operator], Operator]) -> Any:
    from sympy import Integer, Max, Min, Piecewise

    def translated(node: ast.expr) -> Any:
        return _translate(node, name, operators)

    match node:
        case ast.IfExp(test=ast.Compare(left=left, ops=[ast.GtE()], comparators=[right]), body=body, orelse=orelse):
            otherwise = translated(orelse)
            rest = otherwise.args if isinstance(otherwise, Piecewise) else [(otherwise, True)]
            return Piecewise((translated(body), translated(left) >= translated(right)), *rest)
        case ast.Call(func=ast.Name(id="min" | "max" as called), args=args):
            return (Min if called == "min" else Max)(*map(translated, args))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in operators:
            return operators[type(operator)](translated(left), translated(right))
        case ast.Constant(value=int(value)):
            return Integer(value)
        case ast.Name(id=text):
            return name(text)
    raise NotImplementedError(f"no sympy form for '{ast.unparse(node)}'")
