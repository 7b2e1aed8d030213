"""What the commands that print tables and draw figures share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..text import printable

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
        result.add_column(Text(_shown(column)), justify="left" if i in left else "right")
    for row in rows:
        result.add_row(*(Text(_shown(cell)) for cell in row))
    return result


def show(*items: Table | str) -> None:
    """Print tables and lines on standard output, not folded to 80 columns where it is no terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160)
    for item in items:
        text = isinstance(item, str)
        console.print(_shown(item) if isinstance(item, str) else item, markup=False, emoji=False, soft_wrap=text)


def _shown(text: str) -> str:
    """Lines of text with names in it, as a terminal may get them."""
    return "\n".join(map(printable, text.split("\n")))


def matches(text: str | None, *fields: str) -> bool:
    """Whether a filter (or none) occurs in one of the fields, whatever the case."""
    return text is None or any(text.lower() in field.lower() for field in fields)


FORMATS = (".png", ".pdf", ".svg")


def check_output(path: Path) -> None:
    """Raise ``InputError`` where no figure can be written."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--output '{path}' is no figure format; end it in {', '.join(FORMATS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(
            f"cannot write '{path}': there is no folder '{path.parent}' to put it in, or it is a folder itself"
        )


def write_figure(draw: Callable[[Any, Path], None], what: Any, path: Path) -> None:
    """Draw a figure to a file. Raises ``InputError`` where it cannot be written."""
    try:
        draw(what, path)
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror or error}; choose another --output") from None


class Progress:
    """A bar on standard error that shows up only when the work takes more than a second."""

    def __init__(self, total: int | None) -> None:
        self.total, self.done, self.start = total, 0, time.monotonic()
        self.advance: Callable[[], None] | None = None
        self.close: Callable[[], None] = lambda: None

    def __enter__(self) -> Progress:
        return self

    def step(self) -> None:
        """Count one estimate."""
        self.done += 1
        if self.advance is not None:
            self.advance()
        elif time.monotonic() - self.start > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            task = bar.add_task("estimates", total=self.total, completed=self.done)
            bar.start()
            self.advance, self.close = lambda: bar.advance(task), bar.stop

    def __exit__(self, *error: object) -> None:
        self.close()
