"""Whether commands print what is recorded (``tests/cases/printed.py``)."""

from __future__ import annotations

import difflib

from tests.cases.printed import printed, recorded


def assert_printed(group: str, line: str) -> None:
    """A command line of a group prints what is recorded. The failure shows the lines that differ."""
    was, now = recorded(group)[line].rstrip("\n"), printed(line).rstrip("\n")
    changed = difflib.unified_diff(was.splitlines(), now.splitlines(), "recorded", "printed now", lineterm="", n=2)
    assert was == now, "\n".join([f"estimator {line}", *changed, "rewrite: python -m tests.cases.printed"])
