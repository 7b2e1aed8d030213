"""A ``.pte`` file's plan: read from its header, a flatbuffer, of which nothing is executed.

Layout: ``schema/program.fbs`` and ``exir/_serialize/_program.py: _ExtendedHeader``. A table's fields are found by their
place in the schema. Every offset is checked against the program's size.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...io.files import opened

MOST = 2**28
"""Bytes of a program without its data, and the most that is read of a file."""
_MOST_ENTRIES = 10**6
"""The most entries of all lists together, and characters of all names: many lists may point at one table."""


@dataclass(frozen=True)
class Method:
    """An entry point of a program."""

    name: str
    planned: int
    """Bytes of its arenas."""
    delegates: tuple[str, ...]
    """What runs parts of it, by the names that the file has."""
    value: int | None
    """What a method that only answers a number answers."""


@dataclass(frozen=True)
class Program:
    """A file."""

    name: str
    size: int
    constants: int
    """Bytes of the segments of constants and of delegates' data."""
    methods: tuple[Method, ...]

    def number(self, name: str) -> int | None:
        """What a method without operators answers, such as ``get_max_context_len``."""
        return next((one.value for one in self.methods if one.name == name), None)


class _Buffer:
    """A flatbuffer. Raises ``struct.error`` and ``ValueError`` for what lies outside."""

    def __init__(self, data: bytes) -> None:
        self.data, self._left = data, _MOST_ENTRIES

    def take(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset before the start")
        found: int = struct.unpack_from(f"<{form}", self.data, at)[0]
        return found

    def field(self, table: int, place: int) -> int | None:
        """Where a table's field is; ``None`` where the file leaves it out."""
        entries = table - self.take("i", table)
        if 4 + 2 * place >= self.take("H", entries):
            return None
        offset = self.take("H", entries + 4 + 2 * place)
        return table + offset if offset else None

    def follow(self, table: int, place: int) -> int | None:
        """Where the table, text or list of a field is."""
        at = self.field(table, place)
        return None if at is None else at + self.take("I", at)

    def count(self, table: int, place: int) -> tuple[int, int]:
        """Where the entries of a list are, and their number."""
        at = self.follow(table, place)
        return (0, 0) if at is None else (at + 4, self.take("I", at))

    def entries(self, table: int, place: int) -> tuple[int, int]:
        """As ``count``, for a list whose entries are read."""
        start, number = self.count(table, place)
        self._left -= number
        if self._left < 0:
            raise ValueError("its lists are too long")
        return start, number

    def tables(self, table: int, place: int) -> list[int]:
        start, number = self.entries(table, place)
        return [start + 4 * index + self.take("I", start + 4 * index) for index in range(number)]

    def text(self, table: int, place: int) -> str:
        start, number = self.entries(table, place)
        return self.data[start : start + number].decode("utf-8", "replace")

    def numbers(self, table: int, place: int, form: str) -> list[int]:
        start, number = self.entries(table, place)
        return [self.take(form, start + struct.calcsize(form) * index) for index in range(number)]


_INT = 2
"""``KernelTypes.Int``."""


def _method(data: _Buffer, plan: int) -> Method:
    outputs, values = data.numbers(plan, 4, "i"), data.tables(plan, 2)
    value = None
    if not data.numbers(plan, 3, "i") and len(outputs) == 1 and 0 <= outputs[0] < len(values):
        kind, at = data.field(values[outputs[0]], 0), data.follow(values[outputs[0]], 1)
        if kind is not None and at is not None and data.take("B", kind) == _INT:
            place = data.field(at, 0)
            value = 0 if place is None else data.take("q", place)
    sizes = data.numbers(plan, 8, "q")[1:]
    if any(size < 0 for size in sizes):
        raise ValueError("a negative size")
    delegates = dict.fromkeys(data.text(one, 0) for one in data.tables(plan, 7))
    return Method(data.text(plan, 0), sum(sizes), tuple(delegates), value)


def read(path: Path) -> Program:
    """The plan of a file. Raises ``InputError`` for one that is no program or is cut short."""
    with opened(path, "a .pte file") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(40)
        if len(head) < 12 or head[4:6] != b"ET":
            raise InputError(f"'{path}' is no ExecuTorch program; its fifth byte does not begin ET12")
        program, base, held = size, 0, 0
        if head[8:12] == b"eh00" and len(head) == 40:
            _, program, base, held = struct.unpack_from("<IQQQ", head, 12)
        if program > MOST or program > size or base + held > size:
            raise InputError(f"'{path}' is cut short, or its header is wrong: {size:,} bytes, {base + held:,} promised")
        file.seek(0)
        data = _Buffer(file.read(program))
    try:
        root = data.take("I", 0)
        methods = tuple(_method(data, plan) for plan in data.tables(root, 1))
        inline = sum(data.count(one, 0)[1] for place in (2, 3) for one in data.tables(root, place))
        if inline > size:
            raise ValueError("its constants are larger than it is")
    except (struct.error, ValueError) as error:
        raise InputError(f"'{path}' is damaged: {error}") from None
    if not methods:
        raise InputError(f"'{path}' has no method; export it anew")
    return Program(path.name, size, held or inline, methods)
