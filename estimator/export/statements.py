"""Statements of languages that compute one value at a time. sympy's printers write the expressions in them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sympy import Integer, Max, Piecewise, true

from .function import Assignment, Function
from .heading import WIDTH


class Syntax(NamedTuple):
    """How a language that computes one value at a time writes statements."""

    printer: Any
    indent: str
    first: str
    """What begins an assignment of a name that is assigned once."""
    declare: str
    """What comes before an assignment in branches; ``{}`` is the name. Empty where names need no declaration."""
    branches: tuple[str, str, str, str]
    """``if`` and ``else if`` with ``{}`` for the condition, ``else``, and what ends all of them."""
    stop: str
    """What ends a statement."""
    largest: str
    """A function of any number of arguments that gives the largest; empty where there is one of two only."""
    brackets: bool
    """Whether a statement of several lines needs brackets."""
    comment: str
    """What begins a comment up to the end of the line."""


BRACES = ("if ({}) {{", "}} else if ({}) {{", "} else {", "}")
"""The branches of languages with braces."""


def statements(step: Assignment, syntax: Syntax) -> list[str]:
    """The statements that compute a step."""
    names = {x: name for name, x in step.moments}
    expression = step.expression
    if not isinstance(expression, Piecewise):
        return _assigned(f"{syntax.indent}{syntax.first}{step.name} = ", step.name, expression, names, syntax)
    within = syntax._replace(indent=syntax.indent * 2)
    lines = [f"{syntax.indent}{syntax.declare.format(step.name)}"] if syntax.declare else []
    if_, else_if, else_, end = syntax.branches
    for number, (value, condition) in enumerate(expression.args):
        text = else_ if condition == true else (else_if if number else if_).format(syntax.printer._print(condition))
        lines.append(f"{syntax.indent}{text}")
        lines += _assigned(f"{within.indent}{step.name} = ", step.name, value, names, within)
    return [*lines, f"{syntax.indent}{end}"] if end else lines


def _assigned(start: str, name: str, expression: Any, names: Mapping[Any, str], syntax: Syntax) -> list[str]:
    """An assignment. Beside each of the parts of a maximum stands the moment that has a name."""
    printed = syntax.printer._print
    if not isinstance(expression, Max):
        opened = ("(", ")") if syntax.brackets else ("", "")
        return [wrapped(start, printed(expression), syntax.stop, *opened)]
    parts = [(printed(x), f"  {syntax.comment} {names[x]}" if x in names else "") for x in expression.args]
    if syntax.largest:
        inside = f"{syntax.indent}    "
        rows = [wrapped(inside, part, f",{comment}") for part, comment in parts]
        return [f"{start}{syntax.largest}(", *rows, f"{syntax.indent}){syntax.stop}"]
    again = f"{syntax.indent}{name} = largest({name}, "
    (first, comment), *others = parts
    return [
        wrapped(start, first, syntax.stop + comment),
        *(wrapped(again, part, f"){syntax.stop}{comment}") for part, comment in others),
    ]


def wrapped(start: str, text: str, end: str = "", open_: str = "", close: str = "") -> str:
    """A statement in lines of at most ``WIDTH`` where spaces allow it; ``open_`` and ``close`` are then around it."""
    if len(start + text + end) <= WIDTH:
        return start + text + end
    indent = " " * (len(start) - len(start.lstrip()) + (4 if start.strip() else 0))
    lines = textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    if open_:
        return "\n".join([start + open_, *lines, indent[4:] + close + end])
    if not start.strip():
        return "\n    ".join(lines) + end
    return "\n".join([start.rstrip(), *lines]) + end


def code_of(f: Function) -> tuple[Assignment, ...]:
    """The steps that the components need, without those that only the bound needs."""
    return replace(f, largest=Integer(0)).all_needed


def factors_of(expression: Any) -> list[Any]:
    """The factors of a product: the number, if it is not 1, then names with their powers."""
    coefficient, rest = expression.as_coeff_mul()
    return [*([] if coefficient == 1 else [coefficient]), *rest]


class Products:
    """Printers of sympy whose products are written as a person does: the number first; a factor of -1 is a sign."""

    _print: Any

    def _print_Mul(self, expression: Any) -> str:
        factors = factors_of(expression)
        sign = "-" if factors[0] == -1 else ""
        texts = (self._print(x) if x.is_Atom or x.is_Pow else f"({self._print(x)})" for x in factors[len(sign) :])
        return sign + " * ".join(texts)


class Functions:
    """Printers of sympy for languages in which a maximum, a minimum and what else ``names`` has are functions."""

    names: Mapping[str, str] = {"Max": "largest", "Min": "smallest"}
    """The functions by sympy's classes."""

    def _print(self, expression: Any, **options: Any) -> Any:
        if name := self.names.get(type(expression).__name__):
            return self._called(name, [self._print(x) for x in expression.args])
        return super()._print(expression, **options)  # type: ignore[misc]

    def _called(self, name: str, arguments: Sequence[str]) -> str:
        return f"{name}({', '.join(arguments)})"


class Choices:
    """Printers of sympy for languages with an expression that chooses between two others."""

    choice: str
    """It, with places for the condition and both."""
    _print: Any

    def _print_Piecewise(self, expression: Any) -> str:
        *rows, (last, _) = expression.args
        text: str = self._print(last)
        for value, condition in reversed(rows):
            text = self.choice.format(self._print(condition), self._print(value), text)
        return text


class Braced(Functions, Products, Choices):
    """Printers for languages with braces, whose division of integers drops the rest."""

    choice = "(({}) ? {} : {})"

    def _print_Quotient(self, expression: Any) -> str:
        return "({}) / ({})".format(*map(self._print, expression.args))
