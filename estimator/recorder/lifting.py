"""Gives what layers of a recording share slots outside the layers, so that layers which share them are equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..programs.program import SPAN, Body, Call, Drop, Enter, Event, Exit, Program, Ref, dropped, renamed, used
from ..programs.shared_tensors import all_events, folded, index_of_enter, numbered
from ..programs.substitution import LAYER, sizes_symbol


def lifted(program: Program, far: bool = True) -> Program:
    """The program whose layers leave what follows them nothing, but for the last layer.

    ``far``: nor do they leave anything to layers beyond the next one.
    """
    if len(program.stacks) > 1:
        raise InputError("a program of several stacks of layers is not one for all depths")
    program = _with_preludes(program)
    last = len(program.layers) * SPAN
    touched = [slot for e in program.after for slot in used(e)]
    touched += [ref.slot for ref in program.outputs.values() if isinstance(ref, Ref)]
    for layer, number in enumerate(program.layers):  # what a cache keeps outlives the pass, so nothing lets go of it
        beyond = [slot for event in program.bodies[number].events for slot in used(event) if slot >= 3 * SPAN]
        touched += [slot + (layer - 2 * (slot // SPAN - 1)) * SPAN for slot in beyond if far]
    dying = [slot for e in program.after for slot in dropped(e) if SPAN <= slot < last]
    each = [{slot % SPAN for slot in dying if slot // SPAN == i} for i in range(1, len(program.layers))]
    if {*touched} & {*dying} or any(own != each[0] for own in each):  # else each layer leaves the same (``deepened``)
        touched += dying
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


def _with_preludes(program: Program) -> Program:
    """The program whose layers begin with what the loop computes for them, if it does so for all of them alike.

    For the first layer this is before the loop's first pass. Its calls are then the last ones before the layer's.
    """
    after_exit = [program.bodies[number].events[program.bodies[number].exit + 1 :] for number in program.layers[:-1]]
    calls = {tuple(event.op for event in events if isinstance(event, Call)) for events in after_exit}
    if len(calls) != 1 or calls == {()}:
        return program
    (ops,) = calls
    events, paths = all_events(program), program.paths
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
    cut = folded(program, events, starts)
    bodies = [list(cut.bodies[number].events) for number in cut.layers]
    places = [[i for i in range(index_of_enter(events)) if isinstance(events[i], Call)] for events in bodies]
    for same in zip(*places, strict=True):
        args = _with_number([bodies[layer][i].args for layer, i in enumerate(same)])
        for layer, i in enumerate(same):
            bodies[layer][i] = bodies[layer][i]._replace(args=args[layer])
    exits = [cut.bodies[number].exit for number in cut.layers]
    return numbered(cut, [Body(tuple(events), exit_) for events, exit_ in zip(bodies, exits, strict=True)])


def _with_number(trees: Sequence[Any]) -> Sequence[Any]:
    """The arguments of a call in each layer, with a symbol where it is the layer's number."""
    if all(type(tree) is tuple and len(tree) == len(trees[0]) for tree in trees):
        return list(zip(*map(_with_number, zip(*trees, strict=True)), strict=True))
    if all(type(tree) is int for tree in trees) and list(trees) == list(range(len(trees))) != [0]:
        return [sizes_symbol(LAYER)] * len(trees)
    return trees


def _slots(program: Program) -> set[int]:
    found = {*program.inputs.values()}

    def note(slot: int) -> int:
        found.add(slot)
        return slot

    events: list[Event] = [*program.before, *(e for body in program.bodies for e in body.events), *program.after]
    for event in events:
        renamed(event, note, str)
    return found
