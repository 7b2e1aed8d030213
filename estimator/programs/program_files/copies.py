"""The lists of a file, of which each has what is new in it, and the places of what stands before in it or in others.

``[start, stop]`` are places in all lists of the file, one behind the other; ``[start, stop, dtype]`` are those of
weights of another dtype. A program of a fixed symbol has the rows that it takes from others where that symbol is 1.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from ...errors import InputError
from ...ledger.sizes import Poly, format_poly
from ..expressions import polynomial
from ..step import CACHED_SIZES, OF_STEPS
from ..substitution import LAYER, PASS, sizes_symbol
from .limits import MOST_EVENTS, MOST_OF_FILE

STORED = ("parameters", "buffers", "attributes")
"""Those whose rows are a name, a dtype and more."""
LONG_PARTS = ("modules", *STORED, "before", "after")
"""The parts of a program that are a list."""
PARTS_WITH_LISTS = (*LONG_PARTS, "between", "bodies")
"""The parts that are or have lists, in the order in which places are counted."""
Form = Callable[[Any], Any]
"""A row as a program has it that takes it from another one."""
_NAMES = re.compile(r"[A-Za-z_]\w*")


def where_one(symbols: Collection[str], known: Collection[str]) -> Form:
    """Rows where some sizes are 1, of expressions of the ``known`` ones. Raises ``InputError`` for others."""
    found: dict[str, Any] = {}
    names = {*known, *OF_STEPS, *CACHED_SIZES, PASS, LAYER}

    def at_one(tree: Any) -> Any:
        if isinstance(tree, list):
            return [at_one(x) for x in tree]
        if isinstance(tree, dict):
            return {key: at_one(x) for key, x in tree.items()}
        if isinstance(tree, str) and tree.startswith("="):
            if tree not in found:
                found[tree] = tree
                if not used.isdisjoint(_NAMES.findall(tree)):
                    size = polynomial(tree[1:], names).substitute(dict.fromkeys(symbols, 1))  # type: ignore[union-attr]
                    found[tree] = f"={format_poly(size)}".replace(" ", "") if isinstance(size, Poly) else size
            return found[tree]
        return tree

    used = {*symbols}
    for name in names if used else ():
        sizes_symbol(name)
    return at_one if used else lambda tree: tree


def is_copy(row: Any) -> bool:
    """Whether a row of a file stands for rows of the lists before."""
    return isinstance(row, list) and len(row) in (2, 3) and type(row[0]) is int and type(row[1]) is int


class Asked(NamedTuple):
    """A list as a file has it, and what its program makes of the rows of others."""

    rows: Any
    form: Form
    place: str
    """What messages call it."""
    stored: bool = False
    """Its rows are weights."""


class Lists:
    """The lists of a file. ``wrong`` raises ``InputError`` for what is none, at a place."""

    def __init__(self, asked: Sequence[Asked], wrong: Callable[[str, str], NoReturn]) -> None:
        self._asked, self._wrong = asked, wrong
        self._whole: dict[int, list[Any]] = {}
        self._starts: list[int] = []
        """Where the lists start that have rows; ``_filled`` are these."""
        self._filled: list[int] = []
        self.lengths: list[int] = []
        """The rows of each list."""
        stop = 0
        for number, one in enumerate(asked):
            self.lengths.append(length := self._length(one, stop))
            if length:
                self._starts.append(stop)
                self._filled.append(number)
            stop += length
            if stop > MOST_OF_FILE:
                wrong(one.place, f"the file has more than {MOST_OF_FILE:,} rows")

    def _length(self, one: Asked, before: int) -> int:
        if not isinstance(one.rows, list):
            self._wrong(one.place, "it must be a list")
        count = 0
        for row in one.rows:
            if is_copy(row):
                if not 0 <= row[0] <= row[1] <= before + count:
                    self._wrong(one.place, f"{row[:2]} are no places before it")
                count += row[1] - row[0]
            else:
                count += 1
        if count > MOST_EVENTS:
            self._wrong(one.place, f"it has more than {MOST_EVENTS:,} rows")
        return count

    def whole(self, number: int) -> list[Any]:
        """All rows of a list."""
        waiting, needed = [number], {number}
        while waiting:
            for start, stop, *_ in filter(is_copy, self._asked[waiting.pop()].rows):
                for other in self._of(start, stop):
                    if other not in needed and other not in self._whole:
                        needed.add(other)
                        waiting.append(other)
        for one in sorted(needed - self._whole.keys()):
            self._whole[one] = rows = []
            for row in self._rows(self._asked[one]):
                rows.append(row)
        return self._whole[number]

    def _of(self, start: int, stop: int) -> Iterator[int]:
        """The lists with rows in these places."""
        if start < stop:
            first, last = (bisect_right(self._starts, place) - 1 for place in (start, stop - 1))
            yield from self._filled[first : last + 1]

    def _rows(self, asked: Asked) -> Iterator[Any]:
        for row in asked.rows:
            if not is_copy(row):
                yield row
                continue
            for number in self._of(row[0], row[1]):
                first = self._starts[bisect_right(self._filled, number) - 1]
                for one in self._whole[number][max(row[0] - first, 0) : row[1] - first]:
                    yield self._copied(one, row[2:], asked)

    def _copied(self, row: Any, dtype: Sequence[Any], asked: Asked) -> Any:
        if dtype and type(row) is not int:
            if not asked.stored or not isinstance(row, list) or len(row) < 2:
                self._wrong(asked.place, f"{dtype[0]!r:.40} is a dtype of what has none")
            row = [row[0], dtype[0], *row[2:]]
        try:
            return asked.form(row)
        except (InputError, AttributeError, KeyError, TypeError):
            self._wrong(asked.place, "an earlier row has an expression that is none")


class Writer:
    """Writes the lists of a file, one behind the other. ``known`` are the sizes of all its programs."""

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = known
        self._rows: list[Any] = []
        self._seen: dict[tuple[Collection[str], bool], _Seen] = {}

    def form(self, symbols: Collection[str]) -> Form:
        """Rows where these symbols are 1."""
        return where_one(symbols, self._known)

    def written(self, rows: Sequence[Any], symbols: Collection[str] = (), stored: bool = False) -> list[Any]:
        """A list as the file has it, of a program of these fixed ``symbols``."""
        seen = self._seen.setdefault((tuple(symbols), stored), _Seen(self.form(symbols), stored))
        made: list[Any] = []
        at = 0
        while at < len(rows):
            seen.read(self._rows)
            start, count = seen.longest(rows, at)
            copies = [[start, start + count]] if not stored else list(self._of_dtypes(rows[at : at + count], start))
            if count and len(_json(copies)) < len(_json(rows[at : at + count])):
                made += copies
            else:
                count = 1
                made.append(rows[at])
            self._rows += rows[at : at + count]
            at += count
        return made

    def _of_dtypes(self, rows: Sequence[Any], start: int) -> Iterator[list[Any]]:
        """The places of weights that are equal but for their dtypes."""
        run: list[Any] = []
        for place, row in enumerate(rows, start):
            other = self._rows[place]
            dtype = [] if type(row) is int or row[1] == other[1] else [row[1]]
            if run and (type(row) is int or run[2:] == dtype):
                run[1] += 1
                continue
            if run:
                yield run
            run = [place, place + 1, *dtype]
        if run:
            yield run


GRAMS = (32, 8, 2, 1)
"""How many rows in a row are looked up."""
_MOST_PLACES = 100
"""The most places from which it is tried how many rows are alike, the last ones."""


class _Seen:
    """The rows before a list, in the form that its program takes them in."""

    def __init__(self, form: Form, stored: bool) -> None:
        self._form, self._stored = form, stored
        self._texts: list[str] = []
        self._places: dict[tuple[str, ...], list[int]] = {}

    def read(self, rows: Sequence[Any]) -> None:
        for row in rows[len(self._texts) :]:
            self._texts.append(self._text(self._form(row)))
            for count in GRAMS:
                if len(self._texts) >= count:
                    self._places.setdefault(tuple(self._texts[-count:]), []).append(len(self._texts) - count)

    def _text(self, row: Any) -> str:
        return _json([row[0], *row[2:]] if self._stored and isinstance(row, list) else row)

    def longest(self, rows: Sequence[Any], at: int) -> tuple[int, int]:
        """Where most of the rows from a place on stand already, and how many they are."""
        texts = [self._text(row) for row in rows[at : at + GRAMS[0]]]
        grams = (tuple(texts[:count]) for count in GRAMS if count <= len(texts))
        best = 0, 0
        for start in next((self._places[gram] for gram in grams if gram in self._places), [])[-_MOST_PLACES:]:
            count = 1
            while (
                at + count < len(rows)
                and start + count < len(self._texts)
                and self._texts[start + count] == self._text(rows[at + count])
            ):
                count += 1
            if count >= best[1]:
                best = start, count
        return best


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
