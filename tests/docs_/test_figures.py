"""The figures of the documentation."""

from __future__ import annotations

from tests.helpers.files import DOCS


def test_figures_of_the_docs():
    folder = DOCS / "images"
    for name in ("compare.png", "thesis.png", "timeline.png"):
        assert (folder / name).stat().st_size > 20_000
