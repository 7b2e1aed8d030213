"""A plan's bytes as one function of some of its keys: an expression for each component, whatever the values.

The expressions are sympy's, so its printers write them in other languages. A component is a polynomial, a maximum of
polynomials, or several of them with the conditions under which each holds. It may refer to components before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import sympy

from ..errors import InputError, nearest
from ..plans.plan import Plan
from .components import EXPORTED

RESULTS: Mapping[str, str] = {**EXPORTED, "process": "the process: the peak and PyTorch with its libraries"}
"""The components of a step in PyTorch, with their meanings."""


LENGTHS = ("B", "S", "T", "M", "N")
"""The symbols of the ledger that are no sizes of the architecture."""
_LEAST = {"K": 2, "G": 2, "L": 4, "T": 2}
"""The least value of a symbol for which a symbolic formula holds. With one head, group or token copies become views.
The layers between the first and the last two are counted as equal."""
_MOST = {"B": 10**6, "S": 10**8, "T": 10**8, "M": 1000, "N": 10**6, "r": 10**6}


def least(symbol: str) -> int:
    """The least value of a symbol of the ledger for which formulas hold."""
    return _LEAST.get(symbol, 1)


def most(symbol: str) -> int:
    """The largest value of a symbol of the ledger that is taken."""
    return _MOST.get(symbol, 10**7)


class Variable(NamedTuple):
    """A key of the plan, or of the model's config, that is left open: a whole number from ``least`` to ``most``."""

    name: str
    value: int
    """Its value in the plan, or the nearest in range."""
    least: int
    most: int
    meaning: str
    multiple_of: int = 1


class Assignment(NamedTuple):
    """A name and the expression that it stands for, in variables and in names before it."""

    name: str
    expression: sympy.Expr
    meaning: str
    moments: tuple[tuple[str, sympy.Expr], ...] = ()
    """For a maximum: the moments in their order, each with the bytes reached there."""


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
    condition: str = ""
    """Where it holds, in Python; empty for one that holds for all values of its variables."""
    fixed: Mapping[str, int] = field(default_factory=dict)
    """Sizes that could not be left symbolic: the depth, if it is four layers or fewer or the layers differ; a single
    head or group, which has formulas of another structure; on torch-cuda the head's size, by which kernels are
    chosen."""

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
    def values(self) -> dict[str, int]:
        """The values of the architecture's symbols in the plan's model."""
        return {v.name: v.value for v in self.variables if v.name not in LENGTHS}

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
