"""Finds loops within a layer of a recording, such as that over the chunks of a sequence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..programs.program import (
    SPAN,
    Body,
    Call,
    Drop,
    DtypeOf,
    Event,
    Made,
    Program,
    Ref,
    Repeat,
    index_of_exit,
    renamed,
)
from ..programs.repeats import all_passes, moved_slots, unrolled_events
from ..programs.substitution import PASS, sizes_symbol

_SHORTEST = 8
"""The fewest events of a pass. What is done to query, key and value in turn is no loop worth finding."""


def rolled(program: Program) -> Program:
    """The program with loops in place of their passes. Where slots of a loop are used by other layers it stays."""
    return replace(program, bodies=tuple(_rolled(body, _used_later(program)) for body in program.bodies))


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
    for event in itertools.chain(*program.outside[1:]):
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
            if loop.first > used_later and unrolled_events([*events[:start], loop, *rest], all_passes) == events:
                events = [*events[:start], loop, *rest]
                keys = [_key(event) for event in events]
                at = start
        at += 1
    return Body(tuple(events), index_of_exit(events))


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
        rest = moved_slots(events[start + passes * length :], first + count * stride, -count * stride)
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
