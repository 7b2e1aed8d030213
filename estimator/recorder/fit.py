"""From recordings of one structure at several sizes to one program whose sizes are expressions.

A recording has integers. ``fit`` finds, for each integer that is a size, the simplest expression of the symbols that
equals it in all recordings: a constant, a monomial, a monomial and a small number, or a sum of two or three monomials.
What none of these equals is refused. ``fit_inputs`` is the quick case of one model: only the inputs' sizes differ.
``programs/substitution.py`` puts numbers in place of the symbols again.

Recordings may also differ in the dtype of the model. Then ``DTYPE`` stands for it. Where they differ in whether a rate
of the config is zero, ``Rate`` stands for that.

Slots, axes and names are the same in all recordings of one structure. Where they are not, the recordings do not belong
together, and that is refused as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

from ..errors import InputError, OtherStructure
from ..ledger.sizes import Poly, Size, product, simplify, symbol
from ..programs.module_table import NamedModule
from ..programs.program import (
    Autocast,
    Body,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Exit,
    Function,
    GradMode,
    Made,
    Program,
    Rate,
    Ref,
    Repeat,
    Stored,
    Weight,
)
from ..programs.rows import Rows
from ..programs.substitution import DTYPE, sizes_symbol, substitute

Recording = tuple[Mapping[str, int], Program]
"""The values of the symbols by name, and what was recorded at them."""
_DEGREE = 4
"""The highest degree of a monomial."""
_FACTORS = (Fraction(1), *map(Fraction, (2, 3, 4, 6, 8)), Fraction(1, 2), Fraction(1, 4), Fraction(3, 2))
_OFFSETS = tuple(sign * n for n in range(1, 9) for sign in (1, -1))
"""The small numbers that a monomial may differ by."""


class _NoExpression(Exception):
    """No expression equals these numbers."""


class _Different(Exception):
    """Recordings differ in something that is no size."""


class _Candidate(NamedTuple):
    cost: tuple[int, ...]
    """The number of factors, how unusual the coefficient is, and the symbols' places in the list."""
    values: tuple[int, ...]
    names: tuple[str, ...]
    factor: Fraction

    @property
    def poly(self) -> Poly:
        made = product(sizes_symbol(name) for name in self.names) * self.factor.numerator
        assert isinstance(made, Poly)
        return made // self.factor.denominator


class _Expressions:
    """The expressions of the symbols, by their values in all recordings."""

    def __init__(self, points: Sequence[Mapping[str, int]]) -> None:
        names = list(points[0])
        if any(list(point) != names for point in points):
            raise InputError("the recordings to be fitted name different symbols")
        columns = {name: tuple(point[name] for point in points) for name in names}
        self._batches = columns.get("B", (0,) * len(points))
        self._found: dict[tuple[int, ...], Size] = {}
        self._monomials: dict[tuple[int, ...], _Candidate] = {}
        varied = [name for name in names if len(set(columns[name])) > 1]
        for degree in range(1, _DEGREE + 1):
            for chosen in itertools.combinations_with_replacement(range(len(varied)), degree):
                values = (1,) * len(points)
                for i in chosen:
                    values = tuple([a * b for a, b in zip(values, columns[varied[i]], strict=True)])
                for rank, factor in enumerate(_FACTORS):
                    top, bottom = factor.numerator, factor.denominator
                    if bottom != 1 and any(value * top % bottom for value in values):
                        continue
                    scaled = tuple([value * top // bottom for value in values])
                    cost = (degree + min(rank, 1), rank, *chosen)
                    known = self._monomials.get(scaled)
                    if known is None or cost < known.cost:
                        self._monomials[scaled] = _Candidate(cost, scaled, tuple(varied[i] for i in chosen), factor)
        ordered = sorted(self._monomials.values())
        self._cubic = [c for c in ordered if len(c.names) <= 3 and c.factor.denominator == 1]
        self._whole = [c for c in ordered if c.factor == 1]
        self._square = [c for c in ordered if len(c.names) <= 2 and c.factor in (1, 2)]

    def __call__(self, values: tuple[int, ...]) -> Size:
        if values not in self._found:
            self._found[values] = self._search(values)
        return self._found[values]

    def _search(self, values: tuple[int, ...]) -> Size:
        if len(set(values)) == 1:
            return values[0]
        if (one := self._monomials.get(values)) is not None:
            return one.poly
        for offset in _OFFSETS:
            if (one := self._monomials.get(tuple([v - offset for v in values]))) is not None:
                return one.poly + offset
        for one in self._square:  # such as a head without its rotated part, whose size the structure says
            for sign in (1, -1):
                if len({v - sign * x for v, x in zip(values, one.values, strict=True)}) == 1:
                    return sign * one.poly + (values[0] - sign * one.values[0])
        for one in self._whole:  # such as a multiple of the chunks of a state-space layer
            times, rest = divmod(values[0], one.values[0])
            if not rest and all(v == times * x for v, x in zip(values, one.values, strict=True)):
                return one.poly * times
        found = self._two(values)
        if found is None:
            found = self._three(values)
        for offset in (1, -1):  # such as a sequence that is padded for a kernel of some width
            if found is None and (two := self._two(tuple([v - offset for v in values]))) is not None:
                found = two + offset
        if found is None and all(b and v % b == 0 for v, b in zip(values, self._batches, strict=True)):
            each = tuple([v // b for v, b in zip(values, self._batches, strict=True)])  # such as a cache's storage
            if (one := self._monomials.get(each)) is not None:
                found = one.poly * symbol("B")
            elif (two := self._two(each)) is not None:
                found = two * symbol("B")
        if found is None:
            raise _NoExpression
        return found

    def _two(self, values: tuple[int, ...]) -> Size | None:
        best: tuple[tuple[int, ...], Size] | None = None
        for first in self._cubic:
            for sign in (1, -1):
                rest = self._monomials.get(tuple([v - sign * f for v, f in zip(values, first.values, strict=True)]))
                if rest is not None:
                    cost = (sign < 0, first.cost[0] + rest.cost[0], *first.cost, *rest.cost)
                    if best is None or cost < best[0]:
                        best = cost, rest.poly + sign * first.poly
        return None if best is None else best[1]

    def _three(self, values: tuple[int, ...]) -> Size | None:
        best: tuple[tuple[int, ...], Size] | None = None
        for i, first in enumerate(self._square):
            for second in self._square[i + 1 :]:
                left = tuple([v - a - b for v, a, b in zip(values, first.values, second.values, strict=True)])
                if (third := self._monomials.get(left)) is not None:
                    cost = (first.cost[0] + second.cost[0] + third.cost[0], *first.cost, *second.cost)
                    if best is None or cost < best[0]:
                        best = cost, first.poly + second.poly + third.poly
        return None if best is None else best[1]


class _Multilinear:
    """Sums of products of different symbols, such as c + b*B + s*S + d*B*S, from as many points; others must agree."""

    def __init__(self, points: Sequence[Mapping[str, int]]) -> None:
        axes = [name for name in points[0] if len({point[name] for point in points}) > 1]
        chosen = [term for n in range(len(axes) + 1) for term in itertools.combinations(axes, n)]
        self._rows = [[Fraction(prod(point[name] for name in term)) for term in chosen] for point in points]
        self._inverse = _inverse(self._rows[: len(chosen)])
        self._basis = [product([symbol(name) for name in term]) for term in chosen]
        self._found: dict[tuple[int, ...], Size] = {}

    def __call__(self, values: tuple[int, ...]) -> Size:
        if len(set(values)) == 1:
            return values[0]
        if values not in self._found:
            coefficients = [sum(a * v for a, v in zip(row, values, strict=False)) for row in self._inverse]
            for row, value in zip(self._rows, values, strict=True):
                if sum(a * c for a, c in zip(row, coefficients, strict=True)) != value:
                    raise _NoExpression
            total: Size = 0
            for coefficient, term in zip(coefficients, self._basis, strict=True):
                if coefficient:
                    part = term * Poly({0: 1}) * Fraction(coefficient).numerator
                    total = part // Fraction(coefficient).denominator + total
            self._found[values] = simplify(total)
        return self._found[values]


def _inverse(matrix: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    n = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for i in range(n):
        pivot = next((k for k in range(i, n) if rows[k][i]), None)
        if pivot is None:
            raise InputError("the recordings' batches and sequences do not tell a fit apart; take other ones")
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


def fit(recordings: Sequence[Recording], rates: Mapping[str, Sequence[float]] | None = None) -> Program:
    """The program whose sizes are expressions of the symbols. Raises ``InputError`` where a size equals none.

    All recordings are of one structure: they have the same events and differ in integers alone, and in ``rates``: for
    each key of a config, 0.0 or 1.0 in each recording.
    """
    if len(recordings) < 3:
        raise InputError("a fit needs three recordings or more; one or two equal too many expressions")
    expressions = _Expressions([values for values, _ in recordings])
    return _fit([program for _, program in recordings], expressions, rates or {})


def fit_inputs(recordings: Sequence[Recording]) -> Program:
    """The program of one model in the sizes of its inputs, such as the batch B and the sequence S.

    2^n recordings are needed where n sizes differ among them, which come first and are products of two values of each,
    and one more to check the fit. Raises ``InputError`` where a size is no such polynomial.
    """
    return _fit([program for _, program in recordings], _Multilinear([values for values, _ in recordings]))


_SAME = ("inputs", "outputs", "layers", "stacks", "plain", "tied", "checkpoints", "returns_cache")
"""Parts of a program that have no sizes."""
Expression = Callable[[tuple[int, ...]], Size]


class _Words(NamedTuple):
    """What recordings differ in beside sizes: the models' dtypes, and rates by their values."""

    dtypes: tuple[str, ...]
    rates: Mapping[tuple[float, ...], Rate]


def same_calls(a: Program, b: Program) -> bool:
    """Whether two programs differ in sizes at most."""
    try:
        _fit([a, b], lambda values: 0)
    except InputError:
        return False
    return True


def same_but_rate(a: Program, b: Program, rate: tuple[float, float]) -> bool:
    """Whether two programs differ in a rate alone, which is 0.0 in one and 1.0 in the other."""
    try:
        fitted = _fit([a, b], lambda values: values[0], {"rate": rate})
    except InputError:
        return False
    return all(substitute(fitted, {}, rates={"rate": x}) == program for x, program in zip(rate, (a, b), strict=True))


def _fit(
    programs: Sequence[Program], expression: Expression, rates: Mapping[str, Sequence[float]] | None = None
) -> Program:
    first = programs[0]
    words = _Words(
        tuple(p.dtype for p in programs), {tuple(values): Rate(key) for key, values in (rates or {}).items()}
    )

    def same(name: str) -> Any:
        values = [getattr(program, name) for program in programs]
        for value in values[1:]:
            if value != values[0]:
                raise OtherStructure(f"the recordings are not of one structure: their {name} differ")
        return values[0]

    def rows(name: str) -> tuple[Any, ...]:
        return tuple(_merged(row, expression, words) for row in _together([getattr(p, name) for p in programs], name))

    bodies = []
    for body in _together([p.bodies for p in programs], "kinds of layers"):
        if len({b.exit for b in body}) > 1:
            raise OtherStructure("the recordings are not of one structure: their layers differ")
        events = _together([b.events for b in body], "events of a layer")
        bodies.append(Body(tuple(_merged(event, expression, words) for event in events), body[0].exit))
    return replace(
        first,
        modules=rows("modules"),
        parameters=rows("parameters"),
        buffers=rows("buffers"),
        attributes=rows("attributes"),
        before=rows("before"),
        between=tuple(
            [_merged(events, expression, words) for events in _together([p.between for p in programs], "stacks")]
        ),
        bodies=tuple(bodies),
        after=rows("after"),
        dtype=first.dtype if len(set(words.dtypes)) == 1 else DTYPE,
        **{name: same(name) for name in _SAME},
    )


def _together(lists: Sequence[Sequence[Any]], name: str) -> Iterator[tuple[Any, ...]]:
    lengths = {len(one) for one in lists}
    if len(lengths) > 1:
        raise OtherStructure(f"the recordings are not of one structure: they have {_numbers(sorted(lengths))} {name}")
    return zip(*lists, strict=True)


def _merged(items: tuple[Any, ...], expression: Expression, words: _Words) -> Any:
    """One event or row from those of all recordings. What goes wrong is reported with the call."""
    numbers: list[tuple[int, ...]] = []

    def found(values: tuple[int, ...]) -> Size:
        try:
            return expression(values)
        except _NoExpression:
            numbers.append(values)
            raise

    try:
        return _merge(items, found, words)
    except _NoExpression:
        raise InputError(f"no expression of the sizes is {_numbers(numbers[0])} in {_described(items[0])}") from None
    except _Different:
        other = next((x for x in items if _skeleton(x) != _skeleton(items[0])), items[-1])
        raise OtherStructure(
            f"the recordings are not of one structure: {_described(items[0])} in one, {_described(other)} in another"
        ) from None


def _skeleton(item: Any) -> Any:
    """What must be the same in all recordings."""
    if type(item) in (int, str):
        return item if type(item) is str else int
    if type(item) is tuple or type(item) in _SIZES:
        sizes = _SIZES.get(type(item), range(len(item)))
        return (type(item), *[_skeleton(x) if i in sizes else x for i, x in enumerate(item)])
    return item


def _described(item: Any) -> str:
    if isinstance(item, Call):
        return f"the call {item.op}{item.args!r}"
    if isinstance(item, (NamedModule, Stored)):
        return f"{item[0]} of shape {item.shape}"
    if isinstance(item, Function):
        return f"the custom function {item.name}"
    return repr(item)


def _numbers(values: Sequence[int]) -> str:
    return " and ".join([", ".join(map(str, values[:-1])), str(values[-1])]) if len(values) > 1 else str(values[0])


def _merge(items: Sequence[Any], expression: Expression, words: _Words) -> Any:
    if any(type(item) is DtypeOf for item in items):
        return _merged_dtypes(items, expression, words)
    first = items[0]
    kind = type(first)
    if any(type(item) is not kind for item in items):
        raise _Different
    if kind is int:
        return expression(tuple(items))
    if kind is str or kind is float:
        if all(item == first for item in items):
            return first
        word = DTYPE if tuple(items) == words.dtypes else words.rates.get(tuple(items))
        if word is None:
            raise _Different
        return word
    if kind is tuple:
        if any(len(item) != len(first) for item in items):
            raise _Different
        return tuple([_merge(parts, expression, words) for parts in zip(*items, strict=True)])
    sizes = _SIZES.get(kind, ())
    if not sizes:
        if any(item != first for item in items):
            raise _Different
        return first
    fields = []
    for i, parts in enumerate(zip(*items, strict=True)):
        if i in sizes:
            fields.append(_merge(parts, expression, words))
        elif any(part != parts[0] for part in parts):
            raise _Different
        else:
            fields.append(parts[0])
    return kind(*fields)


def _merged_dtypes(items: Sequence[Any], expression: Expression, words: _Words) -> Any:
    """A dtype that a module has asked a tensor for, in a recording at least. One that is the same in models of every
    dtype does not follow from a tensor. In float32 it may have been asked of another tensor, which is float32 always.
    """
    merged = _merge([x.dtype if type(x) is DtypeOf else x for x in items], expression, words)
    slots = {
        x.slot if type(x) is DtypeOf else None
        for x, dtype in zip(items, words.dtypes, strict=True)
        if dtype != "float32"
    }
    if merged != DTYPE and len(set(words.dtypes)) > 1:
        return merged
    (slot,) = slots if len(slots) == 1 else (None,)
    return merged if slot is None else DtypeOf(slot, merged)


_SIZES: dict[type, tuple[int, ...]] = {
    Call: (1, 2, 3), Made: (1, 2), Stored: (1, 2, 6), NamedModule: (2,), Function: (1, 2, 3, 9), Repeat: (0, 3),
    Rows: (0, 1),
}  # fmt: skip
"""The fields that sizes and dtypes are in. What is not here has none: its integers are slots."""
assert not {Ref, Weight, Drop, Enter, Exit, GradMode, Autocast} & set(_SIZES)


def symbols_of(program: Program) -> set[str]:
    """The names of the symbols in a program's sizes."""
    found: set[str] = set()

    def note(tree: Any) -> None:
        if isinstance(tree, Poly):
            found.update(tree.symbols())
        elif isinstance(tree, tuple):
            for x in tree:
                note(x)

    bodies = tuple([body.events for body in program.bodies])
    note((program.modules, program.parameters, program.buffers, program.attributes))
    note((program.outside, bodies))
    return found
