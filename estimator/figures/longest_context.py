"""The longest context: memory against it, a line for each model, recipe and cache type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers.max_context import Curve
from ..engines.engine import Limit
from ..text import GIB
from .canvas import FAINT, LIMIT, LINES, add_heading, drawn, new_figure, short
from .labels import label_limit, log_heights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (7, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (2, 1)))
_COUNTED = {"process": "resident memory", "dirty": "dirty memory", "used": "RAM in use", "device": "device memory"}


@drawn
def context_figure(curves: Sequence[Curve]) -> Figure:
    """The memory against the context, a line for each model, recipe and cache type, with the limits.

    Each limit has a panel with the memory that it limits.
    """
    first = curves[0].row
    limits = " and ".join(_limit(limit) for limit in first.limits)
    models = list(dict.fromkeys(curve.row.plan.model for curve in curves))
    kinds = list(dict.fromkeys(_kind(curve) for curve in curves))
    engines: dict[str, set[str]] = {}
    for curve in curves:
        engines.setdefault(curve.row.plan.engine.title, set()).add(_kind(curve))
    releases = dict.fromkeys(curve.row.plan.engine.release(curve.row.plan) for curve in curves)
    figure = new_figure(11.2, 6.0)
    panels = figure.subplots(len(first.limits), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.075, right=0.68, bottom=0.115, top=0.83, hspace=0.09)
    for i, axes in enumerate(panels):
        budget = (first.limits[i].budget or 0) / GIB
        heights = [[each[i].needed / GIB for _, each in curve.points] for curve in curves]
        lowest, highest = min(map(min, heights)), max(map(max, heights))
        # Every curve is seen, one far above the limit at its start. A limit far above all curves is left out.
        reach = min(highest, max(4 * budget, 1.4 * max(map(min, heights))))
        log_heights(axes, lowest / 1.4, 1.4 * (highest if budget > 3 * highest else max(budget, reach)))
        for curve, values in zip(curves, heights, strict=True):
            row = curve.row
            turn, place = divmod(models.index(row.plan.model), len(LINES))
            style = DASHES[(kinds.index(_kind(curve)) + turn * len(kinds)) % len(DASHES)]
            answer = "nothing fits" if row.answer is None else f"{row.answer:,}"
            kind = _kind(curve)
            if len(engines) > 1:
                kind = row.plan.engine.title if len(engines[row.plan.engine.title]) == 1 else kind
            label = f"{short(Path(row.plan.model).name, 24)}, {kind}: {answer}"
            contexts = [context for context, _ in curve.points]
            axes.plot(contexts, values, color=LINES[place], ls=style, lw=1.8, label=label, zorder=3)
        axes.axhline(budget, color=LIMIT, lw=1.4, ls="--", zorder=5)
        axes.grid(color=FAINT, lw=0.7, zorder=0)
        axes.set_ylabel(f"{_COUNTED[first.limits[i].against]} (GiB, log)", fontsize=9.5)
    panels[-1].set_xscale("log", base=2)
    for i, axes in enumerate(panels):
        _dots(axes, [(curve.row.answer, curve.row.limits[i].needed / GIB) for curve in curves])
        limit = first.limits[i]
        label_limit(axes, _limit(limit), (limit.budget or 0) / GIB, LIMIT)
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panels[-1].set_xlabel("context (tokens per sequence)")
    panels[0].legend(
        frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.005, 1.015), alignment="left",
        title="longest context that fits", handlelength=3,
    )  # fmt: skip
    where = f" on {first.plan.device}" if first.plan.device else ""
    best = max((curve.row for curve in curves), key=lambda row: row.answer or 0)
    text = "nothing fits" if best.answer is None else f"up to {best.answer:,} tokens ({Path(best.plan.model).name})"
    assumed = "  ·  rests on what is assumed of the device" if first.result.assumptions else ""
    add_heading(
        figure,
        f"Longest context in {limits}{where}: {text}",
        f"{' and '.join(filter(None, releases))}  ·  dots: the longest context that fits{assumed}",
    )
    return figure


def _dots(axes: Axes, answers: Sequence[tuple[int | None, float]]) -> None:
    """A dot on each of the axes' first lines at its answer. One that would hide another is drawn smaller, in front."""
    found: list[Any] = []
    for line, (x, y) in zip(axes.lines, answers, strict=False):
        if x is not None:
            at = axes.transData.transform((x, y))
            under = sum(abs(at - other).max() < 11 for other in found)
            found.append(at)
            size = 9 * 0.65 ** min(under, 3)
            axes.plot(x, y, "o", color=line.get_color(), ms=size, mec="white", mew=1.2, zorder=6 + under / 100)


def _limit(limit: Limit) -> str:
    return f"{(limit.budget or 0) / GIB:.3g} GiB of {_COUNTED[limit.against]}"


def _kind(curve: Curve) -> str:
    """Recipe and cache types of a curve."""
    plan = curve.row.plan
    recipe, cache = plan.engine.recipe_of(plan), plan.engine.cache_of(plan)
    return ", ".join(filter(None, (recipe and recipe.upper(), cache and f"cache {cache}"))) or plan.engine.title
