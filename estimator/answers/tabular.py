"""Answers as tables: data frames, and HTML for a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Brief:
    """An answer that shows itself in one short line."""

    def _brief(self) -> Mapping[str, object]:
        """What the line says, by name."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={shown(value)}' for name, value in self._brief().items())})"


class Tabular(Brief):
    """An answer that is a table."""

    def records(self) -> list[dict[str, Any]]:
        """The rows, each with the same keys. Sizes are bytes."""
        raise NotImplementedError

    def to_frame(self, library: str = "pandas") -> Any:
        """The rows as a data frame of ``pandas`` or ``polars``. Raises ``InputError`` where that is not installed."""
        return frame(self.records(), library)

    def _repr_html_(self) -> str:
        return html_table(self.records())


class Drawn(Tabular):
    """An answer that has a figure."""

    figure: ClassVar[Callable[[Any], Figure]]
    """Draws an answer. Figures lie above answers, so ``estimator/questions.py``, which knows both, puts it here."""

    def plot(self) -> Figure:
        """The answer as a figure of matplotlib."""
        return type(self).figure(self)


def html_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a table in HTML."""
    import html

    heads = "".join(f"<th>{html.escape(name)}</th>" for name in (rows[0] if rows else ()))
    shown = ([f"{x:,}" if type(x) is int else str(x) for x in row.values()] for row in rows)
    cells = ("".join(f"<td>{html.escape(text)}</td>" for text in row) for row in shown)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def frame(rows: list[dict[str, Any]], library: str) -> Any:
    """Rows as a data frame. Raises ``InputError`` for another library, and for one that is not installed."""
    import importlib

    if library not in ("pandas", "polars"):
        raise InputError(f"no frames of '{library}'; take pandas or polars")
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError:
        raise InputError(f"{library} is not installed; pip install {library}, or use records()") from None
    return module.DataFrame(rows)
