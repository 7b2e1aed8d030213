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
from typing import Any, NamedTuple

from ..errors import InputError
from ..ledger import Size
from .program import Call, Drop, Enter, Event, Exit, Made, Program, Ref, Weight, made, renamed

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
        """Which kind of loop it is. Every loop makes or drops tensors of lists, whose slots are the highest."""
        slots: list[int] = []
        for event in self.events:
            renamed(event, lambda slot: slots.append(slot) or slot, str)  # type: ignore[func-returns-value]
        return (max(slots, default=0) - LISTS) // OF_A_KIND


ALL, LAST, OTHERS = range(3)
"""Which of a list's tensors are meant. In a loop: the row's own, and with ``LAST`` that of the row before."""


def of_list(number: int, which: int = ALL, kind: int = 0) -> int:
    """The slot that stands for a list's tensors."""
    return LISTS + OF_A_KIND * kind + 4 * number + which


def written_out(events: Iterable[Any], counts: Mapping[int, int], members: int = MEMBERS) -> tuple[Event, ...]:
    """The events for so many rows, by kinds of loops. Raises ``InputError`` for more than lists can have.

    Slots from ``members`` on are those of the lists' tensors.
    """
    if (most := max(counts.values(), default=0)) >= MOST:
        raise InputError(f"there is no rule for {most:,} rows or images; {MOST - 1:,} are the most")
    found: list[Event] = []
    for event in events:
        if isinstance(event, Rows):
            for row in range(counts[event.kind]):
                found += _at(event.events, row, members)
        else:
            found += _outside(event, counts, members)
    return tuple(found)


def has_lists(program: Program) -> bool:
    """Whether a program makes lists outside its layers."""
    return any(LISTS <= slot < MEMBERS for events in program.outside for event in events for slot in made(event))


def listed(program: Program, count: int) -> Program:
    """The program with all tensors of the lists that it makes outside its layers, so many of each."""
    outside = [written_out(events, {0: count}, OUTSIDE) for events in program.outside]
    outputs: dict[str, Ref | Weight] = {}
    for name, ref in program.outputs.items():
        if isinstance(ref, Ref) and LISTS <= ref.slot < MEMBERS:
            outputs |= {f"{name}.{row}": Ref(slot) for row, slot in enumerate(_slots(ref.slot, {0: count}, OUTSIDE))}
        else:
            outputs[name] = ref
    return replace(program, before=outside[0], between=tuple(outside[1:-1]), after=outside[-1], outputs=outputs)


def _slots(number: int, counts: Mapping[int, int], members: int) -> list[int]:
    """The slots that one stands for, outside of loops. Those of layers are no lists'."""
    if not LISTS <= number < MEMBERS:
        return [number]
    of, which = divmod(number - LISTS, 4)
    count = counts[4 * of // OF_A_KIND]
    rows = {ALL: range(count), LAST: range(count - 1, count), OTHERS: range(count - 1)}[which]
    return [members + of * MOST + row for row in rows]


def _at(events: Iterable[Any], row: int, members: int) -> Iterator[Event]:
    """A row's events. There is no row before the first."""

    def slot(number: int) -> int:
        if number < LISTS:
            return number
        of, before = divmod(number - LISTS, 4)
        return members + of * MOST + row - before

    for event in events:
        if not (isinstance(event, Drop) and row == 0 and event.slot >= LISTS and event.slot % 4):
            yield renamed(event, slot, str)


def _outside(event: Any, counts: Mapping[int, int], members: int) -> Iterator[Event]:
    """An event outside of loops, with all of a list's tensors where it has the list.

    A call that makes a list of tensors of one size, such as ``split_with_sizes``, has that size for each of them.
    """

    def slots(number: int) -> list[int]:
        return _slots(number, counts, members)

    def value(tree: Any) -> Any:
        if isinstance(tree, Ref):
            (one,) = slots(tree.slot)
            return Ref(one)
        if type(tree) is tuple:
            found: list[Any] = []
            for x in tree:
                found += map(Ref, slots(x.slot)) if isinstance(x, Ref) else [value(x)]
            return tuple(found)
        return tree

    if isinstance(event, Drop):
        yield from map(Drop, slots(event.slot))
    elif isinstance(event, Call):
        out = tuple([Made(slot, one.shape, one.dtype) for one in event.out for slot in slots(one.slot)])
        lists = any(LISTS <= one.slot < MEMBERS for one in event.out)
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
