"""The bytes that are answered now, compared with those that were recorded (``tests/cases/recorded_bytes.py``).

Each folder's ``test_recorded_bytes.py`` asks the groups of questions that its rules answer. Of a group a run asks one
in n, other ones with each commit. Questions that were chosen for a folder are asked by every run, the slowest by every
second one: in their answers run its lines, most of them in several. ``SHARE=all pytest tests -k
bytes_are_those_recorded`` asks all of all groups, in some twelve minutes of CPU time. A change that means to change
bytes writes the tables anew: ``python -m tests.cases.recorded_bytes``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from estimator.errors import InputError
from tests.cases.recorded_bytes import CHOSEN, Row, answered, differences, in_each_run, table
from tests.helpers.shares import in_turn, turn

EVERY = {
    "steps": 31,
    "topics": 31,
    "inference": 31,
    "steps_gpu": 71,
    "topics_gpu": 71,
    "compositions": 61,
    "optimizers": 31,
    "savings": 61,
    "real": 47,
    "devices": 71,
    "published": 199,
    "formulas": 31,
    "llama_cpp": 31,
    "several_gpus": 31,
    "trainers": 83,
    "media": 61,
    "runs": 61,
    "calls": 31,
    "corners": 31,
    "litgpt": 31,
    "other_runtimes": 31,
    "servers": 31,
    "searches": 59,
}
"""Odd, as settings alternate in most of the tables."""
CHUNK = 60
"""Questions of a test."""


def asked(group: str) -> Sequence[Row]:
    """The questions of a group that are asked."""
    number, rows = turn(), table(group)
    if number is None:
        return rows
    if not group.startswith(CHOSEN):
        return in_turn(rows, EVERY.get(group, 7), number)
    always = in_each_run(group)
    return [*filter(always, rows), *in_turn([row for row in rows if not always(row)], 2, number)]


def parts(*groups: str) -> Iterator[tuple[str, int]]:
    """The cases of a test: a group, and where in its questions the case begins."""
    return ((group, start) for group in groups for start in range(0, len(asked(group)), CHUNK))


def assert_recorded(group: str, start: int, folder: Path) -> None:
    """Witness: the tables, of what this project itself answered before."""
    __tracebackhide__ = True
    found: list[str] = []
    for number, row in enumerate(asked(group)[start : start + CHUNK]):
        try:
            found += differences(row, answered(row.asked, folder / str(number)))
        except InputError as error:
            found.append(f"{row.name}: was answered, is refused: {error}")
    assert not found, "\n".join([f"{len(found)} figures differ from those recorded", *found])
