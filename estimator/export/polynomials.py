"""The ledger's polynomials as expressions of sympy, whose printers write them in every language."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from math import lcm
from operator import add, mul, pow, sub
from typing import Any

import sympy
from sympy import Add, Expr, Integer, Max, Min, Mul, Piecewise, Pow

from ..ledger import Size
from ..ledger.sizes import Symbol
from .function import LENGTHS


class Quotient(sympy.Function):  # type: ignore[misc]
    """``Quotient(a, b)``: a // b, of whole numbers that are not negative."""

    nargs = 2

    @classmethod
    def eval(cls, a: Expr, b: Expr) -> Expr | None:
        """The number, for two numbers."""
        return Integer(int(a) // int(b)) if a.is_Integer and b.is_Integer else None

    def _sympystr(self, printer: Any) -> str:
        above, below = map(printer._print, self.args)
        return f"({above})//{below if self.args[1].is_Atom else f'({below})'}"


def expression_of(size: Size, names: Mapping[str, Any]) -> Expr:
    """A size as an expression, grouped by what is no size of the architecture: ``B*S*(4*H + 2*V)``.

    ``names`` gives what each of its symbols is called.
    """
    if isinstance(size, int):
        return Integer(size)
    rows = size.monomials()
    divisor = lcm(*(c.denominator for c, _ in rows))
    groups: dict[Expr, list[Expr]] = {}
    for coefficient, powers in rows:
        outer: list[Expr] = []
        inner: list[Expr] = [Integer(int(coefficient * divisor))]
        for symbol, exponent in powers:
            (outer if is_outer(symbol) else inner).append(Pow(names[symbol.name], exponent))
        groups.setdefault(Mul(*outer), []).append(Mul(*inner))
    return quotient(Add(*(Mul(outer, Add(*inner)) for outer, inner in groups.items())), divisor)


def quotient(total: Expr, divisor: int) -> Expr:
    """A whole number of ``divisor`` parts."""
    return total if divisor == 1 else Quotient(total, Integer(divisor))


def is_outer(symbol: Symbol) -> bool:
    """Whether a symbol is one of the batch, the lengths, and what kernels make of them."""
    return symbol.name in LENGTHS or symbol.function is not None


def definition(symbol: Symbol, name: Callable[[str], Any]) -> Expr:
    """What a function symbol stands for, from its definition in Python. ``name`` gives what stands for a size."""

    def translated(node: ast.expr) -> Any:
        match node:
            case ast.IfExp(test=ast.Compare(left=left, ops=[ast.GtE()], comparators=[right]), body=body, orelse=orelse):
                otherwise = translated(orelse)
                rest = otherwise.args if isinstance(otherwise, Piecewise) else [(otherwise, True)]
                return Piecewise((translated(body), translated(left) >= translated(right)), *rest)
            case ast.Call(func=ast.Name(id="min" | "max" as called), args=args):
                return (Min if called == "min" else Max)(*map(translated, args))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
                return _OPERATORS[type(operator)](translated(left), translated(right))
            case ast.Constant(value=int(value)):
                return Integer(value)
            case ast.Name(id=text):
                return name(text)
        raise NotImplementedError(f"no sympy form for '{ast.unparse(node)}'")

    return translated(ast.parse(str(symbol.source), mode="eval").body)


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Pow: pow, ast.FloorDiv: Quotient,
}  # fmt: skip


def largest_of(expressions: Sequence[Any]) -> Any:
    """The maximum of expressions, which is not simplified: sympy would compare each pair."""
    unique = list(dict.fromkeys(expressions))
    return unique[0] if len(unique) == 1 else Max(*unique, evaluate=False)


def changed(expression: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """An expression, or each one of which it is the largest, changed. sympy would compare each pair of a maximum."""
    return Max(*map(change, expression.args), evaluate=False) if isinstance(expression, Max) else change(expression)


def exact(expression: Expr) -> Expr:
    """A sum of terms: a polynomial that is a whole number is divided without rounding."""
    return expression.replace(Quotient, lambda total, divisor: total / divisor)
