"""What two methods save for backward, side by side: the rows that both keep, and those that only one keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from typing import Any

from .explanation import Explanation, Part, Row, exact, layers_name


@dataclass(frozen=True)
class Pair:
    """A kind of layer under both methods, or a part of the model outside of its layers; each row once."""

    name: str
    layers: tuple[tuple[int, ...], ...]
    """As in ``Part``."""
    parts: tuple[Part | None, Part | None]
    """What each method keeps there; ``None`` for nothing."""
    both: tuple[tuple[Row, Row], ...]
    first: tuple[Row, ...]
    """The rows that the second method drops."""
    second: tuple[Row, ...]
    """The rows that the second method adds."""

    @property
    def count(self) -> int:
        """How many times the rows are there."""
        return len(self.layers) or 1

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of the rows of each method, once."""
        first, second = (0 if part is None else part.nbytes for part in self.parts)
        return first, second

    @property
    def per_token(self) -> tuple[Fraction, Fraction]:
        """Bytes of the rows of each method, once, divided by the tokens."""
        first, second = (Fraction(0) if part is None else part.per_token for part in self.parts)
        return first, second

    @property
    def dropped(self) -> Fraction:
        """Bytes per token of what only the first method keeps."""
        return _per_token(self.first)

    @property
    def added(self) -> Fraction:
        """Bytes per token of what only the second method keeps."""
        return _per_token(self.second)

    def to_dict(self) -> dict[str, Any]:
        """The pair as one JSON object."""
        return {
            "name": self.name,
            "layers": [list(unit) for unit in self.layers],
            "count": self.count,
            "bytes": list(self.nbytes),
            "bytes_per_token": [exact(value) for value in self.per_token],
            "dropped_bytes_per_token": exact(self.dropped),
            "added_bytes_per_token": exact(self.added),
            "formulas": [None if part is None else part.to_dict()["formula"] for part in self.parts],
            "both": [row.to_dict() for row, _ in self.both],
            "only_first": [row.to_dict() for row in self.first],
            "only_second": [row.to_dict() for row in self.second],
        }


@dataclass(frozen=True)
class TwoMethods:
    """Two explanations of plans that differ in the method alone, and their rows in pairs."""

    first: Explanation
    second: Explanation
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object; sizes are bytes."""
        return {
            "schema": 1,
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


def side_by_side(first: Explanation, second: Explanation) -> TwoMethods:
    """The rows of two explanations in pairs."""
    places: dict[tuple[Part | None, Part | None], list[tuple[int, ...]]] = {}
    ours, theirs = _units(first), _units(second)
    for unit in sorted({*ours, *theirs}):
        places.setdefault((ours.get(unit), theirs.get(unit)), []).append(unit)
    layers = [_pair(layers_name(units), tuple(units), *parts) for parts, units in places.items()]
    outside = [{part.name: part for part in one.parts if not part.layers} for one in (first, second)]
    pairs = {name: _pair(name, (), outside[0].get(name), outside[1].get(name)) for name in _merged(*outside)}
    before = {part.name for one in (first, second) for part in takewhile(lambda part: not part.layers, one.parts)}
    in_order = [
        *(pair for name, pair in pairs.items() if name in before),
        *layers,
        *(pair for name, pair in pairs.items() if name not in before),
    ]
    return TwoMethods(first, second, tuple(in_order))


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


def _pair(name: str, layers: tuple[tuple[int, ...], ...], first: Part | None, second: Part | None) -> Pair:
    """Rows are equal if operator, shape and bytes are, and their modules; else if one's module is in the other's."""
    ours, theirs = (list(part.rows) if part else [] for part in (first, second))
    both: list[tuple[Row, Row]] = []
    for equal in (_is_equal, _is_within):
        for row in list(ours):
            other = next((one for one in theirs if equal(row, one)), None)
            if other is not None:
                both.append((row, other))
                ours.remove(row)
                theirs.remove(other)
    order: Sequence[Row] = first.rows if first else ()
    both.sort(key=lambda pair: order.index(pair[0]))
    return Pair(name, layers, (first, second), tuple(both), tuple(ours), tuple(theirs))


def _is_equal(a: Row, b: Row) -> bool:
    return a.module == b.module and _kept_alike(a) == _kept_alike(b)


def _is_within(a: Row, b: Row) -> bool:
    """Whether an adapter within a layer keeps what the layer itself keeps, or the other way round."""
    inner, outer = sorted((f"{a.module}.", f"{b.module}."), key=len, reverse=True)
    return inner.startswith(outer) and _kept_alike(a) == _kept_alike(b)


def _kept_alike(row: Row) -> tuple[object, ...]:
    return row.operator, row.position, row.shape, row.dtype, row.nbytes


def _per_token(rows: Iterable[Row]) -> Fraction:
    return sum((row.per_token for row in rows), Fraction(0))
