"""Draw ``docs/images/accuracy.png``: what is estimated against what was measured, from the committed records.

``python docs/make_accuracy_figure.py`` takes seconds and needs no PyTorch. ``make_accuracy.py`` calls it, too.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from estimator.figures.canvas import GREY, INK, LINES, add_heading, drawn, new_figure, save
from estimator.text import GIB

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.cases import recorded_bytes
from tests.cases.llama_cpp_runs import predicted, runs
from tests.cases.published_runs import METRICS, PHASES, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
IMAGE = DOCS / "images" / "accuracy.png"
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MEASURED_PREDICTED = re.compile(r"\| ([\d.]+) ([KMG]?i?B) \| ([\d.]+) ([KMG]?i?B) \| [+-][\d.]+ % \|")
"""Cells of the page: the measured resident set, the predicted one and the difference."""
WIDEST = 1.1
"""The most by which the ends of an answer may differ, of a log that does not print every setting."""
_PARTS = ("weights", "kv_cache", "compute")
COLOURS = (*LINES[:3], LINES[7], LINES[6], LINES[5])

Point = tuple[float, float]
"""Measured and estimated bytes."""


def published() -> Iterator[Point]:
    """Runs on GPUs that others published: the peaks that PyTorch allocated and reserved, and the process."""
    for source in sources():
        for run in recorded_bytes.published(source):
            for metric in METRICS:
                if metric not in PHASES and run.error(metric) is not None and not run.mislabelled:
                    yield run.measured[metric], run.predicted[metric]


def processes(page: str) -> Iterator[Point]:
    """Steps and calls of real models on a CPU, from the page."""
    for measured, unit, estimated, other in _MEASURED_PREDICTED.findall(page):
        yield float(measured) * UNITS[unit], float(estimated) * UNITS[other]


def resident_sets() -> Iterator[Point]:
    """Recorded runs of llama.cpp that decoded."""
    for run in runs():
        if run.bytes is not None and "resident" in run.bytes:
            use = predicted(run)
            yield run.bytes["resident"], use.clean + use.dirty


def logged(name: str, figures: tuple[str, ...], unit: int) -> Iterator[Point]:
    """Figures of public logs: the middle of what is answered. Ranges wider than ``WIDEST`` are left out."""
    lines = (DOCS / "measured" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    for _, figure, said, least, most, *_ in (line.split("\t") for line in lines[1:]):
        if figure.rpartition(".")[2] in figures and 0 < float(most) <= WIDEST * float(least):
            yield float(said) * unit, (float(least) * float(most)) ** 0.5 * unit


def witnesses() -> dict[str, list[Point]]:
    """The points of each kind of witness."""
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    return {
        "PyTorch on GPUs, published runs: allocated, reserved, process": [*published()],
        "PyTorch on a CPU, measured here: process": [*processes(page)],
        "llama.cpp, recorded here: resident set": [*resident_sets()],
        "llama.cpp, public logs: weights, KV cache, compute buffer": [*logged("public_home", _PARTS, 2**20)],
        "vLLM and SGLang, public logs: loading, activations, KV cache": [
            *logged("public_serving", ("loading", "activation", "available"), GIB)
        ],
        "MLX, public logs: peak": [*logged("public_home", ("peak", "peak, warmed up"), 10**9)],
    }


@drawn
def accuracy_figure(points: dict[str, list[Point]]) -> Figure:
    """Estimated against measured bytes on logarithmic axes, with the line on which both are equal."""
    figure = new_figure(8.6, 7.6)
    axes = figure.add_axes((0.09, 0.08, 0.88, 0.79))
    both = [size / GIB for pairs in points.values() for pair in pairs for size in pair]
    ends = min(both) / 1.5, max(both) * 1.5
    axes.plot(ends, ends, color=GREY, linewidth=1, zorder=1)
    for (kind, pairs), colour in zip(points.items(), COLOURS, strict=True):
        off = statistics.median(abs(estimated / measured - 1) for measured, estimated in pairs)
        axes.plot(
            [measured / GIB for measured, _ in pairs],
            [estimated / GIB for _, estimated in pairs],
            "o",
            color=colour,
            markersize=4,
            alpha=0.55,
            markeredgewidth=0,
            label=f"{kind}\n{len(pairs):,} figures, median difference {100 * off:.1f} %",
        )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured, GiB", ylabel="estimated, GiB")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda size, _: f"{size:g}")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=INK, labelspacing=0.7)
    total = sum(map(len, points.values()))
    add_heading(figure, "Estimated against measured", f"{total:,} figures; on the line both are equal")
    return figure


def main() -> None:
    """Draw the figure."""
    save(accuracy_figure(witnesses()), IMAGE)


if __name__ == "__main__":
    main()
