"""A family's program as a file, and back: JSON, an event a line.

A tensor is written ``%slot``, its dtype ``*slot``, a weight ``@name``, a text ``'text``, an expression of sizes
``=text`` and a rate of the config ``?key``. Slots of layers are the distance to the layer, a dot and a number
(``program.SPAN``); the layer's own begin with the dot.

A file may come from anywhere, so everything in it is checked as it is read: the calls by name, the slots that they use,
the modules that are entered and left, expressions, and how much there is of each. What is wrong is one ``InputError``.
Nothing in a file is executed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.files import parse_json, read_text
from ...operators.table import RULES
from ..family import ONES, Family
from .limits import LONGEST_FILE, MOST_LAYERS, MOST_PROGRAMS
from .near import LONG_PARTS, all_near, is_near
from .reading import OtherFormat, Reader
from .writing import with_ones, written, written_together

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


BEYOND_HEAD = (
    *("ones", "path", "layers", "inputs", "outputs", "tied", "modules", "parameters", "buffers", "attributes"),
    *("before", "after", "bodies"),
)
"""The parts of a program that say nothing of its configs, but for symbols that may be 1."""


def load_together(path: Path) -> list[Family]:
    """The programs in a file, their heads alone. Raises ``InputError`` for anything that is no program."""
    return read_together(read_text(path, "a file that `estimator record` has written", LONGEST_FILE), str(path))


def read_together(text: str, where: str, known: Collection[str] = RULES) -> list[Family]:
    """The programs in a text, their heads alone."""
    rows = _rows(text, where)
    found: list[Family] = []
    heads: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        title = f"{where}: program {i}"
        own = dict(row)
        like = Reader(where, known).integer(own.pop("like", 0), "like", 0, max(i - 1, 0))
        Reader(where, known).flag(own.pop("near", False), "near")
        heads.append({**heads[like], **own} if i else own)
        reader, whole = Reader(title, known), partial(_read_whole, text, where, i, title, known)
        if i and own.keys() <= {*BEYOND_HEAD, "settings", "chunk"}:  # of the same configs as the other one
            data = reader.checked(heads[i])
            found.append(replace(found[like], settings=reader.served(data), **reader.regime(data), read=whole))
            continue
        found.append(replace(reader.head(heads[i]), read=whole))
    return found


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
    reader = Reader(where, known)
    return reader.family(_whole(reader, _rows(text, source), i))


def _whole(reader: Reader, rows: Sequence[dict[str, Any]], i: int) -> dict[str, Any]:
    """A program's plain form, of what differs from another one's."""
    own = {key: value for key, value in rows[i].items() if key not in ("like", "near")}
    other = _whole(reader, rows, rows[i].get("like", 0)) if i else {}
    ones = own.get("ones")
    fixed = [x for x in ones[0] if x in ONES] if isinstance(ones, list) and ones and isinstance(ones[0], list) else []
    near = bool(i) and (rows[i].get("near", False) or is_near({**other, **own}))
    try:
        base = (all_near(with_ones(other, fixed)) if near else with_ones(other, fixed)) if i else {}
    except (InputError, AttributeError, KeyError, TypeError):
        reader.wrong("an earlier program has an expression that is none")
    whole = {**base, **own}
    for key in LONG_PARTS:
        if i and key in own:
            whole[key] = reader.copied(base.get(key), own[key], key)
    if "bodies" in own:
        known = reader.list_(base.get("bodies", []), "bodies", MOST_LAYERS)
        whole["bodies"] = []
        for k, body in enumerate(reader.list_(own["bodies"], "bodies", MOST_LAYERS)):
            others = [*known, *whole["bodies"]]
            if len(reader.list_(body, "a body", 3)) not in (2, 3):
                reader.wrong("a layer has the index of its exit, its events, and perhaps a layer that is like it")
            like = k if len(body) == 2 else reader.integer(body[2], "a layer", 0, len(others) - 1)
            first = others[like] if len(body) == 3 or like < len(known) else [0, []]
            if len(reader.list_(first, "a body", 2)) != 2:
                reader.wrong("a layer has the index of its exit, and its events")
            whole["bodies"].append([body[0], reader.copied(first[1], body[1], "bodies")])
    return all_near(whole, back=True) if near else whole
