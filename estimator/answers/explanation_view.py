"""Explanations as they are shown: of one method, or of two side by side, with each row that both keep once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from typing import Any

from ..errors import InputError
from ..plans.plan import Plan
from .comparison import label_of
from .config_names import named
from .explanation import Explanation, Part, Row, exact, layers_name

BOTH, FIRST, SECOND = (True, True), (True, False), (False, True)
"""Which of two methods keeps a row."""


@dataclass(frozen=True)
class Line:
    """A row, and for each method whether it keeps it."""

    row: Row
    kept: tuple[bool, ...]


@dataclass(frozen=True)
class Section:
    """A kind of layer, or a part of the model outside of its layers."""

    name: str
    layers: tuple[tuple[int, ...], ...]
    """As in ``Part``."""
    parts: tuple[Part | None, ...]
    """What each method keeps there; ``None`` for nothing."""
    lines: tuple[Line, ...]
    """In the order of the forward pass: what one of two methods adds follows what both keep there."""

    @property
    def count(self) -> int:
        """How many times the rows are there."""
        return len(self.layers) or 1

    @property
    def per_token(self) -> tuple[Fraction, ...]:
        """Bytes per token of each method, once."""
        return tuple(Fraction(0) if part is None else part.per_token for part in self.parts)

    @property
    def nbytes(self) -> tuple[int, ...]:
        """Bytes of each method, once."""
        return tuple(0 if part is None else part.nbytes for part in self.parts)

    @property
    def heading(self) -> str:
        """The name, and how many there are."""
        if self.count == 1:
            return self.name
        kind = "layers" if len(self.layers[0]) == 1 else "checkpoints"
        return f"{self.name} ({self.count} equal {kind})"

    def rows(self, kept: tuple[bool, ...]) -> list[Row]:
        """The rows that ``BOTH`` methods keep, or only one: the first drops them, or the second adds them."""
        found = {id(line.row) for line in self.lines if line.kept == kept}
        part = self.parts[kept.index(True)]
        return [] if part is None else [row for row in part.rows if id(row) in found]

    def only(self, method: int) -> Fraction:
        """Bytes per token of what one of two methods alone keeps."""
        return sum((row.per_token for row in self.rows((FIRST, SECOND)[method])), Fraction(0))

    def to_dict(self) -> dict[str, Any]:
        """A section of two methods as one JSON object."""
        return {
            "name": self.name,
            "layers": [list(unit) for unit in self.layers],
            "count": self.count,
            "bytes": list(self.nbytes),
            "bytes_per_token": [exact(value) for value in self.per_token],
            "dropped_bytes_per_token": exact(self.only(0)),
            "added_bytes_per_token": exact(self.only(1)),
            "formulas": [None if part is None else part.to_dict()["formula"] for part in self.parts],
            "both": [row.to_dict() for row in self.rows(BOTH)],
            "only_first": [row.to_dict() for row in self.rows(FIRST)],
            "only_second": [row.to_dict() for row in self.rows(SECOND)],
        }


@dataclass(frozen=True)
class View:
    """What is shown of one explanation or of two; of two, the second is the plan's own."""

    explanations: tuple[Explanation, ...]
    sections: tuple[Section, ...]

    @property
    def plan(self) -> Plan:
        """The plan that was asked about."""
        return self.explanations[-1].plan

    @property
    def labels(self) -> tuple[str, ...]:
        """The methods' names."""
        return tuple(label_of(one.plan) for one in self.explanations)

    @property
    def saved(self) -> tuple[int, ...]:
        """Bytes of all rows of each method."""
        return tuple(one.saved for one in self.explanations)

    @property
    def values(self) -> tuple[tuple[str, int], ...]:
        """The names in formulas, with their values."""
        return tuple({name: value for one in self.explanations for name, value in one.values}.items())

    @property
    def total_per_token(self) -> tuple[Fraction, ...]:
        """Bytes per token of each method, of all layers and what lies outside of them."""
        return tuple(Fraction(one.saved, one.tokens) for one in self.explanations)

    @property
    def per(self) -> str:
        """What bytes are divided by, a token or a row of the batch."""
        return self.explanations[-1].per

    def to_dict(self) -> dict[str, Any]:
        """One JSON object; sizes are bytes."""
        if len(self.explanations) == 1:
            return self.explanations[0].to_dict()
        first, second = self.explanations
        pairs = [section.to_dict() for section in self.sections]
        return {"schema": 1, "first": first.to_dict(), "second": second.to_dict(), "pairs": pairs}

    def of_layer(self, text: str) -> View:
        """The section of one layer alone. Raises ``InputError`` where there is none."""
        last = max((index for section in self.sections for unit in section.layers for index in unit), default=-1)
        if not text.isascii() or not text.isdecimal() or int(text) > last:
            raise InputError(
                f"--layer: '{text[:40]}' is no layer that saves anything; this model's are 0 to {last}"
                if last >= 0
                else "--layer: the layers of this plan save nothing by themselves; leave --layer out"
            )
        found = [s for s in self.sections if any(int(text) in unit for unit in s.layers)]
        if not found:
            raise InputError(f"--layer: layer {text} saves nothing; leave --layer out to see those that do")
        return replace(self, sections=tuple(found))


def view_of(explanation: Explanation) -> View:
    """One method's rows."""
    return View(
        (explanation,),
        tuple(
            Section(part.name, part.layers, (part,), tuple(Line(row, (True,)) for row in part.rows))
            for part in explanation.parts
        ),
    )


def side_by_side(first: Explanation, second: Explanation) -> View:
    """Two methods' rows: what both keep, what the second drops, and what it adds."""
    places: dict[tuple[Part | None, Part | None], list[tuple[int, ...]]] = {}
    ours, theirs = _units(first), _units(second)
    for unit in sorted({*ours, *theirs}):
        places.setdefault((ours.get(unit), theirs.get(unit)), []).append(unit)
    layers = [_section(layers_name(units), tuple(units), *parts) for parts, units in places.items()]
    outside = [{part.name: part for part in one.parts if not part.layers} for one in (first, second)]
    others = {name: _section(name, (), outside[0].get(name), outside[1].get(name)) for name in _merged(*outside)}
    before = {part.name for one in (first, second) for part in takewhile(lambda part: not part.layers, one.parts)}
    in_order = [
        *(section for name, section in others.items() if name in before),
        *layers,
        *(section for name, section in others.items() if name not in before),
    ]
    return View((first, second), tuple(in_order))


def _merged(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """The names of both, where those of the second alone follow what precedes them there."""
    names = list(first)
    at = 0
    for name in second:
        if name not in names:
            names.insert(at, name)
        at = names.index(name) + 1
    return names


def _units(explanation: Explanation) -> dict[tuple[int, ...], Part]:
    return {unit: part for part in explanation.parts for unit in part.layers}


def _section(name: str, layers: tuple[tuple[int, ...], ...], first: Part | None, second: Part | None) -> Section:
    return Section(name, layers, (first, second), _lines(first, second))


def _lines(first: Part | None, second: Part | None) -> tuple[Line, ...]:
    """Rows are equal if operator, shape and bytes are, and their modules; else if one's module is in the other's."""
    ours, theirs = (list(part.rows) if part else [] for part in (first, second))
    place = {id(row): (number, 0) for number, row in enumerate(ours)}
    same: dict[int, Row] = {}
    lines = []
    for equal in (_is_equal, _is_within):
        for row in list(ours):
            other = next((one for one in theirs if equal(row, one)), None)
            if other is not None:
                same[id(other)] = row
                lines.append(Line(row, BOTH))
                ours.remove(row)
                theirs.remove(other)
    at = -1
    for number, row in enumerate(second.rows if second else ()):
        if id(row) in same:
            at = place[id(same[id(row)])][0]
        else:
            place[id(row)] = at, 1 + number
            lines.append(Line(row, SECOND))
    lines += [Line(row, FIRST) for row in ours]
    return tuple(sorted(lines, key=lambda line: place[id(line.row)]))


def _is_equal(a: Row, b: Row) -> bool:
    return a.module == b.module and _kept_alike(a) == _kept_alike(b)


def _is_within(a: Row, b: Row) -> bool:
    """Whether an adapter within a layer keeps what the layer itself keeps, or the other way round."""
    inner, outer = sorted((f"{a.module}.", f"{b.module}."), key=len, reverse=True)
    return inner.startswith(outer) and _kept_alike(a) == _kept_alike(b)


def _kept_alike(row: Row) -> tuple[object, ...]:
    return row.operator, row.position, row.shape, row.dtype, row.nbytes


def shape_of(row: Row) -> str:
    """A row's shape in the config's names where they are known, such as ``[batch, seq, hidden_size]``."""
    sizes: Sequence[str] = [str(size) for size in row.shape] if row.symbols is None else [named(s) for s in row.symbols]
    return f"{f'{row.times} x ' if row.times > 1 else ''}[{', '.join(sizes)}]"


def numbers_of(row: Row) -> str:
    """A row's shape in numbers; empty where ``shape_of`` has no others."""
    numbers = f"[{', '.join(map(str, row.shape))}]"
    return "" if shape_of(row).endswith(numbers) else numbers


def why_of(row: Row) -> str:
    """Why a row is kept, and who else holds it."""
    also = f"; held by {', '.join(row.also)} too, counted once" if row.also else ""
    return f"{row.why}{also}"


def mixed(value: Fraction) -> str:
    """An exact number for people: ``92,360``, ``4 1/2``."""
    whole, rest = divmod(value.numerator, value.denominator)
    fraction = f"{rest}/{value.denominator}" if rest else ""
    return f"{whole:,} {fraction}".strip() if whole or not rest else fraction
