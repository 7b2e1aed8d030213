"""Advice: the front of peak memory against compute, and all that was tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..answers.advice import Advice
from ..answers.sentences import runtime_of
from ..text import GIB
from .canvas import FAINT, INK, LIMIT, LINES, add_heading, drawn, model_in_short, new_figure
from .labels import label_limit, log_heights

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawn
def advice_figure(advice: Sequence[Advice]) -> Figure:
    """The front of peak against compute, a curve for each method, and the first advice's candidates as dots."""
    best = advice[0]
    figure = new_figure(9.6, 6.2)
    axes = figure.add_axes((0.085, 0.115, 0.885, 0.70))
    for rank in sorted({one.lost[0] for one in best.candidates}):
        dots = [one for one in best.candidates if one.lost[0] == rank]
        axes.scatter(
            [100 * best.extra_compute(one) for one in dots],
            [one.bytes / GIB for one in dots],
            s=14,
            color="#B0B0B0" if rank == 0 else "#F3D3A2",
            label=f"{best.name}: {dots[0].fidelity}, {len(dots)} sets of changes",
        )
    for number, one in enumerate(advice):
        front = one.front
        colour = INK if number == 0 else LINES[(number - 1) % len(LINES)]
        axes.step(
            [100 * one.extra_compute(c) for c in front],
            [c.bytes / GIB for c in front],
            where="post",
            color=colour,
            marker="o",
            markersize=5,
            lw=1.8,
            label=f"{one.name}: least memory for the compute",
        )
    axes.axhline(best.budget_bytes / GIB, color=LIMIT, lw=1.4, ls="--")
    axes.plot(
        [100 * best.extra_compute(best.best)],
        [best.best.bytes / GIB],
        marker="*",
        markersize=17,
        color="#D55E00",
        ls="none",
        zorder=5,
        label="advised" if best.fits else "smallest",
    )
    shown = [one.bytes / GIB for one in (*best.candidates, *(c for one in advice for c in one.front))]
    log_heights(axes, min(*shown, best.budget_bytes / GIB) / 1.25, 1.25 * max(*shown, best.budget_bytes / GIB))
    axes.grid(color=FAINT, lw=0.7, zorder=0)
    axes.set_axisbelow(True)
    label_limit(axes, f"to fit: {best.budget_bytes / GIB:.4g} GiB", best.budget_bytes / GIB, LIMIT)
    axes.set_xlabel("extra compute over the method's plain step (%, matrix products)")
    axes.set_ylabel("peak memory of the process (GiB, log scale)")
    axes.legend(fontsize=9, loc="upper right", framealpha=0.85, edgecolor="none")
    changes = ", ".join(change.text.partition(" (")[0] for change in best.changes) or "no change"
    saved = f"{best.base.bytes / GIB:.3g} to {best.best.bytes / GIB:.3g} GiB"
    plan = best.base.plan
    add_heading(
        figure,
        f"{best.name}: {saved} with {changes}"
        if best.fits
        else f"{best.name}: nothing fits; {best.best.bytes / GIB:.3g} GiB is the least",
        "  ·  ".join(
            (
                model_in_short(plan.model),
                f"batch {plan.batch}, {plan.seq} tokens",
                plan.dtype,
                plan.optimizer,
                runtime_of(plan),
            )
        ),
    )
    return figure
