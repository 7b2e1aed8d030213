"""How names from users and files, and numbers, are shown in messages, tables, figures and JSON.

A file's name may hold anything: bytes that are not UTF-8 (which Python reads as lone surrogates), escape sequences
that move a terminal's cursor, another library's markup. Such characters are shown as Python's escapes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

GIB = 1 << 30
_ESCAPE = re.compile(r"\\ud[89ab]..\\ud[c-f]..|\\ud[89a-f]..|\\.")
"""An escape in JSON: a surrogate pair, half of one, or the beginning of any other escape."""


def printable(text: str) -> str:
    """The text with unprintable characters escaped as Python's ``ascii`` does, line breaks too."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The text with every line ``printable``."""
    return "\n".join(map(printable, text.split("\n")))


def matches(text: str | None, *fields: str) -> bool:
    """Whether a text occurs in one of the fields, in upper or lower case; without a text, always."""
    return text is None or any(text.lower() in field.lower() for field in fields)


def dumped(value: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: half of a surrogate pair, which is no character, is shown as its escape, and a
    number that is not finite, which JSON has not, is null.
    """
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent)
    if r"\ud" not in text:
        return text
    return _ESCAPE.sub(lambda found: "\\" + found[0] if len(found[0]) == 6 else found[0], text)


def _finite(value: Any) -> Any:
    """The value with ``None`` in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def few_digits(value: float, decimals: int = 0) -> str:
    """A number for people: ``decimals`` from ten upwards, two significant figures below."""
    if value >= 9.95 or value <= 0:
        return f"{value:.{decimals}f}"
    return f"{value:.{max(1 - math.floor(math.log10(value)), 0)}f}"


def human(nbytes: int) -> str:
    """Bytes with a binary unit: ``9.52 GiB``, ``4.30 MiB``, ``512 B``."""
    for unit, size in (("TiB", 1 << 40), ("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"


def spans(ranges: Iterable[range]) -> str:
    """The whole numbers of ranges, as "0-5, 7"; ranges that touch are joined."""
    joined: list[list[int]] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if joined and joined[-1][1] == one.start:
            joined[-1][1] = one.stop
        else:
            joined.append([one.start, one.stop])
    return ", ".join(str(first) if end == first + 1 else f"{first}-{end - 1}" for first, end in joined)
