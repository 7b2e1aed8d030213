"""A model's sizes, and its runs of equal layers, of which one is counted for several."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import TooLong
from ..ledger import Ledger, Size, whole


@dataclass(frozen=True)
class Run:
    """Consecutive equal layers: the first one's index, and how many there are."""

    start: int
    count: Size
    windowed: bool = False

    def counted_layers(self) -> Iterator[tuple[int, Size]]:
        """(index, copies) of each layer that is run, four at most: the first two, one that is counted for all that are
        left, and the last. A counted layer must add what each of its copies adds, so its neighbours are equal to it.
        """
        if isinstance(self.count, int) and self.count <= 4:
            for i in range(self.count):
                yield self.start + i, 1
            return
        for i, copies in enumerate((1, 1, self.count - 3, 1)):
            yield self.start + i, copies


def runs_of(kinds: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The first index and the number of neighbours that are equal. Raises ``TooLong`` if there are too many runs."""
    runs: list[tuple[int, int]] = []
    start = 0
    for i in range(1, len(kinds) + 1):
        if i == len(kinds) or kinds[i] != kinds[start]:
            runs.append((start, i - start))
            start = i
    if len(runs) > MOST_RUNS:
        raise TooLong(
            f"the model has {len(runs):,} runs of equal layers, and {MOST_RUNS} are the most; treat neighbouring "
            "layers alike, or ask about fewer layers"
        )
    return runs


MOST_RUNS = 256
"""The most runs of equal layers that a model may have. The deepest known model has 128 layers."""


Segment = tuple[Size, list[tuple[int, Run]]]
"""A group of layers: its copies, and the index and run of each layer."""


def segments(runs: tuple[Run, ...], length: int, ledger: Ledger) -> list[Segment]:
    """The layers in groups of ``length`` consecutive ones, of which the last may be shorter.

    Of equal groups in a row one is counted, unless the ledger is unrolled.
    """
    if ledger.outlined:
        return [(1, group) for _, group in outline(runs, length)]
    if length == 1 and not ledger.unrolled:
        return [(copies, [(index, run)]) for run in runs for index, copies in run.counted_layers()]
    groups = _groups(runs, length)
    if ledger.unrolled:
        return [(1, group) for group in groups]
    runs = tuple(Run(first, count) for first, count in runs_of([tuple(run for _, run in group) for group in groups]))
    return [(copies, groups[index]) for run in runs for index, copies in run.counted_layers()]


OUTLINED = 5
"""The most equal groups in a row in an outline. Of more, it has the first three and the last two, and the third stands
for all that are left out. So it and both of its neighbours lie between equal groups."""


def outline(runs: tuple[Run, ...], length: int) -> list[tuple[int, list[tuple[int, Run]]]]:
    """Groups of ``length`` consecutive layers, each with the number of groups that it stands for."""
    groups = _groups(runs, length)
    found = []
    for first, count in runs_of([tuple(run for _, run in group) for group in groups]):
        left_out = max(count - OUTLINED, 0)
        kept = [i for i in range(count) if i < 3 or i >= 3 + left_out]
        found += [(1 + left_out if i == 2 else 1, groups[first + i]) for i in kept]
    return found


def _groups(runs: tuple[Run, ...], length: int) -> list[list[tuple[int, Run]]]:
    layers = [(run.start + i, run) for run in runs for i in range(whole(run.count))]
    return [layers[i : i + length] for i in range(0, len(layers), length)]


@dataclass(frozen=True)
class Sizes:
    """A model's sizes. Each may be a polynomial."""

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
        """The number of all layers, or of those with (``True``) or without (``False``) a sliding window."""
        total: Size = 0
        for run in self.runs:
            if windowed in (None, run.windowed):
                total = total + run.count
        return total
