"""All output on standard output: sentences and tables that are never wider than the terminal."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...answers.sentences import assumed
from ...engines.assumptions import Assumption
from ...errors import InputError
from ...io.files import READ
from ...io.outputs import place_of, replacing
from ...programs.libraries import silence
from ...text import GIB, dumped, printable_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = "  "
"""The space between two columns."""
NARROWEST = 30
"""The least width of lines, in columns, also on a narrower terminal."""
_TEXT_COLUMN = 20
"""A table is split before a column of text becomes narrower than so many characters."""
_ADDRESS = re.compile(
    r"(?P<open>\()?(?<![\w/.-])(?P<address>(?:https?://|(?:[a-z0-9-]+\.)+[a-z]{2,}/)[^\s<>()\[\],;]*[^\s<>()\[\],;.:])"
    r"(?(open)\)?)[,;:.]*"
)
"""A web address with or without scheme or brackets, and the punctuation behind it."""
_UNIT = re.compile(r"(?<=\d) (?=(?:[KMGT]i?)?B\b|%)")
"""The space between a number and its unit, where no line is broken."""


@dataclass
class _Output:
    """The state of a command's output."""

    quiet: bool = False
    last: Table | str | None = None
    """The item that was printed last. A blank line separates a table from other items."""
    held: list[tuple[bool, Sequence[Table | str], str]] | None = None
    """What ``lines_of`` collects: whether it is the answer, the items and their style."""


_output = _Output()


def start(quiet: bool) -> None:
    """Begin a command's output. If ``quiet``, only ``show_answer`` prints, and in the shortest form."""
    _output.quiet, _output.last = quiet, None


def gib(size: int) -> str:
    """Bytes as a number of GiB (2^30 bytes) with two decimals."""
    return f"{size / GIB:,.2f}"


class Table(NamedTuple):
    """Rows of cells under headings. A table that is too wide is split; each part repeats the first ``keys`` columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    """The columns of text, which wraps. Other columns have numbers, which are set to the right and never broken."""
    keys: int = 1
    optional: Sequence[int] = ()
    """The columns that are left out where the table is too wide."""
    title: str = ""
    ruled: Sequence[int] = ()
    """The rows with a line below them."""
    strong: Sequence[int] = ()
    """The rows in bold."""

    def lines(self, width: int) -> list[str]:
        """The table's lines, at most ``width`` columns wide unless a number is wider."""
        natural, least = self._widths(width)
        columns = list(range(len(self.columns)))
        if _total(natural, columns) > width:
            columns = [column for column in columns if column not in self.optional]
        found = wrapped(self.title, width) if self.title else []
        for number, part in enumerate(self._parts(columns, least, width)):
            found += [""] if number else []
            found += self._part(part, self._fitted(natural, least, part, width))
        return found

    def _widths(self, width: int) -> tuple[list[int], list[int]]:
        """The width that each column needs in full, and the least width that it needs."""
        natural, least = [], []
        for column, heading in enumerate(self.columns):
            cells = [row[column] for row in self.rows]
            natural.append(max(map(_columns, (*heading.split("\n"), *cells))))
            texts = (_ADDRESS.sub("", cell) for cell in cells)  # an address that is wider is put below its row
            words = (word for text in texts for word in (text.split() if column in self.left else [text]))
            longest = max(map(_columns, (*heading.split(), *words)), default=0)
            sentence = min(natural[-1], _TEXT_COLUMN) if column in self.left else 0
            least.append(max(1, min(max(longest, sentence), width)))
        return natural, least

    def _parts(self, columns: list[int], least: Sequence[int], width: int) -> list[list[int]]:
        """The columns of each part of a table, with the keys before them."""
        keys = columns[: self.keys]
        parts = [list(keys)]
        for column in columns[self.keys :]:
            if _total(least, [*parts[-1], column]) > width and len(parts[-1]) > len(keys):
                parts.append(list(keys))
            parts[-1].append(column)
        return parts

    def _fitted(self, natural: Sequence[int], least: Sequence[int], columns: Sequence[int], width: int) -> list[int]:
        """The widths of a part's columns: in full where there is room, else the widest columns shrink, to their least.

        Where the part is still too wide, columns of text shrink further, and long words are broken.
        """
        widths = {column: natural[column] for column in columns}
        for shortest in (width, 12, 6):
            floor = [min(one, shortest) if column in self.left else one for column, one in enumerate(least)]
            while (over := _total(widths, columns) - width) > 0:
                wide = [column for column in columns if widths[column] > floor[column]]
                if not wide:
                    break
                widest = max(wide, key=lambda column: widths[column])
                second = max((widths[column] for column in wide if column != widest), default=0)
                widths[widest] -= min(over, widths[widest] - floor[widest], max(1, widths[widest] - second))
        return [widths[column] for column in columns]

    def _part(self, columns: Sequence[int], widths: Sequence[int]) -> list[str]:
        headings = [self.columns[column] for column in columns]
        rule = GAP.join(("─" if _encodes("─") else "-") * width for width in widths)
        found = [*self._row(headings, columns, widths, ends_low=True), rule]
        for number, row in enumerate(self.rows):
            lines = self._row([row[column] for column in columns], columns, widths)
            found += [_styled(line, "bold") for line in lines] if number in self.strong else lines
            found += [rule] if number in self.ruled and number + 1 < len(self.rows) else []
        return found

    def _row(
        self, cells: Sequence[str], columns: Sequence[int], widths: Sequence[int], ends_low: bool = False
    ) -> list[str]:
        blocks = [wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
        below = [line for block, width in zip(blocks, widths, strict=True) for line in block if _columns(line) > width]
        blocks = [[line for line in block if line not in below] or [""] for block in blocks]
        height = max(map(len, blocks))
        padded = [[""] * (height - len(b)) + b if ends_low else b + [""] * (height - len(b)) for b in blocks]
        return [
            GAP.join(
                text + " " * (width - _columns(text)) if column in self.left else " " * (width - _columns(text)) + text
                for text, column, width in zip(line, columns, widths, strict=True)
            ).rstrip()
            for line in zip(*padded, strict=True)
        ] + below


class AsIs(str):
    """Lines that are printed however long they are."""


def _total(widths: Sequence[int] | Mapping[int, int], columns: Sequence[int]) -> int:
    return sum(widths[column] for column in columns) + len(GAP) * (len(columns) - 1)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,), title: str = "", **more: Any
) -> Table:
    """A table of cells made printable. ``left`` are the columns of text; ``more`` are other fields of ``Table``."""
    shown = [[printable_lines(cell) for cell in row] for row in rows]
    return Table([printable_lines(column) for column in columns], shown, left, title=printable_lines(title), **more)


def terminal_width() -> int:
    """The width of the terminal: COLUMNS in the environment, else the terminal's columns, else 80."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words; a word wider than a line is broken at its punctuation.

    An address is put on a line of its own and not broken. The parts of a line keep its indentation.
    """
    found: list[str] = []
    for line in _UNIT.sub("\u00a0", text).split("\n"):
        if _columns(line) <= width and not _ADDRESS.search(line):
            found += [line.replace("\u00a0", " ")] if line else []
            continue
        indent = " " * (len(line) - len(line.lstrip(" ")))
        start = 0
        for address in _ADDRESS.finditer(line):
            found += _filled([word for word in line[start : address.start()].split(" ") if word], indent, width)
            found.append(indent + address["address"])
            start = address.end()
        found += _filled([word for word in line[start:].split(" ") if word], indent, width)
    return found


def _filled(words: Iterable[str], indent: str, width: int) -> list[str]:
    lines, room = [""], max(1, width - len(indent))
    for word in words:
        beside = f"{lines[-1]} {word}" if lines[-1] else word
        if _columns(beside) <= room:
            lines[-1] = beside
            continue
        while (fits := _fitting(word, room)) < len(word):  # a new line takes what fits, up to the last punctuation
            if lines[-1]:
                lines.append("")
            at = max((word.rfind(mark, 0, fits) + 1 for mark in "/\\-_,.:=|"), default=0)
            cut = at if at > fits // 2 else fits
            lines[-1], word = word[:cut], word[cut:]
        if word:
            lines += [word] if lines[-1] else []
            lines[-1] = word
    return [indent + line.replace("\u00a0", " ") for line in lines if line]


def _fitting(word: str, room: int) -> int:
    """How many of a word's first characters fit, at least one. No more of a long word is looked at."""
    fits = min(len(word), room)
    while fits > 1 and _columns(word[:fits]) > room:
        fits -= 1
    while fits < len(word) and not _columns(word[fits]):
        fits += 1
    return max(fits, 1)


def _columns(text: str) -> int:
    """The width of a text on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def bar(share: float, length: int = 22) -> str:
    """A bar as long as a share of ``length`` characters; for a very small share, a thin bar."""
    full, thin = ("█", "▏") if _encodes("█▏") else ("#", "|")
    return full * round(length * share) or (thin if share else "")


def _encodes(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


_STYLES = {"bold": "1", "good": "1;32", "bad": "1;31"}


def _styled(line: str, style: str) -> str:
    """A line in bold or colour, on a terminal that supports it (https://no-color.org)."""
    if not style or not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return line
    return f"\x1b[{_STYLES[style]}m{line}\x1b[0m"


def show(*items: Table | str, style: str = "") -> None:
    """Print tables and sentences, unless the command is quiet."""
    if not _output.quiet:
        _print(items, style)


def show_lines(text: str) -> None:
    """Print lines as they are, however long, after a blank one: a patch, which a program may read."""
    _print((AsIs(text if _output.quiet else f"\n{text}"),), "")


def show_answer(*items: Table | str, brief: str = "", style: str = "") -> None:
    """Print the answer, or if the command is quiet only ``brief``, if there is one."""
    _print((brief,) if _output.quiet and brief else items, style, answer=True)


def show_assumptions(assumptions: Iterable[Assumption]) -> None:
    """Print the assumptions behind an answer, unless the command is quiet."""
    show(*assumed(list(dict.fromkeys(assumptions))))


def _print(items: Sequence[Table | str], style: str, answer: bool = False) -> None:
    if _output.held is not None:
        _output.held.append((answer, items, style))
        return
    for line in _lines(items, style):
        print(line)


def _lines(items: Iterable[Table | str], style: str) -> Iterator[str]:
    width = terminal_width()
    for item in items:
        if _output.last is not None and (isinstance(item, Table) or isinstance(_output.last, Table)):
            yield ""
        _output.last = item
        if isinstance(item, AsIs):
            yield item.removesuffix("\n")
            continue
        lines = item.lines(width) if isinstance(item, Table) else wrapped(printable_lines(item), width) or [""]
        yield from (_styled(line, style) for line in lines)


def lines_of(sentences: Callable[[], None]) -> list[str]:
    """The lines of what ``sentences`` prints, with the answer (``show_answer``) before all else."""
    held = _output.held = []
    try:
        sentences()
    finally:
        _output.held = _output.last = None
    first = sorted(held, key=lambda one: not one[0])
    return [line for _, items, style in first for line in _lines(items, style)]


def present(args: argparse.Namespace, record: Callable[[], Any], sentences: Callable[[], None]) -> None:
    """Print an answer: its ``record`` as JSON for ``--json``, else what ``sentences`` prints, and the figure's file."""
    if args.json:
        print(dumped(record(), indent=2))
        return
    for line in lines_of(sentences):
        print(line)
    if getattr(args, "output", None) is not None:
        show(f"figure written to {args.output}")


def fits_screen(item: Table) -> bool:
    """Whether a table is no longer than the terminal, with a heading; always where the output is no terminal."""
    lines = shutil.get_terminal_size((80, 24)).lines
    return not sys.stdout.isatty() or len(item.lines(terminal_width())) + 4 <= lines


def counted(names: Iterable[str]) -> str:
    """Names with the number of times that each is there, the most frequent first: ``llama (41); qwen2 (17)``."""
    return "; ".join(f"{name} ({count})" for name, count in Counter(names).most_common())


FORMATS = (".png", ".pdf", ".svg")


def check_output(path: Path | None, others: Sequence[str] = ()) -> None:
    """Raise ``InputError`` where a figure cannot be written to ``path``, nor a file that ends in one of ``others``."""
    if path is None:
        return
    if path.suffix.lower() not in (*FORMATS, *others):
        raise InputError(f"--output '{path}' is no figure format; end it in {', '.join((*FORMATS, *others))}")
    place_of(path)


def write_figure(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure into a file. Raises ``InputError`` where it cannot be written."""
    from ...figures.canvas import save

    _start_matplotlib()
    with written_to(path) as part:
        save(draw(), part)


def _start_matplotlib() -> None:
    """Import matplotlib without a user's settings, which no figure has: a mistake in them would end the command.

    It reads a ``matplotlibrc`` in the current folder first, even a named pipe. So it is imported in another one.
    """
    spec = None if "matplotlib" in sys.modules else find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return
    data = Path(spec.origin).parent / "mpl-data"
    os.environ.pop("MPLBACKEND", None)
    os.environ["MATPLOTLIBRC"] = str(data / "matplotlibrc")
    silence()
    with chdir(data / "fonts"):
        import matplotlib  # noqa: F401


@contextmanager
def written_to(path: Path) -> Iterator[Path]:
    """``replacing`` for a command's output, which must not be one of its inputs. Raises ``InputError``."""
    refuse_input(path)
    with replacing(path) as part:
        yield part


def refuse_input(path: Path) -> None:
    """Raise ``InputError`` for an output that the command has read."""
    if os.path.realpath(path) in READ:
        raise InputError(f"'{path}' is read by this command; write to another file, or it would be lost")


class Progress:
    """A progress bar on standard error, which appears only when the work takes more than a second."""

    def __init__(self, total: int | None = None, of: str = "estimates") -> None:
        self.total, self.of, self.done, self.start = total, of, 0, time.monotonic()
        self.advance: Callable[[], None] | None = None
        self.close: Callable[[], None] = lambda: None

    def __enter__(self) -> Progress:
        return self

    def step(self, total: int | None = None) -> None:
        """Count one piece of work, of a ``total`` that is known now."""
        self.done, self.total = self.done + 1, total or self.total
        if self.advance is not None:
            self.advance()
        elif time.monotonic() - self.start > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            task = bar.add_task(self.of, total=self.total, completed=self.done)
            bar.start()
            self.advance, self.close = lambda: bar.advance(task), bar.stop

    def __exit__(self, *error: object) -> None:
        self.close()
