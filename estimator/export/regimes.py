"""The formulas of regimes put together: the steps of a function, with conditions where regimes differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import lcm
from typing import Any

from sympy import And, Eq, Expr, Ge, Lt, Or, Piecewise, Symbol

from ..answers.formulas import MANY_TOKENS, Compiled, Regime, undominated
from ..answers.result import RESIDENT
from ..ledger import Size
from ..ledger.sizes import Poly, registered, simplify, symbols_of
from ..ledger.sizes import Symbol as Sized
from .components import FLOORS, exported, floors
from .function import RESULTS, Assignment
from .polynomials import definition, expression_of, largest_of

Pieces = Sequence[tuple[Regime, Compiled]]


class Steps:
    """Collects steps. ``names`` gives for each symbol of the ledger a variable, a number or the name of a step.

    ``told`` gives the name and the meaning of a function symbol's step, and ``closed`` a size without the symbols that
    have a value. With ``all_moments``, those stay that are never more than the largest of the others: to find them
    takes seconds where the model's sizes are symbolic, and leaves out few.
    """

    def __init__(
        self,
        pieces: Pieces,
        names: dict[str, Any],
        told: Callable[[Sized], tuple[str, str]],
        closed: Callable[[Size], Size] = lambda size: size,
        all_moments: bool = False,
    ) -> None:
        self.pieces, self.names, self._told, self._closed, self._all = pieces, names, told, closed, all_moments
        self.plan = pieces[0][1].plan
        self.sizes: list[Assignment] = []
        self.totals: dict[str, Assignment] = {}
        self._bound: dict[int, int] = {}

    def add(self, name: str) -> None:
        """Add the step of a component, and those of the components that it is made of."""
        if name in self.totals:
            return
        if name == "resident":
            self._sum(name, *(part for part in RESIDENT if part in exported(self.plan)))
        elif name == "peak":
            self._sum(name, "resident", "peak_above_resident")
        elif name == "peak_above_resident":
            self._add_moments(name)
        elif name in ("process", *FLOORS):
            self._sum(name, "peak", beside=floors(self.plan)[name])
        else:
            rows = [(regime, self._expression(compiled.component(name))) for regime, compiled in self.pieces]
            self.totals[name] = Assignment(name, self._together(rows), RESULTS[name])

    def _sum(self, name: str, *parts: str, beside: int = 0) -> None:
        for part in parts:
            self.add(part)
        self.totals[name] = Assignment(name, sum(map(Symbol, parts), start=beside), RESULTS[name])

    def _add_moments(self, name: str) -> None:
        rows: list[tuple[Regime, Any]] = []
        moments: dict[Any, str] = {}
        for regime, compiled in self.pieces:
            above = [(moment, self._closed(value)) for moment, value in compiled.moments]
            kept = above if self._all else undominated(above, regime)
            expressions = [(moment, self._expression(value)) for moment, value in kept]
            rows.append((regime, largest_of([expression for _, expression in expressions])))
            for moment, expression in expressions:
                moments.setdefault(expression, moment)
        self.totals[name] = Assignment(
            name, self._together(rows), RESULTS[name], tuple((moment, x) for x, moment in moments.items())
        )

    def _expression(self, size: Size) -> Expr:
        """A size as an expression; the functions of variables that it uses become steps."""
        size = self._closed(size)
        rows = size.terms if isinstance(size, Poly) else {0: size}
        scale = lcm(*(c.denominator for c in rows.values()))
        for key, coefficient in rows.items():
            self._bound[key] = max(self._bound.get(key, 0), abs(int(coefficient * scale)))
        for symbol in sorted(map(registered, symbols_of(size)), key=lambda one: one.index):
            if symbol.function is not None and symbol.name not in self.names:
                called, meaning = self._told(symbol)
                self.sizes.append(Assignment(called, definition(symbol, self.names.__getitem__), meaning))
                self.names[symbol.name] = Symbol(called)
        return expression_of(size, self.names)

    def bound(self) -> Expr:
        """An expression that is at least as large as each size, times the divisor that makes its terms whole."""
        return expression_of(simplify(Poly({key: value for key, value in self._bound.items() if value})), self.names)

    def _together(self, rows: Iterable[tuple[Regime, Any]]) -> Any:
        """One expression for all regimes, with conditions where they differ."""
        groups: dict[Any, list[Regime]] = {}
        for regime, expression in rows:
            groups.setdefault(expression, []).append(regime)
        if len(groups) == 1:
            return next(iter(groups))
        everything = [regime for regime, _ in self.pieces]
        names = ("batch_one", "seq_one", "window_reached", "new_tokens", "images_one")
        differing = [name for name in names if len({getattr(regime, name) for regime in everything}) > 1]
        subsets = [subset for count in range(1, len(differing)) for subset in combinations(differing, count)]

        def condition(own: Sequence[Regime]) -> Any:
            for subset in subsets:
                values = [getattr(own[0], a) for a in subset]
                if [r for r in everything if [getattr(r, a) for a in subset] == values] == list(own):
                    return _tests(own[0], subset, self.names)
            return Or(*(_tests(regime, differing, self.names) for regime in own))

        ordered = sorted(groups.items(), key=lambda row: len(row[1]))
        rows_of = [(expression, condition(own)) for expression, own in ordered[:-1]]
        return Piecewise(*rows_of, (ordered[-1][0], True), evaluate=False)


_ONE = {"batch_one": "B", "seq_one": "S", "images_one": "M"}
"""The symbols that are one where an attribute of a regime is true."""


def _tests(regime: Regime, which: Iterable[str], names: Mapping[str, Any]) -> Any:
    """Whether a regime's attributes are those of the variables."""
    found = []
    for attribute in which:
        if attribute == "window_reached":
            found.append((Ge if regime.window_reached else Lt)(names["S"], regime.window))
        elif attribute == "new_tokens":
            found.append((Ge if regime.new_tokens == MANY_TOKENS else Eq)(names["N"], regime.new_tokens))
        else:
            one = names[_ONE[attribute]]
            found.append(Eq(one, 1) if getattr(regime, attribute) else Ge(one, 2))
    return And(*found)
