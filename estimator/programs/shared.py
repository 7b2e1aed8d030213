"""Tensors of a layer that later layers share, such as keys and values, in a program for any depth.

In a recording a slot says how far its layer is (``program.SPAN``). What a layer leaves to others than the next one is
then at another distance in each layer, and what follows the layers lets go of it by the layer's number. ``lifted``
gives such tensors slots outside the layers, so that layers which share them are equal at any depth. ``placed`` gives
them their layers' slots back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from .program import SPAN, Body, Drop, Event, Program, Ref, fold, made, renamed, used


def lifted(program: Program) -> Program:
    """The program whose layers leave what follows them nothing, but for the last layer."""
    last = len(program.layers) * SPAN
    touched = [slot for e in program.after for slot in (*used(e), *((e.slot,) if isinstance(e, Drop) else ()))]
    touched += [ref.slot for ref in program.outputs.values() if isinstance(ref, Ref)]
    shared = dict.fromkeys(slot for slot in touched if SPAN <= slot < last)
    if not shared:
        return program
    free = 1 + max(slot for slot in _slots(program) if slot < SPAN)
    numbers = {slot: free + i for i, slot in enumerate(shared)}

    def body(layer: int) -> Body:
        def slot(number: int) -> int:
            distance = number // SPAN - 1
            return number if distance < 0 else numbers.get(number + (layer - 2 * distance) * SPAN, number)

        own = program.bodies[program.layers[layer]]
        return Body(tuple([renamed(event, slot, str) for event in own.events]), own.exit)

    def outside(slot: int) -> int:
        return numbers.get(slot, slot)

    return replace(
        numbered(program, [body(layer) for layer in range(len(program.layers))]),
        after=tuple([renamed(event, outside, str) for event in program.after]),
        outputs={name: renamed(ref, outside, str) for name, ref in program.outputs.items()},
    )


def placed(program: Program) -> Program:
    """The program as it would be recorded. Raises ``InputError`` where a layer shares what no earlier one has made."""
    if not shared_slots(program):
        return program
    layers = range(len(program.layers))
    events = [*program.before, *(event for layer in layers for event in program.events_of(layer)), *program.after]
    known = {*program.inputs.values()}
    for event in events:
        if missing := [slot for slot in used(event) if slot not in known]:
            raise InputError(f"a layer shares the tensor {missing[0]}, which no earlier one makes in this config")
        known.update(made(event))
    parts, renumbered = fold(events, [program.path.format(layer) for layer in layers])
    return replace(
        program,
        **parts,
        inputs={name: renumbered(slot) for name, slot in program.inputs.items()},
        outputs={name: renamed(ref, renumbered, str) for name, ref in program.outputs.items()},
    )


def shared_slots(program: Program) -> set[int]:
    """The slots outside the layers that a layer makes."""
    known = {*program.inputs.values(), *(slot for event in program.before for slot in made(event))}
    found = {slot for body in program.bodies for event in body.events for slot in made(event) if slot < SPAN}
    return found - known


def numbered(program: Program, bodies: Sequence[Body]) -> Program:
    """The program with a body for each layer, of which equal ones are one, in the order in which they come."""
    numbers: dict[Body, int] = {}
    layers = tuple([numbers.setdefault(body, len(numbers)) for body in bodies])
    return replace(program, bodies=tuple(numbers), layers=layers)


def _slots(program: Program) -> set[int]:
    found = {0, *program.inputs.values()}

    def note(slot: int) -> int:
        found.add(slot)
        return slot

    events: list[Event] = [*program.before, *(e for body in program.bodies for e in body.events), *program.after]
    for event in events:
        renamed(event, note, str)
    return found
