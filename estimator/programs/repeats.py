"""Loops within a layer, such as that over the chunks of a sequence: found in a recording, and written out again.

A recording has every pass of a loop. ``rolled`` finds passes that differ in their slots and in indices alone, and keeps
one of them as a ``Repeat``, whose number of passes can be an expression of sizes. ``unrolled`` is the inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from .fit import PASS, at_pass, sizes_symbol
from .program import (
    CACHED,
    INTERFACES,
    SPAN,
    Body,
    Call,
    Drop,
    DtypeOf,
    Event,
    Exit,
    Made,
    Program,
    Ref,
    Repeat,
    renamed,
)
from .sizes import KEPT

_SHORTEST = 8
"""The fewest events of a pass. What is done to query, key and value in turn is no loop worth finding."""
MOST_REPEATED = 4_000_000
"""The most events that a program's loops may stand for."""


def rolled(program: Program) -> Program:
    """The program with loops in place of their passes. Where slots of a loop are used by other layers it stays."""
    return replace(program, bodies=tuple(_rolled(body, _used_later(program)) for body in program.bodies))


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


def _used_later(program: Program) -> int:
    """The largest slot of a layer's own, from ``SPAN`` on, that is used after the layer."""
    largest = SPAN

    def note(slot: int) -> int:
        nonlocal largest
        if slot >= 2 * SPAN:
            largest = max(largest, slot % SPAN + SPAN)
        return slot

    def note_after(slot: int) -> int:
        return note(slot + SPAN if slot >= SPAN else slot)

    for body in program.bodies:
        for event in body.events:
            renamed(event, note, str)
    for event in program.after:
        renamed(event, note_after, str)
    return largest


def _rolled(body: Body, used_later: int) -> Body:
    events = list(body.events)
    keys = [_key(event) for event in events]
    at = 0
    while at < len(events):
        found = _loop(events, keys, at)
        if found is not None:
            start, loop, rest = found
            if loop.first > used_later and _unrolled_events([*events[:start], loop, *rest], _all) == events:
                events = [*events[:start], loop, *rest]
                keys = [_key(event) for event in events]
                at = start
        at += 1
    return Body(tuple(events), _exit(events))


def _exit(events: Sequence[Event]) -> int:
    """The index of the layer's own exit."""
    return max(i for i, event in enumerate(events) if isinstance(event, Exit) and event.path == "{}")


def _key(event: Event) -> Any:
    """What is the same in all passes."""
    if isinstance(event, Call):
        return ("call", event.op, _shape_of(event.args), _shape_of(event.keywords), len(event.out))
    if isinstance(event, Drop):
        return "drop"
    return (type(event), event[0])


def _shape_of(tree: Any) -> Any:
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple([_shape_of(x) for x in tree])
    return type(tree) if isinstance(tree, (Ref, DtypeOf, int)) else tree


def _loop(events: Sequence[Event], all_keys: Sequence[Any], start: int) -> tuple[int, Repeat, list[Event]] | None:
    """The loop whose first pass begins at ``start``: where its second pass is, the loop, and what follows it."""
    keys = all_keys[start:]
    for length in range(_SHORTEST, len(keys) // 3 + 1):
        if keys[0] != keys[length] or keys[:length] != keys[length : 2 * length]:
            continue
        passes = 2
        while keys[passes * length : (passes + 1) * length] == keys[:length]:
            passes += 1
        if passes < 3:
            continue
        second = events[start + length : start + 2 * length]
        third = events[start + 2 * length : start + 3 * length]
        moved: dict[int, int] = {}
        one = tuple(_difference(a, b, moved) for a, b in zip(second, third, strict=True))
        strides = set(moved.values()) - {0}
        if None in one or len(strides) != 1:
            continue
        (stride,) = strides
        first = min(slot for slot, distance in moved.items() if distance)
        if any(slot >= first for slot, distance in moved.items() if not distance):
            continue
        count = passes - 1
        rest = _moved(events[start + passes * length :], first + count * stride, -count * stride)
        return start + length, Repeat(count, first, stride, one), rest
    return None


def _difference(a: Any, b: Any, moved: dict[int, int]) -> Any:
    """An event of the second pass whose indices are expressions of the pass; None where it is another in the third.

    ``moved`` notes how far each slot of the second pass is from that of the third.
    """
    if type(a) is not type(b):
        return None
    if isinstance(a, (Ref, Drop)):
        distance = b.slot - a.slot
        return a if moved.setdefault(a.slot, distance) == distance else None
    if isinstance(a, DtypeOf):
        same = a.dtype == b.dtype and moved.setdefault(a.slot, b.slot - a.slot) == b.slot - a.slot
        return a if same else None
    if isinstance(a, Made):
        distance = b.slot - a.slot
        same = a[1:] == b[1:] and moved.setdefault(a.slot, distance) == distance
        return a if same else None
    if type(a) is int:
        return a if a == b else a + (b - a) * sizes_symbol(PASS)
    if isinstance(a, Call) or (isinstance(a, tuple) and not hasattr(a, "_fields")):
        if len(a) != len(b):
            return None
        parts = [_difference(x, y, moved) if x is not None else y for x, y in zip(a, b, strict=True)]
        if any(part is None and x is not None for part, x in zip(parts, a, strict=True)):
            return None
        return Call(*parts) if isinstance(a, Call) else tuple(parts)
    return a if a == b else None


def _unrolled(body: Body, passes: Callable[[Repeat], tuple[list[Event], int]] | None = None) -> Body:
    if not any(isinstance(event, Repeat) for event in body.events):
        return body
    events = _unrolled_events(body.events, passes or _all)
    return Body(tuple(events), _exit(events))


def _unrolled_events(events: Sequence[Event], passes: Callable[[Repeat], tuple[list[Event], int]]) -> list[Event]:
    """Events with the ``passes`` of each loop in its place, and by how many passes the slots behind it are further."""
    found = list(events)
    for at in reversed(range(len(found))):  # what follows a loop counts its slots from those of the last pass on
        loop = found[at]
        if isinstance(loop, Repeat):
            written, count = passes(loop)
            found[at:] = [*written, *_moved(found[at + 1 :], loop.first, count * loop.stride)]
    return found


def _all(loop: Repeat) -> tuple[list[Event], int]:
    if not isinstance(loop.count, int):
        return [loop], 0
    if loop.count * len(loop.events) > MOST_REPEATED:
        raise InputError(f"a loop of {loop.count:,} passes is too long; take a shorter sequence")
    return [event for number in range(loop.count) for event in _pass(loop, number, number)], loop.count


def _kept(loop: Repeat) -> tuple[list[Event], int]:
    plain = all(isinstance(e, Drop) or (isinstance(e, Call) and e.op not in (*INTERFACES, CACHED)) for e in loop.events)
    known = isinstance(loop.count, int)
    if not plain or (known and loop.count <= KEPT):
        return _all(loop)
    counted_pass = tuple(_pass(loop, 2, 2))
    middle = Repeat(loop.count - KEPT + 1, loop.first + 2 * loop.stride, loop.stride, counted_pass)
    last = middle._replace(count=1, events=tuple(_pass(loop, loop.count - 1 if known else 2, 2)))
    return [*_pass(loop, 0, 0), *_pass(loop, 1, 1), middle, last], KEPT - 2


def _pass(loop: Repeat, number: int, place: int) -> list[Event]:
    """The pass of this number, with the slots of the one at this place."""
    return _moved([at_pass(event, number) for event in loop.events], loop.first, place * loop.stride)


def _moved(events: Sequence[Event], first: int, by: int) -> list[Event]:
    """Events whose own slots from ``first`` on are others."""
    return [renamed(event, lambda slot: slot + by if first <= slot < 2 * SPAN else slot, str) for event in events]
