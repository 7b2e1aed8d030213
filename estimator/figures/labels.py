"""Texts beside lines and limits, placed where they cover least, and axes on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

Place = tuple[tuple[float, float], tuple[float, float]]
"""Where a text may stand: a point, and the distance from it in points (1/72 inch), to the right and up."""


def log_heights(axes: Axes, low: float, high: float) -> None:
    """A vertical axis on a logarithmic scale: ticks are powers of two, or closer where there are fewer than three."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    octaves = range(math.floor(math.log2(low)), math.ceil(math.log2(high)))
    parts = next((n for n in (1, 2) if n * math.log2(high / low) >= 3), 4)
    ticks = [2.0**octave * (1 + part / parts) for octave in octaves for part in range(parts)]
    axes.set_yscale("log", base=2)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def label_limit(axes: Axes, text: str, limit: float, colour: str) -> None:
    """Write a limit's name at an end of its line, or at the top where the axis ends below it."""
    top = axes.get_ylim()[1]
    if limit > top:
        text, limit = f"{text}, above what is drawn", top
    ends = ((0, 3), (1, -3), (0.25, 0), (0.5, 0), (0.75, 0))
    places = [((x, limit), (dx, dy)) for dy in (3, -3) for x, dx in ends]
    label_at(axes, text, places, axes.get_yaxis_transform(), color=colour, fontsize=9.5)


def label_at(axes: Axes, text: str, places: Sequence[Place], coordinates: Any, **font: Any) -> None:
    """Write a text in front of all lines, at the first of the places that covers the fewest lines and texts.

    The places' points are in ``coordinates``.
    """
    lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    texts = [other.get_window_extent() for other in axes.texts]

    def written(place: Place) -> Annotation:
        point, (x, y) = place
        return axes.annotate(
            text,
            point,
            (x, y),
            xycoords=coordinates,
            textcoords="offset points",
            ha="left" if x > 0 else "right" if x < 0 else "center",
            va="bottom" if y > 0 else "top",
            zorder=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            **font,
        )

    def covered(place: Place) -> int:
        label = written(place)
        box = label.get_window_extent().padded(3)
        label.remove()
        outside = not all(axes.bbox.contains(*corner) for corner in box.corners())
        crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
        return 100 * outside + crossed + box.count_overlaps(texts)

    written(min(places, key=covered))


def label_ends(axes: Axes, seq: int, ends: Sequence[tuple[float, str, str]]) -> None:
    """Label curves at their right end, without overlap."""
    low, high = (math.log2(value) for value in axes.get_ylim())
    order = sorted(ends)
    heights = spread([(math.log2(value) - low) / (high - low) for value, _, _ in order], 0.05)
    for (value, text, colour), height in zip(order, heights, strict=True):
        axes.annotate(
            text,
            xy=(seq, value),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=9.5,
            fontweight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9, "shrinkA": 0, "shrinkB": 4, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, moved as little as possible so that they are at least ``gap`` apart."""
    groups: list[list[float]] = []  # middle, number of members
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (b, m), (a, n) = groups.pop(), groups.pop()
            groups.append([(a * n + b * m) / (n + m), n + m])
    return [middle + gap * (i - (count - 1) / 2) for middle, count in groups for i in range(int(count))]
