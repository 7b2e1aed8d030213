"""Loops within a layer, such as that over the chunks of a sequence, written out again.

A program keeps one pass of a loop as a ``Repeat``, whose number of passes can be an expression of sizes. Recordings
have every pass; ``recorder/loops.py`` finds those that differ in their slots and in indices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import InputError
from ..ledger import Size
from .layer_runs import KEPT
from .program import (
    CACHED,
    INTERFACES,
    SPAN,
    Body,
    Call,
    Drop,
    Event,
    Program,
    Repeat,
    index_of_exit,
    renamed,
)
from .substitution import at_pass

MOST_REPEATED = 4_000_000
"""The most events that a program's loops may stand for."""


def unrolled(program: Program) -> Program:
    """The program with all passes. Loops whose number of passes is no number stay."""
    return replace(program, bodies=tuple(_unrolled(body) for body in program.bodies))


def counted(program: Program) -> Program:
    """The program whose loops are run as equal layers are: the first two passes, one that stands for all that are
    left, which is what ``Repeat`` becomes, and the last. So a pass that is counted lies between equal ones.

    A loop of few passes has all of them, and so has one of more than operators' calls. A number of passes that is an
    expression stands for many.
    """
    return replace(program, bodies=tuple(_unrolled(body, _kept) for body in program.bodies))


def with_passes(program: Program, count: int) -> Program:
    """The program whose loops have so many passes."""
    bodies = [
        Body(tuple(e._replace(count=count) if isinstance(e, Repeat) else e for e in body.events), body.exit)
        for body in program.bodies
    ]
    return unrolled(replace(program, bodies=tuple(bodies)))


def _unrolled(body: Body, passes: Callable[[Repeat], tuple[list[Event], int]] | None = None) -> Body:
    if not any(isinstance(event, Repeat) for event in body.events):
        return body
    events = unrolled_events(body.events, passes or all_passes)
    return Body(tuple(events), index_of_exit(events))


def unrolled_events(events: Sequence[Event], passes: Callable[[Repeat], tuple[list[Event], int]]) -> list[Event]:
    """Events with the ``passes`` of each loop in its place, and by how many passes the slots behind it are further."""
    found = list(events)
    for at in reversed(range(len(found))):  # what follows a loop counts its slots from those of the last pass on
        loop = found[at]
        if isinstance(loop, Repeat):
            written, count = passes(loop)
            found[at:] = [*written, *moved_slots(found[at + 1 :], loop.first, count * loop.stride)]
    return found


def all_passes(loop: Repeat) -> tuple[list[Event], int]:
    """The events of all passes, and how many there are; the loop itself where their number is no number."""
    if not isinstance(loop.count, int):
        return [loop], 0
    if loop.count * len(loop.events) > MOST_REPEATED:
        raise InputError(f"a loop of {loop.count:,} passes is too long; take a shorter sequence")
    return [event for number in range(loop.count) for event in _pass(loop, number, number)], loop.count


def _kept(loop: Repeat) -> tuple[list[Event], int]:
    plain = all(isinstance(e, Drop) or (isinstance(e, Call) and e.op not in (*INTERFACES, CACHED)) for e in loop.events)
    known = isinstance(loop.count, int)
    if not plain or (known and loop.count <= KEPT):
        return all_passes(loop)

    def one(number: int, count: Size, place: int) -> Repeat:
        """A pass with the slots of the second one, which it gets when the pass before it ends."""
        return Repeat(count, loop.first + loop.stride, loop.stride, tuple(_pass(loop, number, 1)), place)

    kept = [one(1, 1, -1), one(2, loop.count - KEPT + 1, 0), one(loop.count - 1 if known else 2, 1, 1)]
    return [*_pass(loop, 0, 0), *kept], 1


def _pass(loop: Repeat, number: int, place: int) -> list[Event]:
    """The pass of this number, with the slots of the one at this place."""
    return moved_slots([at_pass(event, number) for event in loop.events], loop.first, place * loop.stride)


def moved_slots(events: Sequence[Event], first: int, by: int) -> list[Event]:
    """Events whose own slots from ``first`` on are others."""
    return [renamed(event, lambda slot: slot + by if first <= slot < 2 * SPAN else slot, str) for event in events]
