"""Answers as figures of matplotlib. Sizes are in GiB (2^30 bytes), unless a figure says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_of(answer: Any) -> Figure:
    """The figure of an answer by itself."""
    from ..answers import advice, cluster, comparison, inverse, max_context
    from .largest_value import solution_figure
    from .longest_context import context_figure
    from .memory_against_compute import advice_figure
    from .memory_per_rank import cluster_figure
    from .methods_compared import comparison_figure
    from .process_parts import result_figure

    match answer:
        case advice.Advice():
            return advice_figure([answer])
        case cluster.Cluster():
            return cluster_figure(answer)
        case comparison.Comparison():
            return comparison_figure(answer)
        case inverse.Solution():
            return solution_figure(answer, inverse.curve(answer))
        case max_context.Row():
            return context_figure([max_context.curve(answer)])
    return result_figure(answer)
