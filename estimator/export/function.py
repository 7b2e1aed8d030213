"""A plan's bytes as one function of some of its keys: an expression for each component, whatever the values.

The expressions are sympy's, so its printers write them in other languages. A component is a polynomial, a maximum of
polynomials, or several of them with the conditions under which each holds. It may refer to components before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import sympy

from ..errors import InputError, nearest
from ..plans.plan import Plan
from .formula import EXPORTED

RESULTS: Mapping[str, str] = {**EXPORTED, "process": "the process: the peak and PyTorch with its libraries"}
"""The components of a step in PyTorch, with their meanings."""


class Quotient(sympy.Function):  # type: ignore[misc]
    """``Quotient(a, b)``: a // b, of whole numbers that are not negative."""

    nargs = 2

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        """The number, for two numbers."""
        return sympy.Integer(int(a) // int(b)) if a.is_Integer and b.is_Integer else None


class Variable(NamedTuple):
    """A key of the plan, or of the model's config, that is left open: a whole number from ``least`` to ``most``."""

    name: str
    value: int
    """Its value in the plan; in a short form, the nearest in range."""
    least: int
    most: int
    meaning: str
    multiple_of: int = 1


class Assignment(NamedTuple):
    """A name and the expression that it stands for, in variables and in names before it."""

    name: str
    expression: sympy.Expr
    meaning: str


@dataclass(frozen=True)
class Function:
    """A plan's bytes as a function of ``variables``."""

    plan: Plan
    variables: tuple[Variable, ...]
    sizes: tuple[Assignment, ...]
    """Numbers that components are made of, such as the rows of a kernel's block. Each uses those before it alone."""
    totals: tuple[Assignment, ...]
    """The components of the result and the sums that they are made of, in bytes. Each uses those before it alone."""
    components: tuple[str, ...]
    """The names of those of ``totals`` that are asked for."""
    largest: sympy.Expr
    """A bound of every number that is computed on the way, in variables and ``sizes``."""
    notes: tuple[str, ...] = ()

    @cached_property
    def needed(self) -> tuple[tuple[Assignment, ...], tuple[Assignment, ...]]:
        """The ``sizes`` and the ``totals`` without those that no component needs. The bound needs sizes, too."""
        wanted = {*self.components, *(x.name for x in self.largest.free_symbols)}

        def needed(steps: Sequence[Assignment]) -> tuple[Assignment, ...]:
            kept = []
            for step in reversed(steps):
                if step.name in wanted:
                    kept.append(step)
                    wanted.update(x.name for x in step.expression.free_symbols)
            return tuple(reversed(kept))

        totals = needed(self.totals)
        return needed(self.sizes), totals

    @property
    def all_needed(self) -> tuple[Assignment, ...]:
        """Both parts of ``needed``, as one list of steps."""
        sizes, totals = self.needed
        return (*sizes, *totals)

    def only(self, names: Sequence[str]) -> Function:
        """The function with these components alone. Raises ``InputError`` for one that it has not."""
        for name in names:
            if name not in self.components:
                known = ", ".join(self.components)
                raise InputError(f"no component '{name}'{nearest(name, self.components)}; there are {known}")
        return replace(self, components=tuple(name for name in self.components if name in names))


def largest_of(expressions: Sequence[Any]) -> Any:
    """The maximum of expressions, which is not simplified: sympy would compare each pair."""
    unique = list(dict.fromkeys(expressions))
    return unique[0] if len(unique) == 1 else sympy.Max(*unique, evaluate=False)
