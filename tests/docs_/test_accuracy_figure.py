"""The figure of the page on accuracy, drawn from the committed records."""

from __future__ import annotations

import statistics

import pytest

from tests.helpers.files import DOCS, script

FIGURE = script("make_accuracy_figure")


@pytest.fixture(scope="module")
def points() -> dict[str, list[tuple[float, float]]]:
    """Measured and estimated bytes of each kind of witness."""
    found: dict[str, list[tuple[float, float]]] = FIGURE.witnesses()
    return found


def test_points_are_those_of_the_records(points: dict[str, list[tuple[float, float]]]) -> None:
    """Witnesses: published runs, recorded runs and public logs. The median difference of each kind is below 2 %."""
    assert {kind.partition(",")[0]: len(pairs) for kind, pairs in points.items()}.keys() >= {"MLX", "llama.cpp"}
    for kind, pairs in points.items():
        assert len(pairs) >= 10, kind
        assert statistics.median(abs(estimated / measured - 1) for measured, estimated in pairs) < 0.02, kind
        assert all(measured > 0 < estimated for measured, estimated in pairs), kind
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    assert len([*FIGURE.processes(page)]) == page.count("| +0 B | +0 B |")


def test_it_is_drawn_and_stands_first(points: dict[str, list[tuple[float, float]]]) -> None:
    pytest.importorskip("matplotlib")
    axes, *_ = FIGURE.accuracy_figure({kind: pairs[:3] for kind, pairs in points.items()}).axes
    line, *dots = axes.get_lines()
    assert list(line.get_xdata()) == list(line.get_ydata())  # where both are equal
    assert len({dot.get_color() for dot in dots}) == len(dots) == len(points)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    first = (DOCS / "accuracy.md").read_text(encoding="utf-8").splitlines()[2]
    assert first == "![Estimated against measured bytes](images/accuracy.png)"
    assert (DOCS / "images" / "accuracy.png").stat().st_size > 20_000
