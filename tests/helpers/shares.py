"""Which cases of a test that is marked ``share(n)`` a run asks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

Case = TypeVar("Case")


def commits() -> int:
    """The commits that git counts up to this state; 0 without git, or in a copy that is no repository."""
    command = ["git", "rev-list", "--count", "HEAD"]
    try:
        return int(subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return 0


def turn() -> int | None:
    """The number that ``SHARE`` has, by default that of the commits, or ``None``: all. Worker processes inherit it."""
    if "SHARE" not in os.environ:
        os.environ["SHARE"] = str(commits())
    given = os.environ["SHARE"]
    if not given.isdecimal() and given != "all":
        raise pytest.UsageError(f"SHARE is {given!r}; it must be a whole number, such as SHARE=12, or all")
    return None if given == "all" else int(given)


def in_turn(cases: Sequence[Case], n: int, number: int) -> Sequence[Case]:
    """One in ``n`` of the cases, and of fewer than ``n`` one or none. ``n`` numbers in a row ask all of them."""
    return cases[number % n :: n]
