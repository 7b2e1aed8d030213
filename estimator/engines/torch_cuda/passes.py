"""The event log of a step with every pass of its loops, from the log in which one pass stands for many.

A loop within a layer, such as that over chunks of the sequence, is outlined by its second pass, one that stands for
many, and its last one (``programs/repeats.py``); the first is an ordinary part of the layer. The pass that stands for
many frees its own tensors and its neighbours', and so does each pass that it stands for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from copy import copy
from typing import NamedTuple

from ...ledger import Events, Size
from ...ledger.sizes import evaluated
from ...steps.expansion import NotPeriodic

MOST_PASSES = 60
"""The most passes that one stands for and that are replayed one by one. Of more, one is replayed, and what each of them
leaves behind is one allocation with its ``copies``."""

_SECOND, _MANY, _LAST = range(3)


class _Entry(NamedTuple):
    """An entry that makes or frees what the pass that stands for many makes, or what its neighbours do.

    ``place`` is the allocation's among all of its pass of the loop ``maker``. ``step`` says of which pass: of this one
    (0), of the one before it (-1) or behind it (1). Where that is none that is stood for, the log's ``entry`` is meant.
    """

    entry: int
    maker: _Loop
    place: int
    step: int


class _Loop:
    """One run of a loop, as stretches of the log and the numbers of allocations, of each of the three passes."""

    def __init__(self, count: Size) -> None:
        self.count = count
        """For how many passes one stands."""
        self.runs: list[list[tuple[int, int]]] = [[], [], []]
        """The stretches of the log that each pass runs in: forward, and backward if it does."""
        self.made: list[list[int]] = [[], [], []]
        """What each pass allocates, in this order."""
        self.forward = 0
        """How many of these forward."""
        self.left: set[int] = set()
        """What the pass that stands for many has allocated and not freed when the loop's last pass ends."""


class Passes:
    """The log ``events`` with the passes of its loops. Raises ``NotPeriodic`` for a loop whose passes are not alike."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self._loops: dict[int, _Loop] = {}
        self._pieces: list[tuple[int, int, int]] = []
        """The stretches of entries of one turn: the first entry, the one after the last, and the turn."""
        self._entries: dict[int, list[_Entry | int]] = {}
        """The entries of each stretch that is a pass's, by its first one."""
        order, turns, start = events.order, events.turns, 0
        for at in range(1, len(turns) + 1) if events.passes else ():
            if at == len(turns) or turns[at] != turns[start]:
                self._pieces.append((start, at, turns[start]))
                start = at
        for first, stop, turn in self._pieces:
            if turn:
                number, role = divmod(turn - 3, 3)
                loop = self._loops.setdefault(number, _Loop(events.passes[number]))
                loop.runs[role].append((first, stop))
                loop.made[role] += [entry for entry in order[first:stop] if entry >= 0]
        self._made_by = {
            number: (loop, role, place)
            for loop in self._loops.values()
            for role, made in enumerate(loop.made)
            for place, number in enumerate(made)
        }
        cuts = {*events.marks.values(), *events.products.values()}
        for loop in self._loops.values():
            self._check(loop, cuts)
        for first, stop, turn in self._pieces:
            if turn:
                number, role = divmod(turn - 3, 3)
                self._entries[first] = [self._read(self._loops[number], role, at) for at in range(first, stop)]
            elif any(self._made_by.get(~entry, (None, _LAST, 0))[1] == _MANY for entry in order[first:stop]):
                raise NotPeriodic  # freed outside of the loop, who knows in which order

    def _check(self, loop: _Loop, cuts: set[int]) -> None:
        """Raise ``NotPeriodic`` unless each pass does as the one that runs before it.

        The first one to run may do otherwise: forward it may free more of the passes before it, which saved less, and
        backward make less.
        """
        events = self.events
        second, many, last = ([self._pattern(loop, role, *run) for run in loop.runs[role]] for role in range(3))
        alike = len(second) == len(many) == len(last) in (1, 2) and many[0] == last[0] and many[1:] == second[1:]
        if not alike or [one for one in second[0] if one[1] >= 0] != [one for one in many[0] if one[1] >= 0]:
            raise NotPeriodic
        inside = any(first < cut < stop for first, stop in loop.runs[_MANY] for cut in cuts)
        if inside or any(n in events.gradients or n in events.streams for n in loop.made[_MANY]):
            raise NotPeriodic
        loop.forward = sum(makes for makes, *_ in many[0])
        (first, _), (_, stop) = loop.runs[_MANY][0], loop.runs[_LAST][0]
        entries = events.order[first:stop]
        loop.left = {*loop.made[_MANY]}.intersection(entries).difference([~e for e in entries if e < 0])

    def _pattern(self, loop: _Loop, role: int, first: int, stop: int) -> list[tuple[bool, int, Size]]:
        """What a pass does from ``first`` to ``stop``: whether it allocates, the place among its own, and the size."""
        places, sizes = {n: place for place, n in enumerate(loop.made[role])}, self.events.sizes
        found: list[tuple[bool, int, Size]] = []
        for entry in self.events.order[first:stop]:
            place = places.get(entry if entry >= 0 else ~entry, -1)
            found.append((entry >= 0, place, sizes[entry] if entry >= 0 else 0))
        return found

    def _read(self, loop: _Loop, role: int, at: int) -> _Entry | int:
        """An entry of a pass; one that does not depend on the number of passes is as it is in the log."""
        order = self.events.order
        entry = order[at]
        number = entry if entry >= 0 else ~entry
        maker, of, place = self._made_by.get(number, (loop, role, -1))
        if _MANY not in (role, of):
            return entry
        if of == _LAST and place >= maker.forward:  # made backward, where the last pass may make less; ...
            freed = ~order[at + loop.runs[_SECOND][1][0] - loop.runs[_MANY][1][0]]  # the next one frees this one's
            maker, of, place = self._made_by.get(freed, (loop, role, -1)) if maker is loop else (loop, role, -1)
            return _Entry(entry, self._checked(loop, maker, place, of == _MANY), place, 1)
        return _Entry(entry, self._checked(loop, maker, place), place, of - role)

    @staticmethod
    def _checked(loop: _Loop, maker: _Loop, place: int, known: bool = True) -> _Loop:
        """The loop whose pass makes what one of ``loop`` frees: itself, or one that ran forward for its backward."""
        if place < 0 or not known or maker.count != loop.count:
            raise NotPeriodic
        return maker

    def at(self, values: Mapping[str, int]) -> Events:
        """The log where the symbols have these values."""
        events = self.events
        log = events.at(values) if values else events
        if not self._loops:
            return log
        log = copy(log)
        log.sizes, log.order, log.copies = [*log.sizes], [], {}
        log.saved, log.origins = {*log.saved}, [*log.origins]
        base: dict[_Loop, int] = {}
        """For each loop the number of the first allocation of the second of the passes that are stood for."""
        passes: dict[_Loop, int] = {}
        """How many passes are in the log for the one that stands for many."""
        for loop in self._loops.values():
            count, own = evaluated(loop.count, values), loop.made[_MANY]
            log.most_copies = max(log.most_copies, count if count > MOST_PASSES else 1)
            if count > MOST_PASSES:
                log.copies.update(dict.fromkeys(loop.left, count))
            base[loop], passes[loop] = len(log.sizes), 1 if count > MOST_PASSES else count
            added = passes[loop] - 1
            log.sizes += [log.sizes[n] for n in own] * added
            log.saved.update(
                base[loop] + place + i * len(own)
                for place, n in enumerate(own)
                if n in events.saved
                for i in range(added)
            )
            if events.with_origins:
                log.origins += [events.origins[n] for n in own] * added
        starts = []
        for first, stop, turn in self._pieces:
            starts.append(len(log.order))
            number, role = divmod(turn - 3, 3)
            if not turn or role == _SECOND:
                log.order += events.order[first:stop]
                continue
            loop, entries, count = self._loops[number], self._entries[first], passes[self._loops[number]]
            if role == _LAST:
                log.order += _at_pass(entries, count, count, base)
                continue
            turns = range(count) if (first, stop) == loop.runs[_MANY][0] else range(count)[::-1]
            pattern = (
                [*zip(_at_pass(entries, 2, count, base), map(_per_pass, entries), strict=True)] if count > 3 else []
            )
            for turn in turns:
                if 2 <= turn < count - 1:  # it and its neighbours are passes that are stood for
                    log.order += [entry + (turn - 2) * further for entry, further in pattern]
                else:
                    log.order += _at_pass(entries, turn, count, base)
        firsts = [first for first, _, _ in self._pieces]
        log.marks, log.products = (
            {name: starts[i := bisect_right(firsts, at) - 1] + at - firsts[i] for name, at in marks.items()}
            for marks in (events.marks, events.products)
        )
        return log


def _per_pass(one: _Entry | int) -> int:
    """By how much an entry is another one in the next pass."""
    assert isinstance(one, _Entry)
    return len(one.maker.made[_MANY]) * (1 if one.entry >= 0 else -1)


def _at_pass(entries: Sequence[_Entry | int], number: int, count: int, base: Mapping[_Loop, int]) -> list[int]:
    """The entries of the pass of this number, of ``count`` that one stands for.

    Of each loop the allocations of the second of them, the third and so on follow ``base``.
    """
    found = []
    for one in entries:
        if not isinstance(one, _Entry):
            found.append(one)
            continue
        entry, maker, place, step = one
        own, at = maker.made[_MANY], number + step
        if 0 <= at < count:
            made = base[maker] + (at - 1) * len(own) + place if at else own[place]
            entry = made if entry >= 0 else ~made
        found.append(entry)
    return found
