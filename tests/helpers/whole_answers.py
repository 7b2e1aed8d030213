"""Everything that an answer has, part by part, compared with tables in ``tests/data/whole_answers``.

A row of a table is a question, one part of its answer, and that part: as it is where it is short, else a checksum; of
a part that has several, the checksum of each. So a rule that changes shows where it acts, though no total moves.
``python -m tests.cases.whole_answers`` writes the tables anew, and prints a part in full.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import chdir
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from estimator.errors import InputError
from tests.helpers.files import DATA

TABLES = DATA / "whole_answers"
Parts = Mapping[str, Any]
"""An answer by the names of its parts."""
SHORT = 64
"""The most characters of a part that is recorded as it is."""


class Each(list[Any]):
    """Parts that are recorded beside each other."""


def said(value: Any) -> str:
    """A value in words that are the same in every process: no address, sets in order, classes and functions by name."""
    return _way(type(value))(value)


@cache
def _way(kind: type) -> Callable[[Any], str]:
    """How values of a type are put into words. An answer has millions of values, of few types."""
    name = kind.__name__
    if kind in (int, bool, type(None)):
        return str
    if issubclass(kind, BaseModel):
        return lambda value: f"{name}{said({key: getattr(value, key) for key in sorted(value.model_fields_set)})}"
    if is_dataclass(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        names = [one.name for one in fields(kind) if one.compare] if is_dataclass(kind) else kind._fields
        return lambda value: f"{name}({', '.join([f'{one}={said(getattr(value, one))}' for one in names])})"
    if issubclass(kind, Mapping):
        return lambda value: "{" + ", ".join([f"{said(key)}: {said(one)}" for key, one in value.items()]) + "}"
    if issubclass(kind, Set):
        return lambda value: "{" + ", ".join(sorted(map(said, value))) + "}"
    if issubclass(kind, (list, tuple)):
        return lambda value: "[" + ", ".join(map(said, value)) + "]"
    if issubclass(kind, partial):
        return lambda value: f"{said(value.func)}{said(value.args)}{said(value.keywords)}"
    if issubclass(kind, float):
        return lambda value: f"{value:.9g}"
    return _word


def _word(value: Any) -> str:
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    found = str(value)
    return type(value).__qualname__ if " object at 0x" in found else " ".join(found.split("\n"))


def checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def short(part: str | list[str]) -> str:
    """A part as it is recorded."""
    if isinstance(part, list):
        return " ".join(map(checksum, part))
    return part if len(part) <= SHORT and "\t" not in part else f"{len(part)} characters, {checksum(part)}"


def parts_of(value: Any) -> dict[str, Any]:
    """The fields of an object as parts."""
    names = value._fields if isinstance(value, tuple) else [one.name for one in fields(value)]
    return {name: getattr(value, name) for name in names}


Said = Mapping[str, str | list[str]]


def answered(asked: Callable[[], Parts]) -> Said:
    """The parts of an answer in words; of a question that is refused the sentence."""
    try:
        return {k: [*map(said, part)] if isinstance(part, Each) else said(part) for k, part in asked().items()}
    except InputError as error:
        return {"refused": said(error)}


def here(folder: Path, ask: Callable[[], Parts]) -> Callable[[], Parts]:
    """A question about files of a folder, by their names."""

    def asked() -> Parts:
        with chdir(folder):
            return ask()

    return asked


@cache
def table(group: str) -> dict[str, dict[str, str]]:
    """The parts of each question's answer as they are recorded."""
    found: dict[str, dict[str, str]] = {}
    for line in (TABLES / f"{group}.tsv").read_text(encoding="utf-8").splitlines():
        name, part, text = line.split("\t")
        found.setdefault(name, {})[part] = text
    return found


def write(group: str, answers: Iterable[tuple[str, Said]]) -> None:
    """Write a table."""
    lines = [f"{name}\t{part}\t{short(found)}\n" for name, answer in answers for part, found in answer.items()]
    path: Path = TABLES / f"{group}.tsv"
    path.write_text("".join(lines), encoding="utf-8")


def differences(group: str, name: str, answer: Said) -> Iterator[str]:
    """The parts of an answer that are not those recorded, a line each."""
    recorded = table(group).get(name, {})
    for part in {**recorded, **answer}:
        before, found = recorded.get(part, "nothing"), answer.get(part, "nothing")
        now = short(found)
        if isinstance(found, list) and now != before:
            sums = [*before.split(), *[""] * len(found)]
            at = next((i for i, one in enumerate(found) if checksum(one) != sums[i]), len(found) - 1)
            yield f"{name}, {part}, {at} of {len(found)}: found {found[at][:300] if found else now}"
        elif now != before:
            yield f"{name}, {part}: {before} is recorded, found {now}" + f": {found[:300]}" * (found != now)


def assert_recorded(group: str, questions: Iterable[tuple[str, Callable[[], Parts]]]) -> None:
    """Witness: the table, of what this project itself answered before."""
    __tracebackhide__ = True
    left = set(table(group))
    for name, asked in questions:  # the first that differs is enough: most rules act on many
        left.discard(name)
        found = [*differences(group, name, answered(asked))]
        assert not found, "\n".join([f"{len(found)} parts differ from those recorded", *found])
    assert not left, f"recorded and not asked: {sorted(left)}"
