"""What the commands that print tables share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

GIB = 2**30


def gib(size: int) -> str:
    """Bytes as a number of GiB (2^30 bytes) with two decimals."""
    return f"{size / GIB:,.2f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> Table:
    """A table whose columns are numbers, set to the right, except those in ``left``."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        result.add_column(Text(column), justify="left" if i in left else "right")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def show(*items: Table | str) -> None:
    """Print tables and lines on standard output, not folded to 80 columns where it is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160)
    for item in items:
        console.print(item, markup=False, soft_wrap=isinstance(item, str))


def matches(text: str | None, *fields: str) -> bool:
    """Whether a filter (or none) occurs in one of the fields, whatever the case."""
    return text is None or any(text.lower() in field.lower() for field in fields)
