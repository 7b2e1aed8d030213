"""What layers share and what a loop does between them, in a program for any depth.

In a recording a slot says how far its layer is (``program.SPAN``). What a layer leaves to others than the next one,
such as keys and values, is then at another distance in each layer, and what follows the layers lets go of it by the
layer's number. ``recorder/lifting.py`` gives such tensors slots outside the layers, so that layers which share them are
equal at any depth. What a loop computes for a layer before it calls it, such as its part of a tensor of all layers,
becomes the layer's, with the layer's number as a symbol. ``placed`` is the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from .program import SPAN, Body, Enter, Event, Program, fold, made, renamed, used
from .substitution import at_layer


def placed(program: Program) -> Program:
    """The program as it would be recorded. Raises ``InputError`` where a layer shares what no earlier one has made."""
    if not shared_slots(program) and all(isinstance(body.events[0], Enter) for body in program.bodies):
        return program
    events = all_events(program)
    known = {*program.inputs.values()}
    for event in events:
        if missing := [slot for slot in used(event) if slot not in known]:
            raise InputError(f"a layer shares the tensor {missing[0]}, which no earlier one makes in this config")
        known.update(made(event))
    return folded(program, events)


def index_of_enter(events: Sequence[Event]) -> int:
    """The index of the first ``Enter``, the layer's."""
    return next(i for i, event in enumerate(events) if isinstance(event, Enter))


def all_events(program: Program) -> list[Event]:
    """All events in their order, those of a layer with its number."""
    found = [*program.before]
    for layer, stack in enumerate(program.stack_of):
        if layer and stack > program.stack_of[layer - 1]:
            found += program.between[stack - 1]
        events = program.events_of(layer)
        start = index_of_enter(events)
        found += [*(at_layer(event, layer) for event in events[:start]), *events[start:]]
    return [*found, *program.after]


def folded(program: Program, events: Sequence[Event], starts: Sequence[int] = ()) -> Program:
    """The program with these events in place of its own. ``starts``: see ``fold``."""
    stacks = [[stack.path.format(i) for i in range(stack.depth)] for stack in program.stacks]
    parts, renumbered = fold(events, stacks, starts)
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
