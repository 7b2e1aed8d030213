"""What a family's forward pass is written against: its sizes, its inputs, its runs of equal layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..ledger import Ledger, Size, whole


@dataclass(frozen=True)
class Run:
    """Consecutive layers that are treated alike: the first one's index, and how many there are."""

    start: int
    count: Size
    windowed: bool = False

    def copies(self) -> Iterator[tuple[int, Size]]:
        """(index, how often to count it): up to four layers are written out, one of them counted
        for all the inner ones. Both of its neighbours are inner layers too, so that the totals on
        either side of the counted one are seen.
        """
        if isinstance(self.count, int) and self.count <= 4:
            for i in range(self.count):
                yield self.start + i, 1
            return
        for i, copies in enumerate((1, 1, self.count - 3, 1)):
            yield self.start + i, copies


Segment = tuple[Size, list[tuple[int, Run]]]
"""How often to count a group of layers; each one's index and run."""


def segments(runs: tuple[Run, ...], length: int, ledger: Ledger) -> list[Segment]:
    """The layers in groups of ``length`` consecutive ones (the last may be shorter), equal groups counted
    unless the ledger is unrolled.
    """
    if ledger.outlined:
        return [(1, group) for _, group in outline(runs, length)]
    if length == 1 and not ledger.unrolled:
        return [(copies, [(index, run)]) for run in runs for index, copies in run.copies()]
    groups = _groups(runs, length)
    if ledger.unrolled:
        return [(1, group) for group in groups]
    return [(copies, groups[index]) for first, count in _alike(groups) for index, copies in Run(first, count).copies()]


OUTLINED = 5
"""Of more equal groups of layers than these, an outline has the first two, the third for all between, and the last
two: the third and both of its neighbours lie between groups of their kind."""


def outline(runs: tuple[Run, ...], length: int) -> list[tuple[int, list[tuple[int, Run]]]]:
    """Groups of ``length`` consecutive layers, and for how many each stands; layers with their index and run."""
    groups = _groups(runs, length)
    found = []
    for first, count in _alike(groups):
        left_out = max(count - OUTLINED, 0)
        kept = [i for i in range(count) if i < 3 or i >= 3 + left_out]
        found += [(1 + left_out if i == 2 else 1, groups[first + i]) for i in kept]
    return found


def _groups(runs: tuple[Run, ...], length: int) -> list[list[tuple[int, Run]]]:
    layers = [(run.start + i, run) for run in runs for i in range(whole(run.count))]
    return [layers[i : i + length] for i in range(0, len(layers), length)]


def _alike(groups: list[list[tuple[int, Run]]]) -> list[tuple[int, int]]:
    """Where equal groups start, and how many follow one another."""
    kinds = [[run for _, run in group] for group in groups]
    found, start = [], 0
    for i in range(1, len(groups) + 1):
        if i == len(groups) or kinds[i] != kinds[start]:
            found.append((start, i - start))
            start = i
    return found


@dataclass(frozen=True)
class Sizes:
    """An architecture's numbers. Any of the sizes may be a polynomial."""

    vocab: Size
    hidden: Size
    intermediate: Size
    kv_heads: Size
    groups: Size
    """Query heads per key/value head."""
    head_dim: Size
    runs: tuple[Run, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    attention_dropout: float = 0.0
    wide_heads: bool = False
    """The head dimension is above 256."""

    @property
    def heads(self) -> Size:
        """Query heads."""
        return self.kv_heads * self.groups

    def layers(self, windowed: bool | None = None) -> Size:
        """How many layers there are: all, or those with or without a sliding window."""
        total: Size = 0
        for run in self.runs:
            if windowed in (None, run.windowed):
                total = total + run.count
        return total
