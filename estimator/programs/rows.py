"""Loops over the rows of a batch, whose number is a size: a list of tensors by one name, written out when it is known.

A trainer walks the rows of a batch in Python, so how many events it has depends on the batch. In a program for all
batches the tensors of a list, one for each row, have one number (``of_list``). Within ``Rows`` it is that of the row
which runs, or of the one before; elsewhere all of them, the last, or all others. A loop may be over something else,
such as the parts of a batch that are scored one by one: loops of a ``kind`` have one number of passes.

A model may make a list, too, such as what a tower gives for each image of a batch (``listed``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, groupby
from typing import Any, NamedTuple

from ..errors import InputError
from ..ledger import Size
from .program import (
    SPAN,
    Body,
    Call,
    Drop,
    Enter,
    Event,
    Exit,
    Made,
    Program,
    Ref,
    Weight,
    index_of_exit,
    made,
    renamed,
    slots_in,
)

LISTS, OF_A_KIND, MEMBERS, MOST = 1 << 19, 1 << 16, 1 << 20, 1 << 12
"""Slots from here on are lists, so many of each kind of loop, or members of them when they are written out; and the
most members of a list."""
OUTSIDE = 1 << 18
"""Slots from here on are members of lists that a program makes outside its layers."""


class Rows(NamedTuple):
    """Events that are called for each row."""

    number: Size
    events: tuple[Event, ...]

    @property
    def kind(self) -> int:
        """Which kind of loop it is. Every loop makes or drops tensors of lists."""
        slots = chain.from_iterable(map(slots_in, self.events))
        return (max(filter(_is_list, slots), default=0) - LISTS) // OF_A_KIND


def _is_list(slot: int) -> bool:
    return LISTS <= slot < MEMBERS


ALL, LAST, OTHERS = range(3)
"""Which of a list's tensors are meant. In a loop: the row's own, and with ``LAST`` that of the row before."""


def of_list(number: int, which: int = ALL, kind: int = 0) -> int:
    """The slot that stands for a list's tensors."""
    return LISTS + OF_A_KIND * kind + 4 * number + which


class _Members(NamedTuple):
    """Which slots the tensors of lists have."""

    counts: Mapping[int, int]
    """By kinds of loops."""
    first: int = MEMBERS
    apart: int = MOST
    """From the first of a list to that of the next one."""

    def of(self, number: int) -> list[int]:
        """The slots that one stands for, outside of loops. Those of layers are no lists'."""
        if not _is_list(number):
            return [number]
        of, which = divmod(number - LISTS, 4)
        count = self.counts[4 * of // OF_A_KIND]
        rows = {ALL: range(count), LAST: range(count - 1, count), OTHERS: range(count - 1)}[which]
        return [self.first + of * self.apart + row for row in rows]

    def at(self, number: int, row: int) -> int:
        """The slot in the loop's pass for a row."""
        if not _is_list(number):
            return number
        of, before = divmod(number - LISTS, 4)
        return self.first + of * self.apart + row - before


def written_out(events: Iterable[Any], counts: Mapping[int, int], first: int = MEMBERS) -> tuple[Event, ...]:
    """The events for so many rows, by kinds of loops. Raises ``InputError`` for more than lists can have.

    Slots from the ``first`` on are those of the lists' tensors.
    """
    return _written_out(events, _Members(counts, first))


def _written_out(events: Iterable[Any], members: _Members) -> tuple[Event, ...]:
    counts = members.counts
    if (most := max(counts.values(), default=0)) >= MOST:
        raise InputError(f"there is no rule for {most:,} rows or images; {MOST - 1:,} are the most")
    found: list[Event] = []
    for event in events:
        if isinstance(event, Rows):
            for row in range(counts[event.kind]):
                found += _at(event.events, row, members)
        else:
            found += _outside(event, members)
    return tuple(found)


def has_lists(program: Program) -> bool:
    """Whether a program makes lists outside its layers."""
    return any(_is_list(slot) for events in program.outside for event in events for slot in made(event))


def listed(program: Program, count: int) -> Program:
    """The program with all tensors of the lists that it makes, so many of each, outside its layers or within one."""
    members = _Members({0: count}, OUTSIDE, count)
    outside = [_written_out(events, members) for events in program.outside]
    bodies = [_written_out(body.events, members._replace(first=SPAN + OUTSIDE)) for body in program.bodies]
    outputs: dict[str, Ref | Weight] = {}
    for name, ref in program.outputs.items():
        if isinstance(ref, Ref) and _is_list(ref.slot):
            stem, _, turn = name.rpartition(".")
            if turn.isdigit() and turn != "0":
                continue  # with the first of those that take turns
            stem = stem if turn.isdigit() else name
            named = [x for key, x in program.outputs.items() if key == name or key.rpartition(".")[0] == stem]
            lists = [x.slot for x in named if isinstance(x, Ref)]
            rows = chain(*zip(*map(members.of, lists), strict=True))
            outputs |= {f"{stem}.{row}": Ref(slot) for row, slot in enumerate(rows)}
        else:
            outputs[name] = ref
    return replace(
        program,
        before=outside[0],
        between=tuple(outside[1:-1]),
        after=outside[-1],
        outputs=outputs,
        bodies=tuple([Body(events, index_of_exit(events)) for events in bodies]),
    )


def _at(events: Iterable[Any], row: int, members: _Members) -> Iterator[Event]:
    """A row's events. There is no row before the first."""
    for event in events:
        if not (isinstance(event, Drop) and row == 0 and _is_list(event.slot) and event.slot % 4):
            yield renamed(event, lambda slot: members.at(slot, row), str)


def _outside(event: Any, members: _Members) -> Iterator[Event]:
    """An event outside of loops, with all of a list's tensors where it has the list. Lists that stand side by side take
    turns: first those of the first row.

    A call that makes a list of tensors of one size, such as ``split_with_sizes``, has that size for each of them.
    """

    def value(tree: Any) -> Any:
        if isinstance(tree, Ref):
            (one,) = members.of(tree.slot)
            return Ref(one)
        if type(tree) is tuple:
            found: list[Any] = []
            for lists, values in groupby(tree, lambda x: isinstance(x, Ref) and _is_list(x.slot)):
                if lists:
                    found += [
                        Ref(slot) for row in zip(*[members.of(x.slot) for x in values], strict=True) for slot in row
                    ]
                else:
                    found += map(value, values)
            return tuple(found)
        return tree

    if isinstance(event, Drop):
        yield from map(Drop, members.of(event.slot))
    elif isinstance(event, Call):
        lists = any(_is_list(one.slot) for one in event.out)
        out: tuple[Made, ...] = event.out
        if lists:
            rows = zip(*[[one._replace(slot=slot) for slot in members.of(one.slot)] for one in out], strict=True)
            out = tuple(chain(*rows))
        yield event._replace(
            args=tuple([x * len(out) if lists and _is_size(x) else value(x) for x in event.args]),
            keywords=tuple([(key, value(x)) for key, x in event.keywords]),
            out=out,
        )
    elif isinstance(event, (Enter, Exit)):
        yield type(event)(event.path, *[value(tensors) for tensors in event[1:]])
    else:
        yield event


def _is_size(value: Any) -> bool:
    return type(value) is tuple and len(value) == 1 and not isinstance(value[0], (Ref, Weight, tuple))
