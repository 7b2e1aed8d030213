"""Figures: methods compared, shares of full fine-tuning, advice, answers, timelines, what is saved.

Sizes are in GiB (2^30 bytes), unless a figure says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..text import GIB, human, printable_lines
from .parts import OUTSIDE_TENSORS, figures, process_parts
from .report import runtime_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    from ..engines.torch_cuda.process import Timeline
    from ..show.explained import Section, View
    from .advice import Advice
    from .comparison import Comparison, Row
    from .inverse import Solution
    from .llama_cpp import Limit
    from .max_context import Curve
    from .result import Result

INK, GREY, FAINT = "#222222", "#666666", "#dddddd"
LIMIT = "#B22222"
"""The colour of what must not be exceeded."""
LINES = (
    *("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#8A6D00", "#5B3FA0"),
    *("#A04000", "#E69F00", "#7F7F7F", "#882255", "#44AA99", "#999933"),
)
"""The colours of lines (after Okabe, Ito and Tol, safe for colour-blind people); full fine-tuning has ``INK``."""
MARKERS = "sD^vPXo"
PARTS = {
    "parameters": "#9FB1C1",
    "optimizer states": "#5F7486",
    "gradients": "#E9D8A6",
    "saved activations": "#D55E00",
    "temporaries and logits": "#F3B27A",
    "activations, gradients and temporaries": "#E58A3C",
    "weights": "#9FB1C1",
    "KV cache and states": "#D55E00",
    "compute": "#F3B27A",
    OUTSIDE_TENSORS: "#DADFE3",
}
NOTE = 0.19
"""The height of a line below the heading, in inches."""
MANY = 7
"""A comparison of more methods is drawn as bars only."""
SHADES = ("#A9CCE3", "#4F93C4", "#1B4F72")
"""The colours of sequence lengths, short to long."""
MOMENTS = 5
"""The most moments that are drawn below the process."""
Place = tuple[tuple[float, float], tuple[float, float]]
"""Where a text may stand: a point, and the distance from it in points (1/72 inch), to the right and up."""
UNITS = {"seq": "tokens", "batch": "sequences"}
STYLE = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "text.color": INK,
    "text.parse_math": False,  # a name may contain dollar signs
    "svg.fonttype": "none",
}


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib with its defaults and ``STYLE``, whatever a ``matplotlibrc`` says.

    Raises ``InputError`` where matplotlib does not start: it reads that file, and the name of a backend, on its import.
    """
    try:
        import matplotlib
    except ValueError as error:
        raise InputError(f"matplotlib does not start: {error}; look at MPLBACKEND and at matplotlibrc") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def comparison_figure(comparison: Comparison, path: Path | None = None) -> Figure:
    """A comparison: the process against sequence length, and its parts at one length.

    Raises ``OSError`` where the file cannot be written.
    """
    with _style():
        if len(comparison.rows) > MANY:
            return _save(_many(comparison), path)
        notes = _elsewhere(comparison)
        height = 6.75 + NOTE * len(notes)
        figure = _figure(12.8, height)
        bottom, tall = 1.045 / height, 4.27 / height
        left = figure.add_axes((0.055, bottom, 0.425, tall))
        right = figure.add_axes((0.555, bottom, 0.43, tall))
        colours = _colours(comparison.rows)
        _curves(left, comparison, colours)
        _bars(figure, right, comparison, colours)
        figure.legend(loc="lower center", ncol=len(PARTS), frameon=False, fontsize=9.5, handlelength=1.4)
        _heading(figure, _thesis(comparison), "\n".join([_conditions(comparison), *notes]))
        return _save(figure, path)


def _many(comparison: Comparison) -> Figure:
    """Many methods on one axis: the parts of each process at its peak, the largest process first."""
    at = comparison.at
    rows = sorted(comparison.rows, key=lambda row: -row.results[at].bytes["process"])
    notes = _elsewhere(comparison)
    largest = max(row.results[at].bytes["process"] for row in rows) / GIB
    limits = [(text, limit) for text, limit in _drawn_limits(comparison) if limit < 1.3 * largest]
    tall = 0.27 * len(rows) - 0.15
    height = tall + 2.4 + NOTE * len(notes) + 0.22 * max(len(limits) - 1, 0)
    figure = _figure(12.0, height)
    axes = figure.add_axes((0.235, 1.1 / height, 0.475, tall / height))
    columns = ((1.015, "process"), (1.22, "trained"), (1.385, "activations kept"))
    for x, heading in columns:
        axes.text(x, -0.9, heading, transform=axes.get_yaxis_transform(), fontsize=9, color=GREY, va="center")
    for name, starts, widths in _stacked(comparison, rows):
        axes.barh(range(len(rows)), widths, 0.7, starts, color=PARTS[name], label=name)
    for y, row in enumerate(rows):
        result, share = row.results[at], row.shares[at]
        cells = (
            f"{result.bytes['process'] / GIB:.1f} GiB  ({figures(100 * share.process)}%)",
            f"{figures(100 * share.trainable)}%",
            f"{figures(100 * share.saved)}%" if share.saved else "none",
        )
        for (x, _), text in zip(columns, cells, strict=True):
            axes.text(x, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [_short(row.label, 30) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
    axes.set_xlabel(f"bytes of the process at its peak (GiB), {at} tokens; shares are of full fine-tuning")
    for text, limit in limits:
        axes.axvline(limit, color=GREY, lw=1.2, ls=(0, (5, 3)))
        places = [((limit, -0.75 - 0.8 * level), (0, 1)) for level in range(len(limits))]
        _label(axes, text, places, axes.transData, color=GREY, fontsize=9)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.35, -0.55 / tall), ncol=4, frameon=False, fontsize=9)
    _heading(figure, _thesis(comparison), "\n".join([_conditions(comparison), *notes]))
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
                fits = (f"{_short(row.label)} {comparison.reach(row, name)}" for row in rows)
                found.append(f"{limit}: {'; '.join(fits)}")
    if found:
        found.insert(
            0,
            f"Drawn are the bytes on {comparison.plan.device}. Not drawn, since the same steps need other bytes there:",
        )
    return [line for text in found for line in textwrap.wrap(text, 165, subsequent_indent="    ")]


def advice_figure(advice: Sequence[Advice], path: Path | None = None) -> Figure:
    """The front of peak against compute, a curve for each method, and the first advice's candidates as dots.

    Raises ``OSError`` where the file cannot be written.
    """
    best = advice[0]
    with _style():
        figure = _figure(9.6, 6.2)
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
        _log_heights(axes, min(*shown, best.budget_bytes / GIB) / 1.25, 1.25 * max(*shown, best.budget_bytes / GIB))
        axes.grid(color=FAINT, lw=0.7, zorder=0)
        axes.set_axisbelow(True)
        _limit_label(axes, f"to fit: {best.budget_bytes / GIB:.4g} GiB", best.budget_bytes / GIB, LIMIT)
        axes.set_xlabel("extra compute over the method's plain step (%, matrix products)")
        axes.set_ylabel("peak memory of the process (GiB, log scale)")
        axes.legend(fontsize=9, loc="upper right", framealpha=0.85, edgecolor="none")
        changes = ", ".join(change.text.partition(" (")[0] for change in best.changes) or "no change"
        saved = f"{best.base.bytes / GIB:.3g} to {best.best.bytes / GIB:.3g} GiB"
        plan = best.base.plan
        _heading(
            figure,
            f"{best.name}: {saved} with {changes}"
            if best.fits
            else f"{best.name}: nothing fits; {best.best.bytes / GIB:.3g} GiB is the least",
            "  ·  ".join(
                (
                    plan.model if len(plan.model) <= 40 else f"…{plan.model[-39:]}",  # of a path the end says which
                    f"batch {plan.batch}, {plan.seq} tokens",
                    plan.dtype,
                    plan.optimizer,
                    runtime_of(plan),
                )
            ),
        )
        return _save(figure, path)


_VERBS = {"fits": "fits, with the margin,", "tight": "is tight"}


def solution_figure(solution: Solution, points: Sequence[tuple[int, Result]], path: Path | None = None) -> Figure:
    """The memory of the process and of its moments against the value that is looked for, with the budget.

    ``points`` are estimates at ascending values (``inverse.curve``). Raises ``OSError`` if the file cannot be written.
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
    with _style():
        figure = _figure(11.2, 5.8)
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
            axes.plot(*at, marker="*", markersize=17, color="#D55E00", ls="none", zorder=6)
            places = [(at, (x * away, y * away)) for away in (9, 18, 30, 45) for y in (1, -1) for x in (-1, 1)]
            _label(axes, f"{solution.value:,}", places, axes.transData, color="#D55E00", fontweight="bold")
        axes.grid(color=FAINT, lw=0.7, zorder=0)
        axes.set_xlabel(f"{solution.key} ({UNITS.get(solution.key, 'rank of the adapters')})")
        axes.set_ylabel("memory (GiB)")
        axes.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1.015, 1.01))
        plan = solution.plan
        fixed = {"seq": f"{plan.seq} tokens", "batch": f"batch {plan.batch}"}
        fixed.pop(solution.key, None)
        binding = f"; what binds: {solution.binding}" if solution.binding else ""
        answer = "nothing fits" if solution.value is None else f"{solution.value:,} {_VERBS[solution.verdict]}"
        _heading(
            figure,
            f"{solution.question}: {answer} in {budget:.4g} GiB{binding}",
            "  ·  ".join(
                (
                    plan.model if len(plan.model) <= 40 else f"…{plan.model[-39:]}",  # of a path the end says which
                    plan.method.name,
                    *fixed.values(),
                    plan.dtype,
                    plan.optimizer,
                    runtime_of(plan),
                )
            ),
        )
        return _save(figure, path)


def context_figure(curves: Sequence[Curve], path: Path | None = None) -> Figure:
    """The memory against the context, a line for each model, recipe and cache type, with the limits.

    Each limit has a panel with the memory that it limits. Raises ``OSError`` where the file cannot be written.
    """
    first = curves[0].row
    limits = " and ".join(_limit(limit) for limit in first.limits)
    models = list(dict.fromkeys(curve.row.plan.model for curve in curves))
    kinds = list(dict.fromkeys(_kind(curve) for curve in curves))
    with _style():
        figure = _figure(11.2, 6.0)
        panels = figure.subplots(len(first.limits), 1, sharex=True, squeeze=False)[:, 0]
        figure.subplots_adjust(left=0.075, right=0.68, bottom=0.115, top=0.83, hspace=0.09)
        for i, axes in enumerate(panels):
            budget = (first.limits[i].budget or 0) / GIB
            heights = [[each[i].needed / GIB for _, each in curve.points] for curve in curves]
            lowest, highest = min(map(min, heights)), max(map(max, heights))
            # Every curve is seen, one far above the limit at its start. A limit far above all curves is left out.
            reach = min(highest, max(4 * budget, 1.4 * max(map(min, heights))))
            _log_heights(axes, lowest / 1.4, 1.4 * (highest if budget > 3 * highest else max(budget, reach)))
            for curve, values in zip(curves, heights, strict=True):
                row = curve.row
                turn, place = divmod(models.index(row.plan.model), len(LINES))
                style = DASHES[(kinds.index(_kind(curve)) + turn * len(kinds)) % len(DASHES)]
                answer = "nothing fits" if row.answer is None else f"{row.answer:,}"
                label = f"{_short(Path(row.plan.model).name, 24)}, {_kind(curve)}: {answer}"
                contexts = [context for context, _ in curve.points]
                axes.plot(contexts, values, color=LINES[place], ls=style, lw=1.8, label=label, zorder=3)
            axes.axhline(budget, color=LIMIT, lw=1.4, ls="--", zorder=5)
            axes.grid(color=FAINT, lw=0.7, zorder=0)
            axes.set_ylabel(f"{_COUNTED[first.limits[i].against]} (GiB, log)", fontsize=9.5)
        panels[-1].set_xscale("log", base=2)
        for i, axes in enumerate(panels):
            _dots(axes, [(curve.row.answer, curve.row.limits[i].needed / GIB) for curve in curves])
            limit = first.limits[i]
            _limit_label(axes, _limit(limit), (limit.budget or 0) / GIB, LIMIT)
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
        _heading(
            figure,
            f"Longest context in {limits}{where}: {text}",
            f"llama.cpp {first.plan.llama_cpp.build}  ·  dots: the longest context that fits{assumed}",
        )
        return _save(figure, path)


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


DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (7, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (2, 1)))
_COUNTED = {"process": "resident memory", "dirty": "dirty memory", "used": "RAM in use", "device": "device memory"}


def _kind(curve: Curve) -> str:
    """Recipe and cache types of a curve."""
    plan = curve.row.plan
    cache = f"cache {plan.llama_cpp.cache}"
    return cache if plan.from_gguf else f"{plan.dtype.upper()}, {cache}"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path | None) -> Figure:
    """The figure, its texts made ``printable``, written to a file where one is named.

    A letter that the font lacks is drawn as a box.
    """
    import warnings

    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(printable_lines(text.get_text()))
    if path is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(path, dpi=125)
    return figure


def _heading(figure: Figure, title: str, subtitle: str) -> None:
    import textwrap

    lines = textwrap.wrap(title, round(7.8 * figure.get_figwidth()))
    inch = 1 / figure.get_figheight()
    figure.text(0.012, 1 - 0.18 * inch, "\n".join(lines), fontsize=14, fontweight="bold", va="top", linespacing=1.3)
    figure.text(0.012, 1 - (0.28 + 0.27 * len(lines)) * inch, subtitle, fontsize=10, color=GREY, va="top")


def _colours(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each method."""
    others = [row.label for row in rows if row.method["name"] != "full"]
    found = {label: (LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(others)}
    return {row.label: found.get(row.label, (INK, "o")) for row in rows}


def _thesis(comparison: Comparison) -> str:
    """The result of a comparison in one sentence."""
    others = ("full", "freeze", "mezo", "forward-ad")
    shares = [row.shares[comparison.at] for row in comparison.rows if row.method["name"] not in others]
    if not shares:
        return f"Memory of full fine-tuning: {comparison.plan.model}"
    who = "Adapters train" if len(shares) > 1 else f"{comparison.rows[-1].label} trains"
    return (
        f"{who} {_range([s.trainable for s in shares])} of the parameters; the step keeps "
        f"{_range([s.saved for s in shares])} of full fine-tuning's activations and needs "
        f"{_range([s.process for s in shares])} of its memory"
    )


def _range(fractions: Sequence[float]) -> str:
    low, high = (figures(100 * value) for value in (min(fractions), max(fractions)))
    return f"{low}%" if low == high else f"{low}–{high}%"


def _conditions(comparison: Comparison) -> str:
    plan = comparison.plan
    words = [
        plan.model if len(plan.model) <= 40 else f"…{plan.model[-39:]}",  # of a path the end says which
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
    _log_heights(axes, min(values) / 1.25, max(values) * 1.25)
    axes.set_xlim(seqs[0] / 1.1, seqs[-1] * 1.1)
    _end_labels(axes, seqs[-1], ends)
    for _, limit in limits:
        axes.axhline(limit, color=GREY, lw=1.2, ls=(0, (5, 3)), zorder=2)
    for text, limit in limits:
        _limit_label(axes, text, limit, GREY)
    axes.xaxis.set_major_locator(FixedLocator(list(seqs)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color=FAINT, lw=0.7, zorder=0)
    axes.set_xlabel("sequence length (tokens, log scale)")
    axes.set_ylabel("memory of the process (GiB, log scale)")
    axes.set_title("Process against sequence length", loc="left", fontsize=11.5)


def _process(row: Row, seq: int) -> float:
    return row.results[seq].bytes["process"] / GIB


def _log_heights(axes: Axes, low: float, high: float) -> None:
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


def _limit_label(axes: Axes, text: str, limit: float, colour: str) -> None:
    """Write a limit's name at an end of its line, or at the top where the axis ends below it."""
    top = axes.get_ylim()[1]
    if limit > top:
        text, limit = f"{text}, above what is drawn", top
    ends = ((0, 3), (1, -3), (0.25, 0), (0.5, 0), (0.75, 0))
    places = [((x, limit), (dx, dy)) for dy in (3, -3) for x, dx in ends]
    _label(axes, text, places, axes.get_yaxis_transform(), color=colour, fontsize=9.5)


def _label(axes: Axes, text: str, places: Sequence[Place], coordinates: Any, **font: Any) -> None:
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


def _end_labels(axes: Axes, seq: int, ends: Sequence[tuple[float, str, str]]) -> None:
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
            note += f" ({figures(100 * share.process)}%" + (")" if len(moments) > 1 else " of full)")
        if len(moments) > 1:
            note += f", {row.results[at].peak_at}"
        elif row.method["name"] != "full":
            note += f", trains {figures(100 * share.trainable)}%"
        colour, marker = colours[row.label]
        beside = offset_copy(axes.transData, figure, 4, 4, "points")
        axes.plot(0, y - 0.3, marker, color=colour, ms=6.5, transform=beside, clip_on=False)
        head = axes.annotate(
            _short(row.label, 36), (0, y - 0.3), (12, 0), textcoords="offset points", color=colour, fontweight="bold"
        )
        axes.annotate(f"   {note}", (1, 0), xycoords=head, fontsize=9.2, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.6, -0.7)
    axes.set_xlim(0, 1.02 * widest)
    axes.set_xlabel("bytes of the process at its peak (GiB)")
    where = f" ({moments.pop()})" if len(moments) == 1 else ""
    axes.set_title(f"At its peak{where}, {at} tokens", loc="left", fontsize=11.5)
    axes.spines["left"].set_visible(False)


def _short(label: str, length: int = 28) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _folded(label: str) -> str:
    """A label on two lines, broken before its parenthesis."""
    return label.replace(" (", "\n(", 1)


def thesis_figure(
    rows: Mapping[str, Sequence[Row]], seqs: Sequence[int], conditions: str, path: Path | None = None
) -> Figure:
    """The shares of full fine-tuning: trainable parameters, activations and peak, by model and method.

    ``rows`` are the methods by model, without full fine-tuning. ``seqs`` are the lengths in tokens of the peak's bars,
    at most three. ``conditions`` are other facts about the plans (batch, dtype). Raises ``OSError`` if the file cannot
    be written.
    """
    with _style():
        figure = _figure(12.8, 6.6)
        panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left=0.055, right=0.985, top=0.785, bottom=0.165, wspace=0.05)
        handles: list[Any] = []
        for axes, (model, methods) in zip(panels, rows.items(), strict=True):
            handles = _shares(axes, model, methods, seqs)
        panels[0].set_ylabel("% of full fine-tuning")
        every = [row.shares[seq] for methods in rows.values() for row in methods for seq in seqs]
        _heading(
            figure,
            "Parameter-efficient is not memory-efficient: "
            f"with {_range([s.trainable for s in every])} of the parameters trained, "
            f"a step keeps {_range([s.saved for s in every])} of the activations of full fine-tuning",
            conditions,
        )
        figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=10)
        return _save(figure, path)


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
            axes.text(position + shift, 100 * fraction + 1.5, figures(100 * fraction), ha=side, fontsize=9.5, zorder=4)
    axes.axhline(100, color=GREY, lw=1.2, ls=(0, (5, 3)), zorder=2)
    axes.set_xticks(range(len(methods)), [_folded(row.label) for row in methods], fontweight="bold", color=INK)
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="y", color=FAINT, lw=0.7, zorder=0)
    axes.set_title(model, loc="left", fontsize=11.5)
    return handles


TIMELINE = {
    "parameters": PARTS["parameters"],
    "optimizer states": PARTS["optimizer states"],
    "gradients": PARTS["gradients"],
    "saved activations": PARTS["saved activations"],
    "temporaries": PARTS["temporaries and logits"],
}
"""The colours of ``engines.torch_cuda.process.KINDS``."""


def result_figure(result: Result) -> Figure:
    """The parts of one process at its peak, as one bar, with the budget."""
    with _style():
        figure = _figure(9.0, 2.6)
        axes = figure.add_axes((0.03, 0.3, 0.94, 0.24))
        start = 0.0
        for name, nbytes in _parts(result).items():
            axes.barh([0], [nbytes / GIB], 0.8, [start], color=PARTS[name], label=f"{name} {nbytes / GIB:.2f}")
            start += nbytes / GIB
        if result.budget_bytes is not None:
            axes.axvline(result.budget_bytes / GIB, color=INK, linestyle="--", linewidth=1.2)
        axes.set_yticks([])
        axes.set_xlabel(f"GiB: {result.asked}")
        figure.legend(loc="lower left", bbox_to_anchor=(0.03, 0.56), ncols=3, frameon=False, fontsize=9)
        title = f"{result.model}: {result.bytes[result.against] / GIB:.2f} GiB"
        _heading(figure, title if result.verdict is None else f"{title}, {result.verdict}", "")
        return _save(figure, None)


def _parts(result: Result) -> dict[str, int]:
    if result.runtime != "llama.cpp":
        return process_parts(result)
    sizes = result.bytes
    held = sizes["kv_cache"] + sizes["recurrent_state"] + sizes["output"]
    return {
        "weights": sizes["resident"] - held,
        "KV cache and states": held,
        "compute": sizes["peak_above_resident"],
        OUTSIDE_TENSORS: sizes["process"] - sizes["peak"],
    }


LINES_AT_MOST = 12
"""The most lines of a figure of a sweep."""


def sweep_figure(rows: Sequence[Mapping[str, Any]], component: str, along: str, others: Sequence[str]) -> Figure:
    """A component against a swept number, a line for each combination of the others, up to ``LINES_AT_MOST``."""
    lines: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
    for row in rows:
        if row[component] is not None:
            key = tuple(row[name] for name in others)
            lines.setdefault(key, []).append((row[along], row[component] / GIB))
    with _style():
        figure = _figure(9.0, 5.2)
        axes = figure.add_axes((0.08, 0.11, 0.6, 0.76))
        for number, (key, points) in enumerate(list(lines.items())[:LINES_AT_MOST]):
            colour = LINES[number % len(LINES)]
            marker = MARKERS[number % len(MARKERS)] if len(points) <= MANY * 4 else None
            name = ", ".join(f"{name} {value}" for name, value in zip(others, key, strict=True))
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name or None)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(along)
        axes.set_ylabel("GiB")
        if others:
            axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9)
        left_out = len(lines) - LINES_AT_MOST
        note = f"the first {LINES_AT_MOST} of {len(lines)} combinations" if left_out > 0 else ""
        _heading(figure, f"{component.replace('_', ' ')} against {along}", note)
        return _save(figure, None)


def timeline_figure(
    timeline: Timeline,
    steps: Sequence[str],
    title: str,
    conditions: str,
    budget: int | None,
    path: Path | None = None,
) -> Figure:
    """The allocated bytes by kind, and the reserved bytes, after each allocation and release of a process.

    ``steps`` says what each step is. ``budget`` is the most bytes that the allocator may reserve. Raises ``OSError``
    where the file cannot be written.
    """
    import numpy as np

    live = np.array(timeline.live, dtype=float).T / GIB
    reserved = np.array(timeline.reserved) / GIB
    peak = int(live.sum(axis=0).argmax())
    with _style():
        figure = _figure(12.0, 6.2)
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
        _label(axes, f"allocated peak {base[peak]:.2f} GiB\n{when}", places, axes.transData)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("allocations and releases, in order")
        axes.set_ylabel("GiB")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncol=7, frameon=False, fontsize=9.5)
        _heading(figure, title, conditions)
        return _save(figure, path)


def explanation_figure(view: View, path: Path | None = None) -> Figure:
    """Bytes per token by module, a panel for each part of a model, with a bar for each of one or two methods.

    Raises ``OSError`` where the file cannot be written.
    """
    panels = [(section, _by_module(section)) for section in view.sections]
    count = len(view.labels)
    lines = [max(len(modules), 1) * count + 1.6 for _, modules in panels]
    height = 0.2 * sum(lines) + 1.3
    with _style():
        figure = _figure(11.0, height)
        top = 1 - 1.2 / height
        for (section, modules), share in zip(panels, lines, strict=True):
            size = 0.2 * share / height
            axes = figure.add_axes((0.27, top - size + 0.16 / height, 0.56, size - 0.32 / height))
            _module_bars(axes, section, modules, view)
            top -= size
        sums = [f"{human(saved)}" for saved in view.saved]
        names = [f"{name} {size}" for name, size in zip(view.labels, sums, strict=True)] if count > 1 else sums
        unit = "bytes per token, by module; each panel has its own scale"
        _heading(figure, f"Saved for backward: {', '.join(names)}", f"{_plan_in_short(view)}\n{unit}")
        if count > 1:
            handles, labels = zip(*_method_handles(view), strict=True)
            figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.985, 1), frameon=False, fontsize=10)
        return _save(figure, path)


def _plan_in_short(view: View) -> str:
    plan = view.plan
    method = [] if len(view.labels) > 1 else [view.labels[0]]
    parts = [plan.model, *method, f"batch {plan.batch}", f"{plan.seq} tokens", plan.dtype, plan.attention]
    return ", ".join([*parts, *([f"checkpointing {plan.checkpointing}"] if plan.checkpointing != "none" else [])])


def _by_module(section: Section) -> dict[str, list[float]]:
    """Bytes per token of each module, by each method."""
    found: dict[str, list[float]] = {}
    for line in section.lines:
        sums = found.setdefault(line.row.module, [0.0] * len(line.kept))
        for method, kept in enumerate(line.kept):
            sums[method] += float(line.row.per_token) if kept else 0.0
    return found


METHOD_COLOURS = ("#5F7486", "#D55E00")
"""The colours of two methods; one alone has the second."""


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
    axes.set_yticks(range(len(modules)), [_short(name, 34) for name in modules])
    axes.set_ylim(max(len(modules), 1) - 0.5, -0.5)
    axes.set_xlim(0, largest)
    axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    both = " and ".join(_amount(float(value)) for value in section.per_token)
    heading = f"{_short(section.heading, 70)}: {both}"
    axes.set_title(heading, loc="left", fontsize=10, fontweight="bold", color=INK, pad=4, x=-0.455)


def _amount(value: float) -> str:
    """Bytes per token for people: whole from a hundred on, else four figures."""
    return "–" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
