"""What figures draw: everything that was asked is seen, nothing lies under something else, no room is left empty.

Asks the drawn objects of matplotlib, in pixels, which is where a reader sees them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from estimator.answers.advice import advise
from estimator.answers.cluster import smallest_cluster
from estimator.answers.comparison import all_methods, compare
from estimator.answers.inverse import solve
from estimator.answers.max_context import by_engine, curve, rows
from estimator.figures.longest_context import context_figure
from estimator.show.cli import main

MODEL = "smollm2-135m"
LORA = {"name": "lora", "target_modules": ["q_proj", "v_proj"]}


def points(axes: Axes) -> Any:
    """The points of all lines but those across the axes, [n, 2], as shares of the axes."""
    to_share = axes.transData + axes.transAxes.inverted()
    return np.concatenate([to_share.transform(line.get_xydata()) for line in axes.lines if len(line.get_xydata()) > 2])


def contexts(models: list[str], caches: list[tuple[str, str]], budget: str) -> Figure:
    """The figure of the longest contexts."""
    return context_figure([curve(row) for row in rows({"budget": budget}, models, ["q4_k_m"], caches)])


def assert_labels_are_in_front(axes: Axes) -> None:
    """No label of a limit or an answer is crossed by a line or lies on another text."""
    labels = [text for text in axes.texts if isinstance(text, Annotation) and text.get_bbox_patch()]
    assert labels
    for label in labels:
        box = label.get_window_extent()
        crossing = [
            line.get_label()
            for line in axes.lines
            if line.get_transform().transform_path(line.get_path()).intersects_bbox(box, filled=False)
        ]
        assert crossing == [], label.get_text()
        assert label.get_zorder() > max(line.get_zorder() for line in axes.lines)
        assert box.count_overlaps([other.get_window_extent() for other in axes.texts if other is not label]) == 0


def test_every_context_that_was_asked_is_seen() -> None:
    """One whose weights alone are too large too, and each of two answers at one place."""
    (axes,) = contexts(["gemma-3-270m", "qwen2.5-7b"], [("f16", "f16"), ("bf16", "bf16")], "1GiB").axes
    lines = [line for line in axes.lines if len(line.get_xydata()) > 2]
    assert len(lines) == 4
    for line in lines:
        assert any(axes.bbox.contains(*point) for point in axes.transData.transform(line.get_xydata()))
    first, second = [line for line in axes.lines if line.get_marker() == "o"]  # both reach the model's own context
    assert (first.get_xydata() == second.get_xydata()).all()
    assert second.get_markersize() + 2 < first.get_markersize()
    assert second.get_zorder() > first.get_zorder()
    assert_labels_are_in_front(axes)


def test_a_line_is_named_after_its_engine_where_there_are_several() -> None:
    """An engine of several lines has what they differ in instead. No name leaves the picture."""
    caches = [("f16", "f16"), ("q8_0", "q8_0")]
    found, _ = by_engine({"device": "iphone-15"}, ["llama.cpp", "executorch"], ["llama-3.2-1b"], [], caches)
    figure = context_figure([curve(row) for row in found])
    legend = figure.axes[0].get_legend()
    assert legend is not None
    names = [text.get_text().split(", ", 1)[1].partition(":")[0] for text in legend.get_texts()]
    assert names == ["Q4_K_M, cache f16", "Q4_K_M, cache q8_0", "ExecuTorch"]
    figure.canvas.draw()
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_contexts_fill_the_axes_where_the_limit_is_far_away() -> None:
    for budget in ("1GiB", "64GiB", "9000GiB"):
        (axes,) = contexts([MODEL], [("f16", "f16")], budget).axes
        heights = points(axes)[:, 1]
        assert heights.max() > 0.4
        assert np.ptp(heights) > 0.3
        assert_labels_are_in_front(axes)
    assert "above what is drawn" in axes.texts[0].get_text()


@pytest.mark.parametrize(("question", "budget"), [("max-seq", 460), ("max-rank", 450), ("max-batch", 800)])
def test_the_answer_is_written_where_no_line_is(question: str, budget: int) -> None:
    keys = {"model": MODEL, "method": LORA, "budget": f"{3 * budget}MiB"} | (
        {} if question == "max-seq" else {"seq": 64}
    )
    figure = solve(question, keys).plot()
    (axes,) = figure.axes
    assert_labels_are_in_front(axes)
    assert np.ptp(points(axes)[:, 1]) > 0.3
    assert not next(line for line in axes.lines if line.get_marker() == "*").get_clip_on()  # at an edge it is whole


def test_one_expensive_candidate_leaves_room_for_the_others() -> None:
    """All but a candidate of fifty times the bytes share a fifth of the axes."""
    found = advise({"model": MODEL, "method": "lora", "seq": 4096, "budget": "9GiB"})[0]
    large = replace(found.base)
    vars(large)["result"] = replace(found.base.result, bytes={"process": 50 * found.base.bytes})
    (axes,) = replace(found, candidates=(*found.candidates, large)).plot().axes
    to_share = axes.transData + axes.transAxes.inverted()
    heights = sorted(to_share.transform(axes.collections[0].get_offsets())[:, 1])
    assert heights[-1] > 0.9
    assert heights[-2] - heights[0] > 0.2
    assert_labels_are_in_front(axes)


def test_columns_of_many_methods_say_what_they_count() -> None:
    """And what is kept for backward is not called a saving."""
    found = compare({"model": MODEL, "budget": "1GiB"}, all_methods({"model": MODEL}, {})[:9], [64], 64)
    (axes,) = found.plot().axes
    texts = [text.get_text() for text in axes.texts]
    assert texts[:3] == ["process", "trained", "activations kept"]
    assert not [text for text in texts if "save" in text]
    edge = axes.figure.bbox.x1
    assert all(text.get_window_extent().x1 < edge for text in axes.texts)


def test_a_comparison_leaves_no_part_of_the_picture_empty() -> None:
    """Four fifths of the width are axes, every curve's name and mark stand beside its bar."""
    found = compare({"model": MODEL}, [{"name": "full"}, LORA, {"name": "ia3"}], [64, 256], 64, ["rtx-4090"])
    left, right = found.plot().axes
    assert left.get_position().width + right.get_position().width > 0.8
    assert_labels_are_in_front(left)
    assert [text.get_text() for text in right.texts if text.get_fontweight() == "bold"] == [
        row.label for row in found.rows
    ]
    marks = {(line.get_color(), line.get_marker()) for line in left.lines if line.get_marker() != "None"}
    assert {(line.get_color(), line.get_marker()) for line in right.lines} == marks


@pytest.mark.share(2)
def test_a_cluster_has_a_panel_for_each_card_and_a_line_for_each_way() -> None:
    """With a mark for each layout, hollow where a GPU's process is not known; the answer's mark; the limits."""
    keys = {"model": "llama-3.2-1b", "dtype": "float32", "seq": 256}
    cards = ["raspberry-pi-5-8gb", "t4", "raspberry-pi-5-16gb"]
    found = smallest_cluster(keys, cards, 4)
    figure = found.plot()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["raspberry-pi-5-8gb", "t4", "raspberry-pi-5-16gb"]
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert len(named) == len(set(named))
    assert {"one process", "answer", "fsdp2", "fsdp2 without resharding"} <= set(named)
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    drawn = set()
    for axes in panels:
        lines = [line for line in axes.lines if line.get_label() in named and line.get_label() != "answer"]
        for line in lines:
            of_device = [one for one in found.tried if one.device.name == axes.get_title()]
            ends = {(one.cards, one.result.bytes["process"] / 2**30) for one in of_device}
            assert {tuple(point) for point in line.get_xydata()} <= ends
            drawn |= {(axes.get_title(), *point) for point in line.get_xydata()}
        assert f"{found.tried[0].device.usable_bytes / 2**30:.3g} GiB" in "".join(
            text.get_text() for axes in panels for text in axes.texts
        )
        assert_labels_are_in_front(axes)
    assert len(drawn) == len({(one.device, one.cards, one.result.bytes["process"]) for one in found.tried})
    stars = [line for axes in panels for line in axes.lines if line.get_label() == "answer"]
    assert [(*line.get_xdata(), axes.get_title()) for line in stars for axes in [line.axes]] == [(2, "t4")]


def test_a_timeline_says_which_step_is_which(tmp_path: Path) -> None:
    path = tmp_path / "timeline.svg"
    command = ["timeline", MODEL, "--method", "lora", "--seq", "256", "--batch", "2", "--device", "rtx-4060"]
    assert main([*command, "--output", str(path)]) == 0
    drawn = path.read_text(encoding="utf-8")
    for words in ("step 1 of 2: 2 × 32 tokens", "step 2 of 2: 2 × 256 tokens", "in step 2, backward"):
        assert words in drawn
