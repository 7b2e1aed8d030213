"""The parts of a process at its peak, their colours, and one process as a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..answers.result import Result
from ..engines.registry import engine_of
from ..text import GIB
from .canvas import INK, add_heading, drawn, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTSIDE_TENSORS = "allocator, kernels and libraries"
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


def process_parts(result: Result, gradients_alive: bool = False) -> dict[str, int]:
    """The parts of a process at its peak, in bytes, whose sum is the process.

    ``gradients_alive``: gradients exist from the start (gradient accumulation).
    """
    parts = engine_of(result.runtime).parts(result.bytes, result.peak_at, gradients_alive)
    return {**parts, OUTSIDE_TENSORS: result.bytes["process"] - result.bytes["peak"]}


@drawn
def result_figure(result: Result) -> Figure:
    """The parts of one process at its peak, as one bar, with the budget."""
    figure = new_figure(9.0, 2.6)
    axes = figure.add_axes((0.03, 0.3, 0.94, 0.24))
    start = 0.0
    for name, nbytes in process_parts(result).items():
        axes.barh([0], [nbytes / GIB], 0.8, [start], color=PARTS[name], label=f"{name} {nbytes / GIB:.2f}")
        start += nbytes / GIB
    if result.budget_bytes is not None:
        axes.axvline(result.budget_bytes / GIB, color=INK, linestyle="--", linewidth=1.2)
    axes.set_yticks([])
    axes.set_xlabel(f"GiB: {result.asked}")
    figure.legend(loc="lower left", bbox_to_anchor=(0.03, 0.56), ncols=3, frameon=False, fontsize=9)
    title = f"{result.model}: {result.bytes[result.against] / GIB:.2f} GiB"
    add_heading(figure, title if result.verdict is None else f"{title}, {result.verdict}", "")
    return figure
