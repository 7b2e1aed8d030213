"""Expressions of sizes as text: names, integers, + - * /, powers, int() and min(). Nothing is executed.

An expression of a program's symbols becomes a polynomial (``polynomial``); one of a config's keys, a number
(``evaluate``). A key of a part of a config stands behind the part's name and a dot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..errors import InputError, shown
from ..ledger.sizes import Poly, Size, floor, simplify, symbol

LONGEST = 300
"""The most characters of an expression."""
LARGEST = 1 << 48
"""The largest number in an expression."""
_DEPTH, _DEGREE, _TERMS = 20, 8, 16
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)|(\*\*|[-+*/(),]))")

Tree = tuple[Any, ...]
"""``(operator, operand, ...)``, ``("number", 3)`` or ``("name", "S")``."""


@lru_cache(maxsize=4096)
def parsed(text: str) -> Tree:
    """The tree of an expression. Raises ``InputError`` for anything else."""
    if len(text) > LONGEST:
        raise InputError(f"an expression has {len(text)} characters; {LONGEST} are the most")
    tokens: list[tuple[str, str]] = []
    at, stripped = 0, text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if match is None:
            raise InputError(f"{shown(text)} is no expression of names, integers, + - * /, int() and min()")
        number, name, operator = match.groups()
        tokens.append(("number", number) if number else ("name", name) if name else ("operator", operator))
        at = match.end()
    parser = _Parser(text, tokens)
    tree = parser.sum(0)
    if parser.at < len(tokens):
        raise parser.wrong()
    return tree


class _Parser:
    def __init__(self, text: str, tokens: list[tuple[str, str]]) -> None:
        self.text, self.tokens, self.at = text, [*tokens, ("end", "")], 0

    def wrong(self) -> InputError:
        return InputError(f"{shown(self.text)} is no expression of names, integers, + - * /, int() and min()")

    def accept(self, *operators: str) -> str | None:
        kind, text = self.tokens[self.at]
        if kind == "operator" and text in operators:
            self.at += 1
            return text
        return None

    def sum(self, depth: int) -> Tree:
        if depth > _DEPTH:
            raise InputError(f"{shown(self.text)} is nested too deeply")
        tree = ("-", ("number", 0), self.product(depth)) if self.accept("-") else self.product(depth)
        while operator := self.accept("+", "-"):
            tree = (operator, tree, self.product(depth))
        return tree

    def product(self, depth: int) -> Tree:
        tree = self.power(depth)
        while operator := self.accept("*", "/"):
            tree = (operator, tree, self.power(depth))
        return tree

    def power(self, depth: int) -> Tree:
        tree = self.atom(depth)
        if self.accept("**"):
            kind, text = self.tokens[self.at]
            if kind != "number" or len(text) > 1 or not 1 <= int(text) <= _DEGREE:
                raise InputError(f"{shown(self.text)} has a power that is no number from 1 to {_DEGREE}")
            self.at += 1
            base = tree
            for _ in range(int(text) - 1):
                tree = ("*", tree, base)
        return tree

    def atom(self, depth: int) -> Tree:
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            if len(text) > 15 or int(text) > LARGEST:
                raise InputError(f"{shown(self.text)} has a number above {LARGEST:,}")
            return ("number", int(text))
        if kind == "name" and text == "int" and self.accept("("):
            inner: Tree = ("int", self.sum(depth + 1))
        elif kind == "name" and text == "min" and self.accept("("):
            first = self.sum(depth + 1)
            if not self.accept(","):
                raise self.wrong()
            inner = ("min", first, self.sum(depth + 1))
        elif kind == "name":
            return ("name", text)
        elif kind == "operator" and text == "(":
            inner = self.sum(depth + 1)
        else:
            self.at -= 1
            raise self.wrong()
        if not self.accept(")"):
            raise self.wrong()
        return inner


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression at these values of its names. Raises ``KeyError`` for a name without one."""
    return _number(parsed(text), values)


def names(text: str) -> set[str]:
    """The names in an expression."""
    return set(_names(parsed(text)))


def _names(tree: Tree) -> Any:
    if tree[0] == "name":
        yield tree[1]
    elif tree[0] != "number":
        for part in tree[1:]:
            yield from _names(part)


def _number(tree: Tree, values: Mapping[str, Any]) -> Any:
    operator = tree[0]
    if operator == "number":
        return tree[1]
    if operator == "name":
        value = values[tree[1]]
        if value is None:
            raise KeyError(tree[1])
        if isinstance(value, Poly):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
            raise InputError(f"{tree[1]} is {shown(value)}, which is no size")
        return value
    if operator == "int":
        inner = _number(tree[1], values)
        return floor(inner) if isinstance(inner, Poly) else int(inner)
    left, right = (_number(part, values) for part in tree[1:])
    if operator == "min":
        return min(left, right)
    if operator == "/":
        if not right:
            raise InputError("an expression divides by zero")
        if isinstance(left, Poly):
            return left // right
        return left / right if isinstance(left, float) or isinstance(right, float) else Fraction(left) / right
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def polynomial(text: str, known: Collection[str]) -> Size:
    """An expression of known symbols as a polynomial. It may divide by integers."""
    return simplify(_polynomial(parsed(text), known, text))


def _polynomial(tree: Tree, known: Collection[str], text: str) -> Poly:
    operator = tree[0]
    if operator == "number":
        return Poly({0: tree[1]} if tree[1] else {})
    if operator == "name":
        if tree[1] not in known:
            raise InputError(f"{shown(text)} names {shown(tree[1])}, which is no symbol of this program")
        return symbol(tree[1])
    if operator in ("int", "min"):
        raise InputError(f"{shown(text)} rounds or chooses, which no size of a program does")
    left, right = (_polynomial(part, known, text) for part in tree[1:])
    if operator == "/":
        divisor = simplify(right)
        if not isinstance(divisor, int) or not divisor:
            raise InputError(f"{shown(text)} divides by something that is no integer but zero")
        made = left // divisor
    elif operator == "*":
        if _degree(left) + _degree(right) > _DEGREE:
            raise InputError(f"{shown(text)} is of a degree above {_DEGREE}")
        made = left * right
    else:
        made = left + right if operator == "+" else left - right
    large = any(max(abs(c.numerator), c.denominator) > LARGEST for c in made.terms.values())
    if len(made.terms) > _TERMS or large:
        raise InputError(f"{shown(text)} has too many terms or too large a number")
    return made


def _degree(poly: Poly) -> int:
    return max((sum(exponent for _, exponent in factors) for _, factors in poly.monomials()), default=0)
