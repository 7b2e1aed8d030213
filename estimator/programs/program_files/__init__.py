"""A family's program as a file, and back: JSON, an event a line.

A tensor is written ``%slot``, its dtype ``*slot``, a weight ``@name``, a text ``'text``, an expression of sizes
``=text`` and a rate of the config ``?key``. How slots are named says ``slots.py``, and how the programs of a file share
what is alike ``copies.py``. The rows of a layer's modules and weights follow its number, and begin with ``{}``.

A file may come from anywhere, so everything in it is checked as it is read: the calls by name, the slots that they use,
the modules that are entered and left, expressions, and how much there is of each. What is wrong is one ``InputError``.
Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

from ...errors import InputError
from ...io.files import parse_json, read_text
from ...operators.table import RULES
from ..family import Family
from .copies import PARTS_WITH_LISTS, STORED, Asked, Form, Lists, where_one
from .limits import LONGEST_FILE, MOST_LAYERS, MOST_OF_FILE, MOST_PROGRAMS, MOST_STACKS
from .reading import OtherFormat, Reader
from .writing import written, written_together

__all__ = [
    "Family",
    "OtherFormat",
    "load",
    "load_together",
    "read",
    "read_together",
    "written",
    "written_together",
]


def load(path: Path) -> Family:
    """The family in a file. Raises ``InputError`` for anything that is no program."""
    return read(read_text(path, "a program that the estimator has written", LONGEST_FILE), str(path))


def read(text: str, where: str, known: Collection[str] = RULES) -> Family:
    """The family in a text. ``known`` are the functions that it may call."""
    if len(text) > LONGEST_FILE:
        raise InputError(f"'{where}' is longer than {LONGEST_FILE:,} characters")
    try:
        data = parse_json(text)
    except InputError as error:
        raise InputError(f"'{where}': {error}") from None
    return Reader(where, known).family(data)


BEYOND_HEAD = ("ones", "path", "layers", "inputs", "outputs", "tied", *PARTS_WITH_LISTS)
"""The parts of a program that say nothing of its configs, but for symbols that may be 1."""


def load_together(path: Path) -> list[Family]:
    """The programs in a file, their heads alone. Raises ``InputError`` for anything that is no program."""
    return read_together(read_text(path, "a file that `estimator record` has written", LONGEST_FILE), str(path))


def read_together(text: str, where: str, known: Collection[str] = RULES) -> list[Family]:
    """The programs in a text, their heads alone."""
    found: list[Family] = []
    heads: list[dict[str, Any]] = []
    for i, row in enumerate(_rows(text, where)):
        title, own = f"{where}: program {i}", dict(row)
        like = _like(Reader(where, known), own, i)
        heads.append({**heads[like], **own} if i else own)
        reader, whole = Reader(title, known), partial(_read_whole, text, where, i, title, known)
        if i and own.keys() <= {*BEYOND_HEAD, "settings", "chunk"}:  # of the same configs as the other one
            data = reader.checked(heads[i])
            found.append(replace(found[like], settings=reader.served(data), **reader.regime(data), read=whole))
            continue
        found.append(replace(reader.head(heads[i]), read=whole))
    return found


def _like(reader: Reader, own: dict[str, Any], i: int) -> int:
    """The place of the program that one of these parts is like, which is taken from them."""
    return reader.integer(own.pop("like", 0), "like", 0, max(i - 1, 0))


@lru_cache(maxsize=1)  # of one file several programs are read, one after another
def _rows(text: str, where: str) -> list[dict[str, Any]]:
    """The programs in a text, each as what differs from another one's."""
    try:
        data = parse_json(text)
    except InputError as error:
        raise InputError(f"'{where}': {error}") from None
    reader = Reader(where, ())
    data = reader.object_(data, "the file")
    if set(data) != {"format", "programs"}:
        reader.wrong("it must have format and programs, and nothing else")
    reader.format(data)
    return [reader.object_(row, "a program") for row in reader.list_(data["programs"], "programs", MOST_PROGRAMS)]


def _read_whole(text: str, source: str, i: int, where: str, known: Collection[str]) -> Family:
    return Reader(where, known).family(_file(text, source).whole(i))


@lru_cache(maxsize=1)
def _file(text: str, where: str) -> _File:
    return _File(_rows(text, where), where)


class _File:
    """The programs of a file, whose heads have been read."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], where: str) -> None:
        self._reader = Reader(where, ())
        self._own = [dict(row) for row in rows]
        self._likes = [_like(self._reader, own, i) for i, own in enumerate(self._own)]
        self._heads: list[dict[str, Any]] = []
        self._forms: list[Form] = []
        self._numbers: dict[tuple[int, str], range] = {}
        """The numbers of the lists of a program's part."""
        asked: list[Asked] = []
        symbols = {name for own in self._own for name in own.get("symbols", ())}
        for i, own in enumerate(self._own):
            self._heads.append({**self._heads[self._likes[i]], **own} if i else own)
            self._forms.append(where_one(self._heads[i]["ones"][0], symbols))
            for key in PARTS_WITH_LISTS:
                if key not in own:
                    self._numbers[i, key] = self._numbers[self._likes[i], key]
                    continue
                place, first = f"program {i}, {key}", len(asked)
                asked += [Asked(rows, self._forms[i], place, key in STORED) for rows in self._parts(key, own[key])]
                self._numbers[i, key] = range(first, len(asked))
        self._lists = Lists(asked, self._wrong)
        if sum(self._lists.lengths[n] for numbers in self._numbers.values() for n in numbers) > MOST_OF_FILE:
            self._wrong("the file", f"its programs have more than {MOST_OF_FILE:,} rows")

    def _wrong(self, place: str, what: str) -> NoReturn:
        self._reader.place = place
        self._reader.wrong(what)

    def _parts(self, key: str, part: Any) -> list[Any]:
        """The lists of a part of a program."""
        self._reader.place = key
        if key == "between":
            return self._reader.list_(part, key, MOST_STACKS)
        if key != "bodies":
            return [part]
        bodies = [self._reader.list_(body, "a body", 2) for body in self._reader.list_(part, key, MOST_LAYERS)]
        if any(len(body) != 2 for body in bodies):
            self._reader.wrong("a layer has the index of its exit, and its events")
        return [rows for _, rows in bodies]

    def whole(self, i: int) -> dict[str, Any]:
        """All parts of a program, with all rows of its lists."""
        made = dict(self._heads[i])
        for key in PARTS_WITH_LISTS:
            forms, k = [], i
            while key not in self._own[k]:  # as an earlier one has it, but where symbols are 1
                forms.append(self._forms[k])
                k = self._likes[k]
            parts = []
            for number in self._numbers[i, key]:
                rows = self._lists.whole(number)
                for form in reversed(forms):
                    rows = [form(row) for row in rows]
                parts.append(rows)
            if key == "bodies":
                made[key] = [[stop, rows] for (stop, _), rows in zip(made[key], parts, strict=True)]
            else:
                made[key] = parts if key == "between" else parts[0]
        return made
