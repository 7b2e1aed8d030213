"""Puts numbers in place of the symbols of a program: sizes, the model's dtype, and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from ..ledger.sizes import Poly, Size, Symbol, is_registered, symbol
from .module_table import NamedModule
from .program import Body, Call, DtypeOf, Event, Function, Made, Program, Rate, Repeat, Stored
from .rows import Rows

PASS = "repeat"
"""The symbol of a loop's pass: 0, 1, 2, ..."""


LAYER = "layer"
"""The symbol of a layer's number, in what a loop computes for a layer before it calls it."""


DTYPE = "*"
"""The model's dtype, in a program for all."""


_SAMPLE = 257


def sizes_symbol(name: str) -> Poly:
    """The symbol of a config's key, which is registered when it is first asked for."""
    if not is_registered(name):
        if not (name.isidentifier() and name.isascii()):
            raise InputError(f"'{name}' is no name of a size")
        Symbol(name, f"the config's {name}", _SAMPLE)
    return symbol(name)


def at_pass(event: Any, number: int) -> Any:
    """An event of a loop in a pass."""
    return _Substitution({PASS: number}, DTYPE).event(event)


def at_layer(event: Any, number: int) -> Any:
    """An event of a layer of this number."""
    return _Substitution({LAYER: number}, DTYPE).event(event)


def substitute(
    program: Program, values: Mapping[str, Size], dtype: str = DTYPE, rates: Mapping[str, float] | None = None
) -> Program:
    """The program with these values in place of the symbols, and with these ``rates``, 0.0 or 1.0 each.

    Symbols and rates that have no value stay, and so does ``DTYPE``.
    """
    return _Substitution(values, dtype, rates=rates or {}).program(program)


def without_sources(program: Program) -> Program:
    """The program with dtypes in place of whose they are."""
    return _Substitution({}, program.dtype, sources=False).program(program)


@dataclass
class _Substitution:
    values: Mapping[str, Size]
    dtype: str
    sources: bool = True
    """Dtypes stay those of tensors."""
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known: dict[int, Size] = {}
        self._held: list[Poly] = []
        self._numbers = all(type(value) is int for value in self.values.values())

    def size(self, poly: Poly) -> Size:
        key = id(poly)  # a fit has one object for one expression
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._value(poly)
            self._held.append(poly)
        return found

    def _value(self, poly: Poly) -> Size:
        try:
            value: Size = poly.evaluate(self.values) if self._numbers else poly.substitute(self.values)
        except KeyError:
            value = poly.substitute(self.values)
        except ValueError:
            raise InputError(
                f"the size {poly!r} is no whole number here; the program does not fit these sizes"
            ) from None
        if isinstance(value, int) and value < 0 and any(coefficient > 0 for coefficient, _ in poly.monomials()):
            raise InputError(f"the size {poly!r} is {value} here; the program does not fit these sizes")
        return value

    def shape(self, shape: tuple[Size, ...]) -> tuple[Size, ...]:
        return tuple([n if type(n) is int else self.size(n) for n in shape])  # type: ignore[arg-type]

    def tree(self, tree: tuple[Any, ...]) -> tuple[Any, ...]:
        out = []
        for x in tree:
            kind = type(x)
            if kind is Poly:
                x = self.size(x)
            elif x == DTYPE:
                x = self.dtype
            elif kind is DtypeOf:
                dtype = self.dtype if x.dtype == DTYPE else x.dtype
                x = DtypeOf(x.slot, dtype) if self.sources else dtype
            elif kind is Rate:
                x = self.rates.get(x.key, x)
            elif kind is tuple and x:
                x = self.tree(x)
            out.append(x)
        return tuple(out)

    def made(self, made: Made) -> Made:
        slot, shape, dtype = made
        return Made(slot, self.shape(shape), self.dtype if dtype == DTYPE else dtype)

    def stored(self, rows: Sequence[Stored]) -> tuple[Stored, ...]:
        return tuple(
            [
                row._replace(
                    shape=self.shape(row.shape),
                    dtype=self.dtype if row.dtype == DTYPE else row.dtype,
                    storage=None if row.storage is None else self.shape((row.storage,))[0],
                )
                for row in rows
            ]
        )

    def event(self, event: Any) -> Any:
        kind = type(event)
        if kind is Call:
            op, args, keywords, out = event
            if out:
                out = tuple([self.made(one) for one in out])
            return Call(op, self.tree(args), self.tree(keywords) if keywords else keywords, out)
        if kind is Function:
            return event._replace(
                inputs=self.tree(event.inputs),
                forward=self.events(event.forward),
                out=self.made(event.out),
                backward=self.events(event.backward),
            )
        if kind is Repeat:
            return event._replace(count=self.tree((event.count,))[0], events=self.events(event.events))
        if kind is Rows:
            return Rows(self.tree((event.number,))[0], self.events(event.events))
        return event

    def events(self, events: Sequence[Event]) -> tuple[Event, ...]:
        return tuple([self.event(event) for event in events])

    def rows(self, rows: Sequence[NamedModule[Any]]) -> tuple[NamedModule[Any], ...]:
        return tuple([row._replace(shape=self.shape(row.shape)) if row.shape else row for row in rows])

    def program(self, program: Program) -> Program:
        return replace(
            program,
            modules=self.rows(program.modules),
            parameters=self.stored(program.parameters),
            buffers=self.stored(program.buffers),
            attributes=self.stored(program.attributes),
            dtype=self.dtype if program.dtype == DTYPE else program.dtype,
            before=self.events(program.before),
            between=tuple([self.events(events) for events in program.between]),
            bodies=tuple([Body(self.events(body.events), body.exit) for body in program.bodies]),
            after=self.events(program.after),
        )
