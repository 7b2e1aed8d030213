"""Methods compared: each process against the sequence length, and its parts at one length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..answers.comparison import Comparison, Row
from ..answers.sentences import runtime_of
from ..text import GIB, few_digits
from .canvas import FAINT, GREY, INK, LINES, MARKERS, add_heading, drawn, model_in_short, new_figure, short
from .labels import label_at, label_ends, label_limit, log_heights
from .process_parts import PARTS, process_parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE = 0.19
"""The height of a line below the heading, in inches."""
MANY = 7
"""A comparison of more methods is drawn as bars only."""


@drawn
def comparison_figure(comparison: Comparison) -> Figure:
    """A comparison: the process against sequence length, and its parts at one length."""
    if len(comparison.rows) > MANY:
        return _many(comparison)
    notes = _elsewhere(comparison)
    height = 6.75 + NOTE * len(notes)
    figure = new_figure(12.8, height)
    bottom, tall = 1.045 / height, 4.27 / height
    left = figure.add_axes((0.055, bottom, 0.425, tall))
    right = figure.add_axes((0.555, bottom, 0.43, tall))
    colours = _colours(comparison.rows)
    _curves(left, comparison, colours)
    _bars(figure, right, comparison, colours)
    figure.legend(loc="lower center", ncol=len(PARTS), frameon=False, fontsize=9.5, handlelength=1.4)
    add_heading(figure, _thesis(comparison), "\n".join([_conditions(comparison), *notes]))
    return figure


def _many(comparison: Comparison) -> Figure:
    """Many methods on one axis: the parts of each process at its peak, the largest process first."""
    at = comparison.at
    rows = sorted(comparison.rows, key=lambda row: -row.results[at].bytes["process"])
    notes = _elsewhere(comparison)
    largest = max(row.results[at].bytes["process"] for row in rows) / GIB
    limits = [(text, limit) for text, limit in _drawn_limits(comparison) if limit < 1.3 * largest]
    tall = 0.27 * len(rows) - 0.15
    height = tall + 2.4 + NOTE * len(notes) + 0.22 * max(len(limits) - 1, 0)
    figure = new_figure(12.0, height)
    axes = figure.add_axes((0.235, 1.1 / height, 0.475, tall / height))
    columns = ((1.015, "process"), (1.22, "trained"), (1.385, "activations kept"))
    for x, heading in columns:
        axes.text(x, -0.9, heading, transform=axes.get_yaxis_transform(), fontsize=9, color=GREY, va="center")
    for name, starts, widths in _stacked(comparison, rows):
        axes.barh(range(len(rows)), widths, 0.7, starts, color=PARTS[name], label=name)
    for y, row in enumerate(rows):
        result, share = row.results[at], row.shares[at]
        cells = (
            f"{result.bytes['process'] / GIB:.1f} GiB  ({few_digits(100 * share.process)}%)",
            f"{few_digits(100 * share.trainable)}%",
            f"{few_digits(100 * share.saved)}%" if share.saved else "none",
        )
        for (x, _), text in zip(columns, cells, strict=True):
            axes.text(x, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [short(row.label, 30) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.set_xlabel(f"bytes of the process at its peak (GiB), {at} tokens; shares are of full fine-tuning")
    for text, limit in limits:
        axes.axvline(limit, color=GREY, lw=1.2, ls=(0, (5, 3)))
        places = [((limit, -0.75 - 0.8 * level), (0, 1)) for level in range(len(limits))]
        label_at(axes, text, places, axes.transData, color=GREY, fontsize=9)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.35, -0.55 / tall), ncol=4, frameon=False, fontsize=9)
    add_heading(figure, _thesis(comparison), "\n".join([_conditions(comparison), *notes]))
    return figure


def _stacked(comparison: Comparison, rows: Sequence[Row]) -> Iterator[tuple[str, list[float], list[float]]]:
    """The parts of each row's process at its peak: a part's name, and in GiB its starts and its widths in the rows."""
    accumulates = comparison.plan.gradient_accumulation_steps > 1
    parts = [process_parts(row.results[comparison.at], accumulates) for row in rows]
    starts = [0.0] * len(rows)
    for name in PARTS:
        widths = [one.get(name, 0) / GIB for one in parts]
        if any(width > 0 for width in widths):
            yield name, starts, widths
            starts = [start + width for start, width in zip(starts, widths, strict=True)]


def _drawn_limits(comparison: Comparison) -> list[tuple[str, float]]:
    """The limits of devices where the methods need the bytes that are drawn: whose they are, and the bytes in GiB."""
    found: dict[str, list[str]] = {}
    for name in comparison.groups()[0]:
        found.setdefault(f"{comparison.limits[name] / GIB:.1f} GiB", []).append(name)
    return [
        (
            ", ".join([*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])])
            + f": {size}{' usable' if 'budget' not in names else ''}",
            max(comparison.limits[name] for name in names) / GIB,
        )
        for size, names in found.items()
    ]


def _elsewhere(comparison: Comparison) -> list[str]:
    """Lines about devices where the methods need other bytes than those that are drawn."""
    import textwrap

    rows = comparison.rows
    found = []
    for names in comparison.groups()[1:]:
        for name in names:
            limit = f"{name} ({comparison.limits[name] / GIB:.1f} GiB usable)"
            if len(rows) > MANY:
                fitting = sum(row.on[name][comparison.at].fits is True for row in rows)
                found.append(f"{limit}: {fitting} of {len(rows)} methods fit at {comparison.at} tokens")
            else:
                fits = (f"{short(row.label)} {comparison.reach(row, name)}" for row in rows)
                found.append(f"{limit}: {'; '.join(fits)}")
    if found:
        found.insert(
            0,
            f"Drawn are the bytes on {comparison.plan.device}. Not drawn, since the same steps need other bytes there:",
        )
    return [line for text in found for line in textwrap.wrap(text, 165, subsequent_indent="    ")]


def _colours(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each method."""
    others = [row.label for row in rows if row.method["name"] != "full"]
    found = {label: (LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(others)}
    return {row.label: found.get(row.label, (INK, "o")) for row in rows}


def _thesis(comparison: Comparison) -> str:
    """The result of a comparison in one sentence."""
    others = ("full", "freeze", "mezo", "forward-ad")
    adapters = [row for row in comparison.rows if row.method["name"] not in others]
    if not adapters:
        return f"Memory of {', '.join(row.label for row in comparison.rows)}: {comparison.plan.model}"
    shares = [row.shares[comparison.at] for row in adapters]
    who = "Adapters train" if len(adapters) > 1 else f"{adapters[0].label} trains"
    return (
        f"{who} {range_of([s.trainable for s in shares])} of the parameters; the step keeps "
        f"{range_of([s.saved for s in shares])} of full fine-tuning's activations and needs "
        f"{range_of([s.process for s in shares])} of its memory"
    )


def range_of(fractions: Sequence[float]) -> str:
    """The least and the largest of some fractions, as percentages."""
    low, high = (few_digits(100 * value) for value in (min(fractions), max(fractions)))
    return f"{low}%" if low == high else f"{low}–{high}%"


def _conditions(comparison: Comparison) -> str:
    plan = comparison.plan
    words = [
        model_in_short(plan.model),
        f"batch {plan.batch}",
        f"{plan.dtype} weights" + (f", autocast {plan.autocast}" if plan.autocast else ""),
        f"shares at {comparison.at} tokens",
        plan.optimizer,
        f"{plan.attention} attention",
        "no checkpointing" if plan.checkpointing == "none" else f"checkpointing: {plan.checkpointing}",
        runtime_of(plan),
        "1 GiB = 2³⁰ bytes",
    ]
    return "  ·  ".join(words)


def _curves(axes: Axes, comparison: Comparison, colours: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    seqs = comparison.seqs
    axes.set_xscale("log", base=2)
    every = sorted(seq for seq in comparison.rows[0].results if seqs[0] <= seq <= seqs[-1])
    ends = []
    for row in comparison.rows:
        colour, marker = colours[row.label]
        axes.plot(every, [_process(row, seq) for seq in every], color=colour, lw=2.2, solid_capstyle="round", zorder=3)
        axes.plot(
            seqs, [_process(row, seq) for seq in seqs], marker, color=colour, ms=6.5, mec="white", mew=0.8, zorder=4
        )
        ends.append((_process(row, seqs[-1]), f"{_process(row, seqs[-1]):.1f}", colour))
    limits = _drawn_limits(comparison)
    values = [*(_process(row, seq) for row in comparison.rows for seq in seqs), *(limit for _, limit in limits)]
    log_heights(axes, min(values) / 1.25, max(values) * 1.25)
    axes.set_xlim(seqs[0] / 1.1, seqs[-1] * 1.1)
    label_ends(axes, seqs[-1], ends)
    for _, limit in limits:
        axes.axhline(limit, color=GREY, lw=1.2, ls=(0, (5, 3)), zorder=2)
    for text, limit in limits:
        label_limit(axes, text, limit, GREY)
    axes.xaxis.set_major_locator(FixedLocator(list(seqs)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=FAINT, lw=0.7, zorder=0)
    axes.set_xlabel("sequence length (tokens, log scale)")
    axes.set_ylabel("memory of the process (GiB, log scale)")
    axes.set_title("Process against sequence length", loc="left", fontsize=11.5)


def _process(row: Row, seq: int) -> float:
    return row.results[seq].bytes["process"] / GIB


def _bars(figure: Figure, axes: Axes, comparison: Comparison, colours: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.transforms import offset_copy

    rows, at = comparison.rows, comparison.at
    ends = [row.results[at].bytes["process"] / GIB for row in rows]
    widest = max(ends)
    for name, starts, widths in _stacked(comparison, rows):
        axes.barh(range(len(rows)), widths, 0.5, starts, color=PARTS[name], label=name, edgecolor="white", lw=0.8)
        for y, (start, width) in enumerate(zip(starts, widths, strict=True)):
            if width > 0.055 * widest:
                colour = "white" if name in ("optimizer states", "saved activations") else INK
                axes.text(start + width / 2, y, f"{width:.1f}", ha="center", va="center", fontsize=9.5, color=colour)
    moments = {row.results[at].peak_at for row in rows}
    for y, (row, end) in enumerate(zip(rows, ends, strict=True)):
        share = row.shares[at]
        note = f"{end:.1f} GiB"
        if row.method["name"] != "full":
            note += f" ({few_digits(100 * share.process)}%" + (")" if len(moments) > 1 else " of full)")
        if len(moments) > 1:
            note += f", {row.results[at].peak_at}"
        elif row.method["name"] != "full":
            note += f", trains {few_digits(100 * share.trainable)}%"
        colour, marker = colours[row.label]
        beside = offset_copy(axes.transData, figure, 4, 4, "points")
        axes.plot(0, y - 0.3, marker, color=colour, ms=6.5, transform=beside, clip_on=False)
        head = axes.annotate(
            short(row.label, 36), (0, y - 0.3), (12, 0), textcoords="offset points", color=colour, fontweight="bold"
        )
        axes.annotate(f"   {note}", (1, 0), xycoords=head, fontsize=9.2, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.6, -0.7)
    axes.set_xlim(0, 1.02 * widest)
    axes.set_xlabel("bytes of the process at its peak (GiB)")
    where = f" ({moments.pop()})" if len(moments) == 1 else ""
    axes.set_title(f"At its peak{where}, {at} tokens", loc="left", fontsize=11.5)
    axes.spines["left"].set_visible(False)
