"""The largest value that fits: the memory of the process and of its moments against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..answers.inverse import Solution
from ..answers.result import Result
from ..answers.sentences import runtime_of
from ..text import GIB
from .canvas import FAINT, INK, LIMIT, LINES, add_heading, drawn, model_in_short, new_figure
from .labels import label_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOMENTS = 5
"""The most moments that are drawn below the process."""
UNITS = {"seq": "tokens", "batch": "sequences"}
_VERBS = {"fits": "fits, with the margin,", "tight": "is tight"}


@drawn
def solution_figure(solution: Solution, points: Sequence[tuple[int, Result]]) -> Figure:
    """The memory of the process and of its moments against the value that is looked for, with the budget.

    ``points`` are estimates at ascending values (``inverse.curve``).
    """
    from matplotlib.ticker import MaxNLocator

    values = [value for value, _ in points]
    results = [result for _, result in points]
    live = {
        name: [(r.bytes["resident"] + r.moments[name]) / GIB if name in r.moments else math.nan for r in results]
        for name in dict.fromkeys(name for result in results for name in result.moments)
    }
    # First the moments that are the peak somewhere, then the others, the largest first.
    order = sorted(
        live, key=lambda name: (all(r.peak_at != name for r in results), -max(v for v in live[name] if v == v))
    )
    figure = new_figure(11.2, 5.8)
    axes = figure.add_axes((0.075, 0.115, 0.655, 0.725))
    process = [result.bytes["process"] / GIB for result in results]
    axes.plot(values, process, color=INK, lw=2.6, label="process", zorder=4)
    for name, colour in zip(order[:MOMENTS], LINES, strict=False):
        axes.plot(values, live[name], color=colour, lw=1.5, label=f"live bytes: {name}", zorder=3)
    budget = solution.budget_bytes / GIB
    drawn = [*process, *(value for name in order[:MOMENTS] for value in live[name] if value == value)]
    low, high = min(drawn), max(budget, *drawn)
    axes.set_ylim(0 if 2 * low < high else low - (high - low) / 4, high + (high - min(low, high / 2)) / 5)
    axes.set_xlim(values[0], max(values[-1], values[0] + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.axhline(budget, color=LIMIT, lw=1.4, ls="--", label=f"budget: {budget:.4g} GiB", zorder=5)
    if solution.value is not None and solution.result is not None:
        at = (solution.value, solution.result.bytes["process"] / GIB)
        axes.plot(*at, marker="*", markersize=17, color="#D55E00", ls="none", zorder=6, clip_on=False)
        places = [(at, (x * away, y * away)) for away in (9, 18, 30, 45) for y in (1, -1) for x in (-1, 1)]
        label_at(axes, f"{solution.value:,}", places, axes.transData, color="#D55E00", fontweight="bold")
    axes.grid(color=FAINT, lw=0.7, zorder=0)
    axes.set_xlabel(f"{solution.key} ({UNITS.get(solution.key, 'rank of the adapters')})")
    axes.set_ylabel("memory (GiB)")
    axes.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1.015, 1.01))
    plan = solution.plan
    fixed = {"seq": f"{plan.seq} tokens", "batch": f"batch {plan.batch}"}
    fixed.pop(solution.key, None)
    binding = f"; what binds: {solution.binding}" if solution.binding else ""
    answer = "nothing fits" if solution.value is None else f"{solution.value:,} {_VERBS[solution.verdict]}"
    add_heading(
        figure,
        f"{solution.question}: {answer} in {budget:.4g} GiB{binding}",
        "  ·  ".join(
            (
                model_in_short(plan.model),
                plan.method.name,
                *fixed.values(),
                plan.dtype,
                plan.optimizer,
                runtime_of(plan),
            )
        ),
    )
    return figure
