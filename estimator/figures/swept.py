"""A swept table: one component against one number, a line for each combination of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..text import GIB
from .canvas import LINES, MARKERS, add_heading, drawn, new_figure
from .methods_compared import MANY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES_AT_MOST = 12
"""The most lines of a figure of a sweep."""


@drawn
def sweep_figure(rows: Sequence[Mapping[str, Any]], component: str, along: str, others: Sequence[str]) -> Figure:
    """A component against a swept number, a line for each combination of the others, up to ``LINES_AT_MOST``."""
    lines: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
    for row in rows:
        if row[component] is not None:
            key = tuple(row[name] for name in others)
            lines.setdefault(key, []).append((row[along], row[component] / GIB))
    figure = new_figure(9.0, 5.2)
    axes = figure.add_axes((0.08, 0.11, 0.6, 0.76))
    for number, (key, points) in enumerate(list(lines.items())[:LINES_AT_MOST]):
        colour = LINES[number % len(LINES)]
        marker = MARKERS[number % len(MARKERS)] if len(points) <= MANY * 4 else None
        name = ", ".join(f"{name} {value}" for name, value in zip(others, key, strict=True))
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name or None)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(along)
    axes.set_ylabel("GiB")
    if others:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9)
    left_out = len(lines) - LINES_AT_MOST
    note = f"the first {LINES_AT_MOST} of {len(lines)} combinations" if left_out > 0 else ""
    add_heading(figure, f"{component.replace('_', ' ')} against {along}", note)
    return figure
