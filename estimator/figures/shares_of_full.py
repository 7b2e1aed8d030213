"""The shares of full fine-tuning that methods train, keep and need, by model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..answers.comparison import Row
from ..text import few_digits
from .canvas import FAINT, GREY, INK, add_heading, drawn, new_figure
from .methods_compared import range_of
from .process_parts import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADES = ("#A9CCE3", "#4F93C4", "#1B4F72")
"""The colours of sequence lengths, short to long."""


@drawn
def thesis_figure(rows: Mapping[str, Sequence[Row]], seqs: Sequence[int], conditions: str) -> Figure:
    """The shares of full fine-tuning: trainable parameters, activations and peak, by model and method.

    ``rows`` are the methods by model, without full fine-tuning. ``seqs`` are the lengths in tokens of the peak's bars,
    at most three. ``conditions`` are other facts about the plans (batch, dtype).
    """
    figure = new_figure(12.8, 6.6)
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left=0.055, right=0.985, top=0.785, bottom=0.165, wspace=0.05)
    handles: list[Any] = []
    for axes, (model, methods) in zip(panels, rows.items(), strict=True):
        handles = _shares(axes, model, methods, seqs)
    panels[0].set_ylabel("% of full fine-tuning")
    every = [row.shares[seq] for methods in rows.values() for row in methods for seq in seqs]
    add_heading(
        figure,
        "Parameter-efficient is not memory-efficient: "
        f"with {range_of([s.trainable for s in every])} of the parameters trained, "
        f"a step keeps {range_of([s.saved for s in every])} of the activations of full fine-tuning",
        conditions,
    )
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=10)
    return figure


def _shares(axes: Axes, model: str, methods: Sequence[Row], seqs: Sequence[int]) -> list[Any]:
    last = seqs[-1]
    series = [("trainable parameters", INK, [row.shares[last].trainable for row in methods])]
    constant = all(abs(row.shares[seq].saved - row.shares[last].saved) < 0.005 for row in methods for seq in seqs)
    saved = f"activations saved for backward ({'any length' if constant else f'{last} tokens'})"
    series.append((saved, PARTS["saved activations"], [row.shares[last].saved for row in methods]))
    for seq, shade in zip(seqs, SHADES[-len(seqs) :], strict=True):
        series.append((f"peak at {seq} tokens", shade, [row.shares[seq].peak for row in methods]))
    width = 0.84 / len(series)
    handles = []
    for i, (name, colour, fractions) in enumerate(series):
        x = [j + (i - (len(series) - 1) / 2) * width for j in range(len(methods))]
        handles.append(axes.bar(x, [100 * f for f in fractions], 0.92 * width, color=colour, label=name, zorder=3))
        side = "right" if i == 0 else "center"
        for position, fraction in zip(x, fractions, strict=True):
            shift = 0.46 * width if i == 0 else 0
            axes.text(
                position + shift, 100 * fraction + 1.5, few_digits(100 * fraction), ha=side, fontsize=9.5, zorder=4
            )
    axes.axhline(100, color=GREY, lw=1.2, ls=(0, (5, 3)), zorder=2)
    axes.set_xticks(range(len(methods)), [_folded(row.label) for row in methods], fontweight="bold", color=INK)
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    axes.set_title(model, loc="left", fontsize=11.5)
    return handles


def _folded(label: str) -> str:
    """A label on two lines, broken before its parenthesis."""
    return label.replace(" (", "\n(", 1)
