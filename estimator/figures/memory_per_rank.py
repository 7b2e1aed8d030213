"""The memory of one rank against the number of cards, by how they share the model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..answers.cluster import TENSOR_PARALLEL, WAYS, Cluster, Layout, way_of
from ..text import GIB
from .canvas import FAINT, GREY, INK, LIMIT, LINES, add_heading, drawn, model_in_short, new_figure, short
from .labels import label_limit, log_heights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
"""The most panels side by side."""
STYLES: dict[int, str] = dict(zip(TENSOR_PARALLEL, ("-o", "--s", ":^", "-.D"), strict=True))
"""The dashes and the mark of a line, by tensor parallelism."""
ALONE = "tp alone"


@drawn
def cluster_figure(answer: Cluster) -> Figure:
    """The process of a rank against the number of cards, a panel for each kind of card and a line for each way.

    Where what is live alone exceeds a GPU's memory, its process is not known, and the live bytes are drawn hollow.
    """
    devices = list(dict.fromkeys(one.device for one in sorted(answer.tried, key=lambda one: one.device.usable_bytes)))
    rows = math.ceil(len(devices) / COLUMNS)
    columns = math.ceil(len(devices) / rows)
    figure = new_figure(4.2 * columns + 3.0, 3.7 * rows + 1.9)
    width, height = figure.get_size_inches()
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 2.7 / width, bottom=0.6 / height, top=1 - 1.25 / height, wspace=0.06, hspace=0.2
    )
    heights = [one.result.bytes["process"] / GIB for one in answer.tried]
    limits = [device.usable_bytes / GIB for device in devices]
    log_heights(panels[0, 0], min(*heights, *limits) / 1.3, 1.3 * max(*heights, *limits))
    cards = sorted({one.cards for one in answer.tried})
    panels[0, 0].set_xscale("log", base=2)
    panels[0, 0].set_xlim(cards[0] / 1.25, cards[-1] * 1.25)
    panels[0, 0].set_xticks(cards, [f"{count:,}" for count in cards], minor=False)
    panels[0, 0].minorticks_off()
    for axes, device in zip(panels.flat, devices, strict=False):
        _panel(axes, [one for one in answer.tried if one.device == device], answer.best)
    for axes in panels.flat[len(devices) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("process of a rank (GiB, log)", fontsize=9.5)
    for number, axes in enumerate(panels.flat[: len(devices)]):
        if number + columns >= len(devices):
            axes.set_xlabel("cards")
            axes.tick_params(labelbottom=True)
    known = {
        line.get_label(): line for axes in panels.flat for line in axes.lines if not line.get_label().startswith("_")
    }
    names = [name for name in dict.fromkeys(map(_name, sorted(answer.tried, key=_style))) if name in known]
    names += [name for name in known if name not in names]
    figure.legend(
        [known[name] for name in names], names, frameon=False, fontsize=9, loc="upper left",
        bbox_to_anchor=(1 - 2.6 / width, 1 - 1.2 / height),
    )  # fmt: skip
    best, plan = answer.best, answer.plan
    add_heading(
        figure,
        f"Smallest cluster: {'nothing fits' if best is None else best.label.replace(' x ', ' × ')}",
        "  ·  ".join(
            (
                model_in_short(plan.model),
                plan.method.name,
                f"batch {plan.batch} a rank, {plan.seq} tokens",
                plan.dtype,
                plan.optimizer if plan.task == "train" else "inference",
            )
        ),
    )
    return figure


def _style(one: Layout) -> tuple[int, int]:
    """Of a layout's line: the place of its way among all, -1 for none, and its tensor parallelism."""
    sharding = one.sharding or {}
    ways = [way_of(way) for way in WAYS]
    name = way_of({key: value for key, value in sharding.items() if key != "tp"})
    return (ways.index(name) if name in ways else -1), sharding.get("tp", 1)


def _name(one: Layout) -> str:
    """The name of a layout's line."""
    return ALONE if one.sharding is not None and "name" not in one.sharding else one.way


def _panel(axes: Axes, layouts: list[Layout], best: Layout | None) -> None:
    """One kind of card: a line for each way. Those without tensor parallelism, and it alone, start at one process."""
    device, alone = layouts[0].device, [one for one in layouts if one.sharding is None]
    lines: dict[str, list[Layout]] = {}
    for one in layouts:
        if one.sharding is not None:
            lines.setdefault(_name(one), []).append(one)
    for way, points in lines.items():
        place, tp = _style(points[0])
        tp = 1 if way == ALONE else tp
        _line(axes, [*alone, *points] if tp == 1 else points, STYLES[tp], GREY if place < 0 else LINES[place], way)
    _line(axes, alone, STYLES[1], INK, "one process")
    usable = device.usable_bytes / GIB
    axes.axhline(usable, color=LIMIT, lw=1.4, ls="--", zorder=5)
    if best is not None and best.device == device:
        axes.plot(best.cards, best.result.bytes["process"] / GIB, "*", ms=17, color="#D55E00", zorder=6, label="answer")
    axes.grid(color=FAINT, lw=0.7, zorder=0)
    axes.set_title(short(device.name), fontsize=10.5, color=INK)
    label_limit(axes, f"{usable:.3g} GiB", usable, LIMIT)


def _line(axes: Axes, layouts: list[Layout], style: str, colour: str, label: str) -> None:
    """A line with a mark for each layout, which is hollow where the process is not known."""
    heights = [one.result.bytes["process"] / GIB for one in layouts]
    cards = [one.cards for one in layouts]
    axes.plot(cards, heights, style, color=colour, label=label, lw=1.7, ms=5, zorder=3)
    known = [math.nan if one.exact else height for one, height in zip(layouts, heights, strict=True)]
    axes.plot(cards, known, style[-1], ms=3, color="white", zorder=4)
