"""Lines of a heading. Witness: by hand."""

from __future__ import annotations

from estimator.export.heading import WIDTH, filled


def test_long_lines_are_broken_between_words() -> None:
    """What follows is indented further; a word is never broken, however long and whatever hyphens it has."""
    long, dashed = "x" * (WIDTH + 9), "-".join(["part"] * (WIDTH // 4))
    words = ["word"] * (WIDTH // 5)
    assert filled(["short", long, f"{dashed} end"]) == ["short", long, dashed, "    end"]
    whole, rest = filled([" ".join([*words, "more words"])])
    assert whole.split() + rest.split() == [*words, "more", "words"]
    assert len(whole) <= WIDTH < len(whole) + 5
    assert rest.startswith("    ")
    assert not rest.startswith("     ")
    assert filled(["a", f"b {long}"], " * ") == [" * a", " * b", f" *     {long}"]
