"""What is saved for backward, by module, of one method or of two side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..answers.explanation_view import Section, View
from ..text import human
from .canvas import INK, add_heading, drawn, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHOD_COLOURS = ("#5F7486", "#D55E00")
"""The colours of two methods; one alone has the second."""


@drawn
def explanation_figure(view: View) -> Figure:
    """Bytes per token by module, a panel for each part of a model, with a bar for each of one or two methods."""
    panels = [(section, _by_module(section)) for section in view.sections]
    count = len(view.labels)
    lines = [max(len(modules), 1) * count + 1.6 for _, modules in panels]
    height = 0.2 * sum(lines) + 1.3
    figure = new_figure(11.0, height)
    top = 1 - 1.2 / height
    for (section, modules), share in zip(panels, lines, strict=True):
        size = 0.2 * share / height
        axes = figure.add_axes((0.27, top - size + 0.16 / height, 0.56, size - 0.32 / height))
        _module_bars(axes, section, modules, view)
        top -= size
    sums = [f"{human(saved)}" for saved in view.saved]
    names = [f"{name} {size}" for name, size in zip(view.labels, sums, strict=True)] if count > 1 else sums
    unit = "bytes per token, by module; each panel has its own scale"
    add_heading(figure, f"Saved for backward: {', '.join(names)}", f"{_plan_in_short(view)}\n{unit}")
    if count > 1:
        handles, labels = zip(*_method_handles(view), strict=True)
        figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.985, 1), frameon=False, fontsize=10)
    return figure


def _plan_in_short(view: View) -> str:
    plan = view.plan
    method = [] if len(view.labels) > 1 else [view.labels[0]]
    own = view.explanations[-1]
    tokens = [f"{own.tokens // plan.batch} tokens"] if own.per == "token" else []
    parts = [plan.model, *method, f"batch {plan.batch}", *tokens, plan.dtype, plan.attention]
    return ", ".join([*parts, *([f"checkpointing {plan.checkpointing}"] if plan.checkpointing != "none" else [])])


def _by_module(section: Section) -> dict[str, list[float]]:
    """Bytes per token of each module, by each method."""
    found: dict[str, list[float]] = {}
    for line in section.lines:
        sums = found.setdefault(line.row.module, [0.0] * len(line.kept))
        for method, kept in enumerate(line.kept):
            sums[method] += float(line.row.per_token) if kept else 0.0
    return found


def _method_handles(view: View) -> list[tuple[Any, str]]:
    from matplotlib.patches import Patch

    return [(Patch(color=colour), name) for colour, name in zip(METHOD_COLOURS, view.labels, strict=True)]


def _module_bars(axes: Axes, section: Section, modules: Mapping[str, list[float]], view: View) -> None:
    count = len(view.labels)
    thick = 0.8 / count
    largest = max((max(sums) for sums in modules.values()), default=1.0) or 1.0
    for y, sums in enumerate(modules.values()):
        for method, value in enumerate(sums):
            at = y + (method - (count - 1) / 2) * thick
            axes.barh(at, value, thick * 0.92, color=METHOD_COLOURS[method if count > 1 else 1])
            axes.text(value + 0.008 * largest, at, _amount(value), va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(modules)), [short(name, 34) for name in modules])
    axes.set_ylim(max(len(modules), 1) - 0.5, -0.5)
    axes.set_xlim(0, largest)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    both = " and ".join(_amount(float(value)) for value in section.per_token)
    heading = f"{short(section.heading, 70)}: {both}"
    axes.set_title(heading, loc="left", fontsize=10, fontweight="bold", color=INK, pad=4, x=-0.455)


def _amount(value: float) -> str:
    """Bytes per token for people: whole from a hundred on, else four figures."""
    return "–" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
