"""A trainer's step whose completions a model scores, from one in which functions do: they differ in some events.

What scores completions does not depend on how they are learnt from. So one recorded pair of steps, with functions and
with a model, says what each other step of functions has in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from ..errors import InputError
from .program import Backward, Program, made, renamed
from .rows import LISTS


def _renamed(event: Any, slots: Any) -> Any:
    """An event with other slots, those of lists aside."""

    def slot(number: int) -> int:
        return number if number >= LISTS else int(slots(number))

    if isinstance(event, Backward):
        return event._replace(loss=renamed(event.loss, slot, str))
    return renamed(event, slot, str)


def _signs(events: Iterable[Any]) -> list[Any]:
    """Events without their slots."""
    return [_renamed(event, lambda _: 0) for event in events]


def _slots(events: Iterable[Any]) -> list[int]:
    """The slots of events as they come."""
    found: list[int] = []
    for event in events:
        _renamed(event, lambda slot: found.append(slot) or slot)  # type: ignore[func-returns-value]
    return found


def _equal(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items are equal at the beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def with_model(step: Program, functions: Program, model: Program) -> Program:
    """A step with the scores of a model, as ``model`` has them in place of those of ``functions``.

    Raises ``InputError`` where the step is another one than ``functions`` between the first score and the last that
    comes of them.
    """
    old, new, own = _signs(functions.before), _signs(model.before), _signs(step.before)
    start = _equal(old, new)
    same = _equal(old[start:][::-1], new[start:][::-1])
    end, length = len(new) - same, len(old) - same - start
    where = next((n for n in range(len(own)) if own[n : n + length] == old[start : start + length]), None)
    if where is None:
        raise InputError("the completions are scored otherwise than in the recordings")
    theirs = dict(zip(_slots(functions.before[start : start + length]), _slots(step.before[where:]), strict=False))
    known = dict(zip(_slots(model.before[:start]), _slots(functions.before[:start]), strict=True))
    known |= dict(zip(_slots(model.before[end:]), _slots(functions.before[start + length :]), strict=True))
    scores = model.before[start:end]
    free = count(1 + max(_slots(step.before)))
    within = {slot for event in scores for slot in made(event)}
    slots = {slot: theirs[known[slot]] for slot in {*_slots(scores)} if known.get(slot) in theirs}
    slots |= {slot: next(free) for slot in sorted(within - {*slots})}
    put = [_renamed(event, slots.__getitem__) for event in scores]
    return replace(step, before=(*step.before[:where], *put, *step.before[where + length :]))
