"""The event log of a step of a deep model, from the log of an outline of the model with fewer layers.

An outlined ledger runs, of a run of equal groups of layers, the first two, the last two, and one between, which stands
for the groups left out. Each of those would allocate the same sizes in the same order, and free its own tensors, its
neighbours' and those outside the layers. So the entries of the one between are repeated for each group that it stands
for, each time with that group's numbers. A log without this pattern cannot be expanded; every layer has to be run.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby

from ..errors import TooLong
from ..ledger import Called, Events, Ledger, Size, Storage, Tensor
from .optimizers import updated

MOST_ENTRIES = 800_000
"""The most entries of a log, which take some three seconds to replay. LoRA on all linear layers of a checkpointed model
of 126 layers has 75,000."""
_OUTSIDE = -1
_LAYER = re.compile(r"\.(\d+)(?=\.|$)")


class NotPeriodic(Exception):
    """The log does not have the pattern that can be expanded."""


class Expansion:
    """Expands an outline's log into ``events``, the log with every layer.

    ``outline`` has, for each group of layers, how many groups it stands for, and how many layers it has. The methods
    raise ``NotPeriodic``, too.
    """

    def __init__(self, outlined: Events, outline: Sequence[tuple[int, int]]) -> None:
        self.outlined = outlined
        self.stands_for, self.lengths = [count for count, _ in outline], [length for _, length in outline]
        stands_for = self.stands_for
        self.events = Events(outlined.with_origins, outlined.outlines_loops)
        self.events.passes = outlined.passes * max(stands_for, default=1)
        self.starts = [sum(stands_for[:i]) for i in range(len(stands_for))]
        """For each group of the outline, the first group that it stands for."""
        self._segment: list[int] = [0] * len(outlined.sizes)
        """For each allocation, the group of the outline that made it, or ``_OUTSIDE``."""
        self._place: list[int] = [0] * len(outlined.sizes)
        """For each allocation, how many the same group made before it."""
        made: dict[int, list[int]] = {segment: [] for segment in range(_OUTSIDE, len(stands_for))}
        for entry, segment in zip(outlined.order, outlined.segments, strict=True):
            if entry >= 0:
                self._segment[entry], self._place[entry] = segment, len(made[segment])
                made[segment].append(entry)
        self._numbers: dict[int, list[int]] = {_OUTSIDE: []}
        self._traits: list[list[tuple[Size, bool, bool, str | None, str]]] = []
        """What there is to say of the allocations of each group of the outline."""
        for segment, count in enumerate(stands_for):
            for group in range(count):
                self._numbers[self.starts[segment] + group] = []
            self._traits.append(self._traits_of(made[segment]))
        for segment, count in enumerate(stands_for):
            if count > 1 and not self._traits[segment - 1] == self._traits[segment] == self._traits[segment + 1]:
                raise NotPeriodic

    def _traits_of(self, numbers: Sequence[int]) -> list[tuple[Size, bool, bool, str | None, str]]:
        events = self.outlined
        calls, streams = events.calls, events.streams
        return [
            (
                events.sizes[n],
                n in events.saved,
                n in events.gradients,
                streams.get(n),
                calls[n].name if n in calls else "",
            )
            for n in numbers
        ]

    def _alike(self, segment: int, group: int) -> bool:
        """Whether a group allocates the sizes that ``segment`` does in the outline."""
        run = bisect_right(self.starts, group) - 1
        first, second = ([size for size, *_ in self._traits[one]] for one in (segment, run))
        return first == second

    def play(self, start: int, stop: int) -> None:
        """Expand the outline's entries from ``start`` to ``stop``, with the marks between them."""
        outlined, events = self.outlined, self.events
        pieces = list(self._pieces(start, stop, {*outlined.marks.values(), *outlined.products.values()}))
        for number, (first, last, segment) in enumerate(pieces):
            self._note(first)
            if segment == _OUTSIDE:
                self._outside(outlined.order[first:last])
            elif self.stands_for[segment] == 1:
                self._copy(first, last, segment, self.starts[segment])
            else:
                if len(events.order) + (last - first) * self.stands_for[segment] > MOST_ENTRIES:
                    raise TooLong(
                        f"this plan makes more than {MOST_ENTRIES:,} allocations and frees, which are the most that "
                        "are gone through; ask about fewer layers, a smaller rank, or fewer steps of the method"
                    )
                around = [piece[2] for piece in (*pieces[number - 1 : number], *pieces[number + 1 : number + 2])]
                for group in self._groups(segment, around):
                    self._copy(first, last, segment, group)
        self._note(stop)

    def _note(self, at: int) -> None:
        """Copy the marks at an entry of the outline."""
        for ours, theirs in ((self.events.marks, self.outlined.marks), (self.events.products, self.outlined.products)):
            for name, place in theirs.items():
                if place == at:
                    ours.setdefault(name, len(self.events.order))

    def _pieces(self, start: int, stop: int, cuts: set[int]) -> Iterator[tuple[int, int, int]]:
        """The stretches of entries in one group, also cut at ``cuts``: (first entry, the one after the last, group)."""
        first = start
        for at in range(start + 1, stop + 1):
            if at == stop or at in cuts or self.outlined.segments[at] != self.outlined.segments[first]:
                if first < at:
                    yield first, at, self.outlined.segments[first]
                first = at

    def _groups(self, segment: int, around: Sequence[int]) -> range:
        """The groups that a group of the outline stands for, in forward or backward order.

        ``around`` are the groups of the outline that run before and after it.
        """
        start = self.starts[segment]
        groups = range(start, start + self.stands_for[segment])
        if list(around) == [segment - 1, segment + 1]:
            return groups
        if list(around) == [segment + 1, segment - 1]:
            return groups[::-1]
        raise NotPeriodic

    def _copy(self, first: int, last: int, segment: int, group: int) -> None:
        """Copy the entries from ``first`` to ``last``, which are of ``segment``, for one ``group`` it stands for."""
        events = self.events
        append, own = events.order.append, self._numbers[group]
        layers = (group - self.starts[segment]) * self.lengths[segment]
        shift = 3 * len(self.outlined.passes) * (group - self.starts[segment])
        events.turns += [turn and turn + shift for turn in self.outlined.turns[first:last]]
        for entry in self.outlined.order[first:last]:
            if entry >= 0:
                append(self._new(entry, own, layers, segment, group))
                continue
            number = ~entry
            there = self._segment[number]
            if there == segment:
                append(~own[self._place[number]])
            else:
                append(~self._meant(number, segment, group))

    def _new(self, entry: int, own: list[int], layers: int = 0, segment: int = _OUTSIDE, group: int = _OUTSIDE) -> int:
        outlined, events = self.outlined, self.events
        number = len(events.sizes)
        events.sizes.append(outlined.sizes[entry])
        own.append(number)
        if outlined.with_origins:
            origin = outlined.origins[entry]
            events.origins.append(origin._replace(module=renamed(origin.module, layers)) if layers else origin)
        if entry in outlined.saved:
            events.saved.add(number)
        if entry in outlined.gradients:
            events.gradients[number] = tuple([renamed(name, layers) for name in outlined.gradients[entry]])
        if entry in outlined.calls:
            name, about, given = outlined.calls[entry]
            meant = given if given < 0 else self._meant(given, segment, group)
            events.calls[number] = Called(name, renamed(about, layers), meant)
        if entry in outlined.recorded:
            events.recorded.add(number)
        if entry in outlined.streams:
            events.streams[number] = outlined.streams[entry]
        return number

    def _meant(self, number: int, segment: int, group: int) -> int:
        """The allocation that a copy of ``segment`` for ``group`` means by one of the outline's."""
        return self._numbers[self._seen_from(segment, group, self._segment[number])][self._place[number]]

    def _seen_from(self, segment: int, group: int, there: int) -> int:
        """The group whose tensor a copy of ``segment`` for ``group`` means, where the outline's is of ``there``."""
        if there == segment:
            return group
        if there == _OUTSIDE and self.stands_for[segment] == 1:
            return _OUTSIDE
        if _OUTSIDE in (segment, there):
            raise NotPeriodic  # a tensor outside the layers is freed only once
        between = self.stands_for[(segment + there) // 2] if abs(there - segment) == 2 else 1
        if self.stands_for[segment] == self.stands_for[there] == between == 1:
            return self.starts[there]
        meant = group + there - segment
        if abs(there - segment) == 1 or (abs(there - segment) == 2 and self._alike(there, meant)):
            return meant
        raise NotPeriodic

    def release(self, start: int, stop: int) -> None:
        """Free what the outline frees from ``start`` to ``stop`` and had allocated before, except gradients."""
        before = {*self.outlined.order[:start]} - {*self.outlined.gradients}
        self._outside([entry for entry in self.outlined.order[start:stop] if ~entry in before])

    def _outside(self, entries: Sequence[int]) -> None:
        """Expand entries outside of the layers, where the tensors of layer after layer may be freed."""
        runs = [
            (segment, list(run))
            for segment, run in groupby(entries, lambda e: _OUTSIDE if e >= 0 else self._segment[~e])
        ]
        for at, (segment, run) in enumerate(runs):
            if segment == _OUTSIDE:
                own = self._numbers[_OUTSIDE]
                self.events.turns += [0] * len(run)
                for entry in run:
                    self.events.order.append(self._new(entry, own) if entry >= 0 else ~own[self._place[~entry]])
                continue
            groups: Sequence[int] = (self.starts[segment],)
            if self.stands_for[segment] > 1:
                around = (*runs[at - 1 : at], *runs[at + 1 : at + 2])
                groups = self._groups(segment, [one for one, _ in around])
                if any(self._places(other) != self._places(run) for _, other in around):
                    raise NotPeriodic
            self.events.turns += [0] * (len(groups) * len(run))
            for group in groups:
                self.events.order += [~self._numbers[group][self._place[~entry]] for entry in run]

    def _places(self, run: Sequence[int]) -> list[int]:
        return [self._place[~entry] for entry in run]

    def each(self, outline: Sequence[Tensor]) -> Iterator[tuple[Tensor, int, int, int]]:
        """The parameters of every layer: the outline's that each is like, how many layers it is further up, its group,
        and the number of its allocation.
        """
        for segment, same in groupby(outline, lambda p: self._segment[p.storage.event]):
            run = list(same)
            outside = segment == _OUTSIDE
            for copy in range(1 if outside else self.stands_for[segment]):
                group = _OUTSIDE if outside else self.starts[segment] + copy
                for p in run:
                    number = self._numbers[group][self._place[p.storage.event]]
                    yield p, 0 if outside else copy * self.lengths[segment], group, number

    def parameters(self, outline: Sequence[Tensor], ledger: Ledger) -> list[Tensor]:
        """The parameters of every layer with their live gradients, in ``ledger``, which then goes on with this log."""
        update = self.outlined.marks.get("update", 0)
        live = self.outlined.gradients.keys() - {~entry for entry in self.outlined.order[:update] if entry < 0}
        gradients = {name: number for number in live for name in self.outlined.gradients[number]}
        storages: dict[int, Storage] = {}  # several gradients may be views of one tensor
        found: list[Tensor] = []
        ledger.events = None  # the log has the tensors that are made here
        try:
            for p, layers, group, own in self.each(outline):
                found.append(_copied(p, ledger, layers))
                found[-1].storage.event = own
                if updated((p,)) and (number := gradients.get(p.name)) is not None:  # a reference has names like it
                    event = self._meant(number, self._segment[p.storage.event], group)
                    if event not in storages:
                        storages[event] = Storage(ledger, self.outlined.sizes[number])
                        storages[event].event = event
                    found[-1].grad = Tensor(storages[event], p.shape, p.dtype)
        finally:
            ledger.events = self.events
        return found


def _copied(p: Tensor, ledger: Ledger, layers: int) -> Tensor:
    """A copy of a parameter, for the layer that is ``layers`` further up."""
    copy = Tensor(Storage(ledger, p.storage.nbytes, resident=True), p.shape, p.dtype, p.strides)
    copy.requires_grad, copy.added, copy.unreached = p.requires_grad, p.added, p.unreached
    copy.name = renamed(p.name, layers)
    return copy


def renamed(name: str, layers: int) -> str:
    """A path or the name of a parameter as in the layer that is ``layers`` further up."""
    return _LAYER.sub(lambda found: f".{int(found[1]) + layers}", name, count=1) if layers else name
