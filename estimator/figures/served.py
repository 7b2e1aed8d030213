"""Requests at once against their length, for a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..answers.serving import Serving
from .canvas import FAINT, LIMIT, LINES, add_heading, drawn, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawn
def serving_figure(answer: Serving) -> Figure:
    """A line of the requests of each length that fit at once, and the most that a step takes."""
    figure = new_figure(8.4, 4.8)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.13, top=0.82)
    points = [one for one in answer.contexts if one.requests > 0]
    axes.plot(
        [one.tokens for one in points], [one.requests for one in points], color=LINES[0], lw=1.8, marker="o", ms=4
    )
    axes.axhline(answer.options.rows, color=LIMIT, lw=1.4, ls="--")
    axes.axhline(1, color=FAINT, lw=1.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axes.set_xlabel("tokens of a request")
    axes.set_ylabel("requests at once (log)")
    axes.grid(color=FAINT, lw=0.7, zorder=0)
    add_heading(
        figure,
        f"{answer.model} on {answer.options.world} x {answer.device}: {answer.kv_tokens:,} tokens of cache",
        f"dashed: {answer.engine.rows_key}, {answer.options.rows:,} requests of a step",
    )
    return figure
