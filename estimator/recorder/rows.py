"""Finds loops in a recording, as over the rows of a batch, so that recordings of other batches have the same events."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ..errors import InputError
from ..programs.program import (
    SPAN,
    Autocast,
    Backward,
    Body,
    Call,
    Drop,
    Enter,
    Event,
    Exit,
    Program,
    Ref,
    Weight,
    index_of_exit,
    made,
    renamed,
    slots_in,
    used,
)
from ..programs.rows import ALL, LAST, OTHERS, Rows, of_list

_LONGEST = 160
"""The most calls of a row."""


class _Step:
    """An event, and the slots that die behind it."""

    def __init__(self, event: Event) -> None:
        self.event, self.drops = event, set[int]()

    @cached_property
    def signature(self) -> Any:
        """What is the same in all rows."""
        return renamed(self.event, lambda slot: 0, str)

    @property
    def slots(self) -> tuple[int, ...]:
        """Its operands' slots and its results'."""
        return (*used(self.event), *made(self.event))


def fold_rows(events: Sequence[Event], counts: Iterable[int], first: int) -> tuple[Event, ...]:
    """The events with loops over so many rows, by kinds of loops, and slots numbered anew, those below ``first`` aside.

    What dies at once is put in order. Raises ``InputError`` where something of a list is used otherwise than in a loop.
    """
    for kind, count in enumerate(counts):
        lists = (of_list(number, kind=kind) for number in itertools.count())
        events = _numbered(_Folder(_steps(events), count, lists, {}).events(), first)
    return tuple(events)


def folded(program: Program, count: int) -> Program:
    """The program with lists of so many tensors, such as what a tower gives for each image, outside its layers and in
    each of them.

    Raises ``InputError`` where something of a list is used otherwise than all of it, or in a loop.
    """
    if count == 1:
        return program
    lists = (of_list(number) for number in itertools.count())
    places: dict[int, tuple[int, int]] = {}
    bodies = []
    for body in program.bodies:
        own = (of_list(number) for number in itertools.count())
        events = tuple(_Folder(_steps(body.events), count, own, {}).events())
        bodies.append(Body(events, index_of_exit(events)))
    program = with_slots_in_order(replace(program, bodies=tuple(bodies)))
    outside = [tuple(_Folder(_steps(events), count, lists, places).events()) for events in program.outside]
    outputs: dict[str, Ref | Weight] = {}
    of_stem: dict[str, list[int]] = {}
    for name, ref in program.outputs.items():
        place = places.get(ref.slot) if isinstance(ref, Ref) else None
        if place is None:
            outputs[name] = ref
        elif place[0] not in (lists_ := of_stem.setdefault(name.rpartition(".")[0], [])):
            lists_.append(place[0])
    for stem, numbers in of_stem.items():  # several lists take turns
        outputs |= {f"{stem}.{k}" if len(numbers) > 1 else stem: Ref(number) for k, number in enumerate(numbers)}
    return replace(
        program,
        before=outside[0],
        between=tuple(outside[1:-1]),
        after=outside[-1],
        outputs=outputs,
    )


def with_slots_in_order(program: Program) -> Program:
    """The program with each layer's own slots in the order in which they are made, behind that of its result.

    Where others use more of a layer than that, its slots stay.
    """
    outside = [slot for event in itertools.chain(*program.outside) for slot in slots_in(event) if slot >= SPAN]
    before = [s for body in program.bodies for event in body.events for s in slots_in(event) if s >= 2 * SPAN]
    if any(slot % SPAN for slot in (*outside, *before)):
        return program
    return replace(program, bodies=tuple([_body(body.events) for body in program.bodies]))


def _body(events: Iterable[Any]) -> Body:
    numbers = itertools.count(SPAN + 1)
    known: dict[int, int] = {SPAN: SPAN}

    def slot(number: int) -> int:
        if SPAN <= number < 2 * SPAN and number not in known:
            known[number] = next(numbers)
        return known.get(number, number)

    found = tuple([renamed(one, slot, str) for one in events])
    return Body(found, index_of_exit(found))


def _steps(events: Iterable[Event]) -> list[_Step]:
    steps = [_Step(GONE)]
    for event in events:
        if isinstance(event, Drop):
            steps[-1].drops.add(event.slot)
        else:
            steps.append(_Step(event))
    return steps


GONE = Call("", (), (), ())
"""Stands before the first event."""


class _Folder:
    def __init__(self, steps: list[_Step], rows: int, lists: Iterator[int], places: dict[int, tuple[int, int]]) -> None:
        self.steps, self.rows, self.lists, self.places = steps, rows, lists, places
        """For each slot of a list's tensor: the list's slot, and the row."""

    def events(self) -> Iterator[Any]:
        i = 0
        while i < len(self.steps):
            length = self._loop(i)
            if length:
                yield from self._rows(i, length)
                i += length * self.rows
            else:
                step = self.steps[i]
                if step.event is not GONE:
                    yield self._outside(step.event)
                yield from self._drops(step.drops)
                i += 1

    def _loop(self, i: int) -> int:
        """How many calls a row has, of a loop that begins here; 0 if none does."""
        for length in range(1, _LONGEST + 1):
            end = i + length * self.rows
            if end > len(self.steps):
                return 0
            if self.steps[i].signature != self.steps[i + length].signature:
                continue
            blocks = [self.steps[k : k + length] for k in range(i, end, length)]
            first = [step.signature for step in blocks[0]]
            if any(not isinstance(step.event, (Call, Autocast)) for step in blocks[0]):
                return 0
            if any([step.signature for step in block] != first for block in blocks[1:]):
                continue
            if [step.signature for step in self.steps[end : end + length]] == first:
                continue  # more than there are rows
            if self._columns(blocks) is not None:
                return length
        return 0

    def _columns(self, blocks: list[list[_Step]]) -> list[tuple[int, ...]] | None:
        """The slots that differ from row to row, each with those of all rows; ``None`` where they make no lists."""
        found: list[tuple[int, ...]] = []
        own = {slot for block in blocks for step in block for slot in made(step.event)}
        for j in range(len(blocks[0])):
            for column in zip(*[block[j].slots for block in blocks], strict=True):
                if len(set(column)) == 1 and column[0] not in own:
                    continue
                if len(set(column)) < len(column):
                    return None
                known = [self.places.get(slot) for slot in column]
                if column[0] not in own and known != [
                    (known[0][0], k) if known[0] else None for k in range(len(column))
                ]:
                    return None
                if column[0] not in own and None in known:
                    return None
                found.append(column)
        return found

    def _rows(self, i: int, length: int) -> Iterator[Any]:
        blocks = [self.steps[i + k * length : i + (k + 1) * length] for k in range(self.rows)]
        for column in self._columns(blocks) or ():
            if column[0] not in self.places:
                number = next(self.lists)
                self.places.update({slot: (number, k) for k, slot in enumerate(column)})
        body: list[Event] = []
        first: set[int] = set()
        after: set[int] = set()
        for j in range(length):
            body.append(renamed(blocks[1][j].event, lambda slot: self._within(slot, 1), str))
            common = {self._within(slot, 1) for slot in blocks[1][j].drops}
            for number in sorted(common):
                without = [k for k, block in enumerate(blocks) if not self._lets_go(number, k) <= block[j].drops]
                if without == [len(blocks) - 1] and j == length - 1 and not number % 4:
                    common.remove(number)  # when the next row begins, of which the last has none
                    first.add(number + LAST)
                elif without:
                    raise InputError("the rows of a batch let go of different things")
            for k, block in enumerate(blocks):
                for slot in block[j].drops:
                    known = self._is_near(slot, k) and self._within(slot, k)
                    if known in common or (known is not False and known + LAST in first and j == length - 1):
                        continue
                    if k < len(blocks) - 1:
                        raise InputError("the rows of a batch let go of different things")
                    after.add(slot)  # the loop's variables, or what it walks
            body += [Drop(slot) for slot in sorted(common)]
        body[:0] = [Drop(slot) for slot in sorted(first)]
        yield Rows(self.rows, tuple(body))
        yield from self._drops(after)

    def _lets_go(self, number: int, row: int) -> set[int]:
        """What a row lets go of with a slot of the loop; before the first row there is none."""
        if number < of_list(0) or number >= SPAN:
            return {number}
        before = number % 4
        return (
            {slot for slot, place in self.places.items() if place == (number - before, row - before)}
            if row >= before
            else set()
        )

    def _is_near(self, slot: int, row: int) -> bool:
        return slot not in self.places or row - self.places[slot][1] in (0, 1)

    def _within(self, slot: int, row: int) -> int:
        """A slot in the loop, as seen from a row."""
        if slot not in self.places:
            return slot
        number, at = self.places[slot]
        if not self._is_near(slot, row):
            raise InputError("a row of a batch uses another row's")
        return number + (LAST if row != at else ALL)

    def _outside(self, event: Event) -> Event:
        if isinstance(event, (Enter, Exit)):
            return type(event)(event.path, *[self._listed(tensors) for tensors in event[1:]])
        if not isinstance(event, Call):
            return event
        if self.rows > 1 and len(event.out) and not len(event.out) % self.rows and len({x[1:] for x in event.out}) == 1:
            each, out = len(event.out) // self.rows, []
            for of in range(each):  # images of a row
                out.append(event.out[of]._replace(slot=next(self.lists)))
                self.places.update({one.slot: (out[-1].slot, k) for k, one in enumerate(event.out[of::each])})
            args = tuple(
                [x[:1] if type(x) is tuple and x == x[:1] * len(event.out) else x for x in event.args]
            )  # sizes
            event = event._replace(args=args, out=tuple(out))
        return event._replace(args=self._listed(event.args), keywords=self._listed(event.keywords))

    def _listed(self, tree: Any) -> Any:
        """An argument with a list in place of its tensors."""
        if type(tree) is not tuple:
            if isinstance(tree, Ref) and tree.slot in self.places:
                number, row = self.places[tree.slot]
                if row != self.rows - 1:
                    raise InputError("a tensor of a list is used outside of its loop")
                return Ref(number + LAST)
            return tree
        places = [self.places.get(x.slot) if isinstance(x, Ref) else None for x in tree]
        found: list[Any] = []
        at = 0
        while at < len(tree):
            lists = self._side_by_side(places[at:])
            if lists and at and isinstance(found[-1], Ref) and found[-1].slot in self._numbers:
                raise InputError("lists of a batch follow one another")
            found += map(Ref, lists) if lists else [self._listed(tree[at])]
            at += len(lists) * self.rows or 1
        return tuple(found)

    def _side_by_side(self, places: Sequence[tuple[int, int] | None]) -> list[int]:
        """The lists whose tensors stand here in turns, those of the first row first."""
        lists = [place[0] for place in itertools.takewhile(lambda one: one and not one[1], places) if place]
        whole = [(number, k) for k in range(self.rows) for number in lists]
        return lists if [*places[: len(whole)]] == whole else []

    @property
    def _numbers(self) -> set[int]:
        return {number for number, _ in self.places.values()}

    def _drops(self, slots: set[int]) -> Iterator[Event]:
        """What dies at once, in order."""
        lists: dict[int, set[int]] = {}
        for slot in slots:
            if slot in self.places:
                number, row = self.places[slot]
                lists.setdefault(number, set()).add(row)
        yield from [Drop(slot) for slot in sorted(slots) if slot not in self.places]
        for number, rows in sorted(lists.items()):
            if len(rows) == self.rows:
                yield Drop(number)
            elif rows == {self.rows - 1}:
                yield Drop(number + LAST)
            elif rows == {*range(self.rows - 1)}:
                yield Drop(number + OTHERS)
            else:
                raise InputError(f"of a list of {self.rows} tensors, {len(rows)} die at once")


def _numbered(events: Iterator[Any], first: int) -> tuple[Any, ...]:
    """The events with slots in the order in which they are made."""
    numbers = itertools.count(first)
    known: dict[int, int] = {}

    def slot(number: int) -> int:
        if number < first or number >= of_list(0):
            return number
        if number not in known:
            known[number] = next(numbers)
        return known[number]

    def event(one: Any) -> Any:
        if isinstance(one, Rows):
            return one._replace(events=tuple([event(x) for x in one.events]))
        if isinstance(one, Backward):
            return Backward(Ref(slot(one.loss.slot)), one.grads)
        return renamed(one, slot, str)

    return tuple([event(one) for one in events])
