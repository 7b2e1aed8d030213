"""A process over time: allocated bytes by kind, and reserved bytes, after each allocation and release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..engines.replay import Timeline
from ..text import GIB
from .canvas import GREY, INK, LIMIT, add_heading, drawn, new_figure
from .labels import label_at
from .process_parts import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMELINE = {
    "parameters": PARTS["parameters"],
    "optimizer states": PARTS["optimizer states"],
    "gradients": PARTS["gradients"],
    "saved activations": PARTS["saved activations"],
    "temporaries": PARTS["temporaries and logits"],
}
"""The colours of ``engines.replay.KINDS``."""


@drawn
def timeline_figure(
    timeline: Timeline, steps: Sequence[str], title: str, conditions: str, budget: int | None
) -> Figure:
    """The allocated bytes by kind, and the reserved bytes, after each allocation and release of a process.

    ``steps`` says what each step is. ``budget`` is the most bytes that the allocator may reserve.
    """
    import numpy as np

    live = np.array(timeline.live, dtype=float).T / GIB
    reserved = np.array(timeline.reserved) / GIB
    peak = int(live.sum(axis=0).argmax())
    figure = new_figure(12.0, 6.2)
    axes = figure.add_axes((0.065, 0.13, 0.915, 0.66))
    x = np.arange(live.shape[1])
    base = np.zeros(live.shape[1])
    for (name, colour), values in zip(TIMELINE.items(), live, strict=True):
        axes.fill_between(x, base, base + values, step="post", color=colour, lw=0, label=name)
        base = base + values
    axes.step(x, reserved, where="post", color=INK, lw=1.2, label="reserved")
    axes.plot([peak], [base[peak]], "o", color=INK, ms=5)
    top = 1.12 * max(reserved.max(), base.max())
    if budget is not None and budget / GIB < 1.5 * top:
        axes.axhline(budget / GIB, color=LIMIT, lw=1.4, ls="--", label="budget less context")
        top = max(top, 1.08 * budget / GIB)
    top *= 1.06  # room for the steps' names
    for start, part in timeline.parts:
        axes.axvline(start, color=GREY, lw=0.6, ls=":")
        if part in ("load", "forward", "backward", "update"):
            axes.text(start, 1.01 * top, part, fontsize=8.5, color=GREY, va="bottom", rotation=45)
    axes.set_xlim(0, len(x))
    axes.set_ylim(0, top)
    starts = [start for start, part in timeline.parts if part == "forward"]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(x)], strict=True), 1):
        axes.axvspan(start, end, color="#F7F8FA" if number % 2 else "#ECEFF3", lw=0, zorder=0)
        words = f"step {number} of {len(steps)}: {steps[number - 1]}"
        room = (end - start) / len(x) * 130  # letters
        axes.text(
            (start + end) / 2, 0.985 * top, words if len(words) < room else f"{number}",
            fontsize=9.5, ha="center", va="top",
        )  # fmt: skip
    step = sum(start <= peak for start in starts)
    during = [name for start, name in timeline.parts if start <= peak][-1:]
    when = ", ".join([*([f"in step {step}"] if step else []), *during])
    places = [((peak, base[peak]), (x, y)) for y in (6, -6, 20, -20) for x in (-8, 8)]
    label_at(axes, f"allocated peak {base[peak]:.2f} GiB\n{when}", places, axes.transData)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("allocations and releases, in order")
    axes.set_ylabel("GiB")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncol=7, frameon=False, fontsize=9.5)
    add_heading(figure, title, conditions)
    return figure
