"""A model's sizes, and its runs of equal layers, of which one is counted for several."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import TooLong
from ..ledger import Ledger, Size, whole


@dataclass(frozen=True)
class Run:
    """Consecutive equal layers: the first one's index, and how many there are. Runs of one ``kind`` are equal, too."""

    start: int
    count: Size
    windowed: bool = False
    kind: Hashable = None
    stack: int = 0
    """The stack that they are in."""

    def counted_layers(self) -> Iterator[tuple[int, Size]]:
        """(index, copies) of each layer that is run, four at most: the first two, one that is counted for all that are
        left, and the last. A counted layer must add what each of its copies adds, so its neighbours are equal to it.
        """
        if isinstance(self.count, int) and self.count <= KEPT:
            for i in range(self.count):
                yield self.start + i, 1
            return
        for i, copies in enumerate((1, 1, self.count - 3, 1)):
            yield self.start + i, copies


KEPT = 4
"""Of equal layers in a row, how many are run. Of a pattern of layers that repeats, so many repetitions are."""
LONGEST_PATTERN = 12
"""The most layers that a pattern may have."""


def runs_of(kinds: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The first index and the number of neighbours that are equal. Raises ``TooLong`` if there are too many runs."""
    runs: list[tuple[int, int]] = []
    start = 0
    for i in range(1, len(kinds) + 1):
        if i == len(kinds) or kinds[i] != kinds[start]:
            runs.append((start, i - start))
            start = i
    check_runs(len(runs))
    return runs


MOST_RUNS = 256
"""The most runs of equal layers that a model may have. The deepest known model has 128 layers."""


def check_runs(count: int) -> None:
    """Raise ``TooLong`` if a model has too many runs of equal layers."""
    if count > MOST_RUNS:
        raise TooLong(
            f"the model has {count:,} runs of equal layers, and {MOST_RUNS} are the most; treat neighbouring "
            "layers alike, or ask about fewer layers"
        )


Group = list[tuple[int, Run]]
"""Consecutive layers that one checkpoint spans: the index and the run of each. Without checkpoints it is one layer."""


class Segment(NamedTuple):
    """Groups of layers that are run together: one, or those of a pattern that repeats."""

    copies: Size
    """What the ledger counts them for."""
    groups: list[Group]
    stands_for: int = 1
    """In an outline, how many repetitions they stand for, which the ledger does not count."""

    @property
    def stack(self) -> int:
        """The stack that the layers are in."""
        return self.groups[0][0][1].stack

    @property
    def layers(self) -> list[tuple[int, Run]]:
        """The layers of all groups."""
        return [layer for group in self.groups for layer in group]


def segments(runs: tuple[Run, ...], length: int, ledger: Ledger) -> list[Segment]:
    """The layers in groups of ``length`` consecutive ones, of which the last may be shorter.

    Of groups that repeat one by one, or in a pattern, one repetition is counted, unless the ledger is unrolled.
    """
    if not all(isinstance(run.count, int) for run in runs):
        return [Segment(copies, [[(index, run)]]) for run in runs for index, copies in run.counted_layers()]
    groups: list[Group] = []
    for _, of_stack in itertools.groupby(runs, lambda run: run.stack):
        layers = [(run.start + i, run) for run in of_stack for i in range(whole(run.count))]
        groups += [layers[i : i + length] for i in range(0, len(layers), length)]
    if ledger.outlined:
        return _outline(groups)
    if ledger.unrolled:
        return [Segment(1, [group]) for group in groups]
    found = []
    for start, pattern, count in repeats_of(_kinds(groups)):
        for number, copies in Run(0, count).counted_layers():
            repetition = groups[start + number * pattern : start + (number + 1) * pattern]
            found += [Segment(1, [group]) for group in repetition] if copies == 1 else [Segment(copies, repetition)]
    return found


OUTLINED = 5
"""The most equal groups in a row in an outline. Of more, it has the first three and the last two, and the third stands
for all that are left out. So it and both of its neighbours lie between equal groups."""


def _outline(groups: list[Group]) -> list[Segment]:
    found = []
    for start, pattern, count in repeats_of(_kinds(groups), OUTLINED):
        left_out = max(count - OUTLINED, 0)
        for number in (i for i in range(count) if i < 3 or i >= 3 + left_out):
            repetition = groups[start + number * pattern : start + (number + 1) * pattern]
            found.append(Segment(1, repetition, 1 + left_out if number == 2 else 1))
    return found


def layers_stood_for(runs: tuple[Run, ...], ledger: Ledger, length: int = 1) -> dict[int, list[int]]:
    """For each layer that is run, the layers that it stands for. ``length``: see ``segments``."""
    found = {}
    first = 0
    for segment in segments(runs, length, ledger):
        copies, count = whole(segment.copies), len(segment.layers)
        for place, (index, _) in enumerate(segment.layers):
            found[index] = [first + place + repetition * count for repetition in range(copies)]
        first += copies * count
    return found


def _kinds(groups: Sequence[Group]) -> list[Hashable]:
    return [tuple((run.stack, run.windowed, run.kind) for _, run in group) for group in groups]


def repeats_of(kinds: Sequence[Hashable], kept: int = KEPT) -> list[tuple[int, int, int]]:
    """The sequence as patterns that repeat: where each starts, its length, and its repetitions.

    A pattern of several entries is one that repeats more than ``kept`` times. Raises ``TooLong`` for too many.
    """
    found = []
    start = 0
    while start < len(kinds):
        best = 1, 1
        for length in range(1, LONGEST_PATTERN + 1):
            stop = start + length
            while stop < len(kinds) and kinds[stop] == kinds[stop - length]:
                stop += 1
            count = (stop - start) // length
            if length == 1 or (count > kept and (count - kept) * length > (best[1] - kept) * best[0]):
                best = length, count
        found.append((start, *best))
        start += best[0] * best[1]
    check_runs(len(found))
    return found
