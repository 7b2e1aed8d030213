"""What layers share and what a loop does between them, in a program for any depth.

In a recording a slot says how far its layer is (``program.SPAN``). What a layer leaves to others than the next one,
such as keys and values, is then at another distance in each layer, and what follows the layers lets go of it by the
layer's number. ``lifted`` gives such tensors slots outside the layers, so that layers which share them are equal at any
depth. What a loop computes for a layer before it calls it, such as its part of a tensor of all layers, becomes the
layer's, with the layer's number as a symbol. ``placed`` is the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from .fit import LAYER, at_layer, sizes_symbol
from .program import SPAN, Body, Call, Drop, Enter, Event, Exit, Program, Ref, dropped, fold, made, renamed, used


def lifted(program: Program) -> Program:
    """The program whose layers leave what follows them nothing, but for the last layer."""
    program = _with_preludes(program)
    last = len(program.layers) * SPAN
    touched = [slot for e in program.after for slot in (*used(e), *dropped(e))]
    touched += [ref.slot for ref in program.outputs.values() if isinstance(ref, Ref)]
    for layer, number in enumerate(program.layers):  # what a cache keeps outlives the pass, so nothing lets go of it
        far = [slot for event in program.bodies[number].events for slot in used(event) if slot >= 3 * SPAN]
        touched += [slot + (layer - 2 * (slot // SPAN - 1)) * SPAN for slot in far]
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
    if not shared_slots(program) and all(isinstance(body.events[0], Enter) for body in program.bodies):
        return program
    events = _events(program)
    known = {*program.inputs.values()}
    for event in events:
        if missing := [slot for slot in used(event) if slot not in known]:
            raise InputError(f"a layer shares the tensor {missing[0]}, which no earlier one makes in this config")
        known.update(made(event))
    return _folded(program, events)


def _with_preludes(program: Program) -> Program:
    """The program whose layers begin with what the loop computes for them, if it does so for all of them alike.

    For the first layer this is before the loop's first pass. Its calls are then the last ones before the layer's.
    """
    after_exit = [program.bodies[number].events[program.bodies[number].exit + 1 :] for number in program.layers[:-1]]
    calls = {tuple(event.op for event in events if isinstance(event, Call)) for events in after_exit}
    if len(calls) != 1 or calls == {()}:
        return program
    (ops,) = calls
    events, paths = _events(program), _paths(program)
    entered = next(i for i, event in enumerate(events) if isinstance(event, Enter) and event.path == paths[0])
    first = [i for i in range(entered) if isinstance(events[i], Call)][-len(ops) :]
    if [events[i][0] for i in first] != list(ops):
        return program
    left = {event.path: i for i, event in enumerate(events) if isinstance(event, Exit)}
    starts = [first[0]]
    for path in paths[:-1]:
        start = left[path] + 1
        while isinstance(events[start], Drop):  # what the loop lets go of when it takes the layer's result
            start += 1
        starts.append(start)
    cut = _folded(program, events, starts)
    bodies = [list(cut.bodies[number].events) for number in cut.layers]
    places = [[i for i in range(_enter(events)) if isinstance(events[i], Call)] for events in bodies]
    for same in zip(*places, strict=True):
        args = _with_number([bodies[layer][i].args for layer, i in enumerate(same)])
        for layer, i in enumerate(same):
            bodies[layer][i] = bodies[layer][i]._replace(args=args[layer])
    exits = [cut.bodies[number].exit for number in cut.layers]
    return numbered(cut, [Body(tuple(events), exit_) for events, exit_ in zip(bodies, exits, strict=True)])


def _enter(events: Sequence[Event]) -> int:
    """The index of the first ``Enter``, the layer's."""
    return next(i for i, event in enumerate(events) if isinstance(event, Enter))


def _with_number(trees: Sequence[Any]) -> Sequence[Any]:
    """The arguments of a call in each layer, with a symbol where it is the layer's number."""
    if all(type(tree) is tuple and len(tree) == len(trees[0]) for tree in trees):
        return list(zip(*map(_with_number, zip(*trees, strict=True)), strict=True))
    if all(type(tree) is int for tree in trees) and list(trees) == list(range(len(trees))) != [0]:
        return [sizes_symbol(LAYER)] * len(trees)
    return trees


def _events(program: Program) -> list[Event]:
    """All events in their order, those of a layer with its number."""
    found = [*program.before]
    for layer in range(len(program.layers)):
        events = program.events_of(layer)
        start = _enter(events)
        found += [*(at_layer(event, layer) for event in events[:start]), *events[start:]]
    return [*found, *program.after]


def _paths(program: Program) -> list[str]:
    return [program.path.format(layer) for layer in range(len(program.layers))]


def _folded(program: Program, events: Sequence[Event], starts: Sequence[int] = ()) -> Program:
    parts, renumbered = fold(events, _paths(program), starts)
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
