"""Checks that what a program uses is there: slots, weights, and modules that are entered and left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ...errors import InputError, shown
from ..program import (
    LOSS,
    SPAN,
    Call,
    Drop,
    Enter,
    Event,
    Exit,
    Function,
    Program,
    Ref,
    Weight,
    dropped,
    layer_numbers,
    made,
)
from ..shared_tensors import shared_slots
from .slots import slot_text


class Checker:
    """What a reader of a program notes on its way. ``where``: what messages call the file."""

    def __init__(self, where: str) -> None:
        self.where, self.place = where, "the file"
        self.weights: set[str] = set()
        self.paths: set[str] = set()

    def wrong(self, what: str) -> NoReturn:
        """Raise ``InputError`` for what is wrong at the place."""
        raise InputError(f"'{self.where}', {self.place}: {what}")


class Flow:
    """Checks that what a program uses is there: slots, weights, and modules that are entered and left."""

    def __init__(self, reader: Checker, program: Program) -> None:
        self.reader, self.program = reader, program
        self.layers = program.paths
        self.results: set[int] = {0}
        """The numbers of slots that a layer may leave to those that follow it."""
        self.shared = shared_slots(program)
        for body in program.bodies:
            for event in body.events:
                if isinstance(event, (Call, Function)):
                    out = [m.slot for m in event.out] if isinstance(event, Call) else [event.out.slot]
                    self.results.update(slot - SPAN for slot in out if SPAN <= slot < 2 * SPAN)

    def check(self) -> None:
        program, reader = self.program, self.reader
        reader.place = "layers"
        for i, layer in enumerate(self.layers):
            if layer not in reader.paths:
                reader.wrong(f"layer {i} is no module")
        numbers = layer_numbers([m.path for m in program.modules], self.layers)
        for stack in range(len(program.stacks)):
            inside = [
                i
                for i, m in enumerate(program.modules)
                if program.stack_of[numbers.get(m.path, 0)] == stack and m.path in numbers
            ]
            if inside and len(inside) != inside[-1] + 1 - inside[0]:
                reader.wrong("a module that is in no layer is among those of the layers")
        live = set(program.inputs.values())
        open_: list[str] = []
        self.run(program.before, "before", live, open_, lambda name: [name])
        for stack in range(len(program.stacks)):
            if stack:
                self.run(program.between[stack - 1], f"beside[{stack - 1}]", live, open_, lambda name: [name])
            for number in dict.fromkeys(n for n, k in zip(program.layers, program.stack_of, strict=True) if k == stack):
                self.body(number, stack, live)
            last = program.places[len(program.stack_of) - 1 - program.stack_of[::-1].index(stack)] + 1
            live |= {last * SPAN + number for number in self.results} | self.shared
        live |= self.left()
        self.run(program.after, "after", live, open_, lambda name: [name])
        reader.place = "outputs"
        if open_:
            reader.wrong(f"{open_[-1]} is entered and not left")
        for name, ref in program.outputs.items():
            if isinstance(ref, Ref) and ref.slot not in live:
                reader.wrong(f"{name} is slot {slot_text(ref.slot)}, which has no tensor at the end")

    def left(self) -> set[int]:
        """What each layer of a stack leaves, and no other layer lets go of."""
        program = self.program
        within = {slot % SPAN for body in program.bodies for event in body.events for slot in dropped(event)}
        return {(place + 1) * SPAN + number for place in program.places for number in self.results - within}

    def body(self, number: int, stack: int, before: set[int]) -> None:
        """A layer of a stack. ``before``: what has a tensor when the first one begins."""
        program, reader = self.program, self.reader
        which = zip(self.layers, program.layers, program.stack_of, strict=True)
        paths = [path for path, n, k in which if (n, k) == (number, stack)]

        def named(name: str) -> list[str]:
            return [name.replace("{}", path, 1) for path in paths] if name.startswith("{}") else [name]

        body, place = program.bodies[number], f"bodies[{number}]"
        events = body.events
        reader.place = place
        entered = next((event.path for event in events if isinstance(event, Enter)), None)
        if entered != "{}":
            reader.wrong("a layer does not enter its module first")
        exit_ = events[body.exit]
        if not isinstance(exit_, Exit) or exit_.path != "{}" or not exit_.out:
            reader.wrong("a layer's exit is no Exit of it")
        within: list[str] = []
        own = {slot for event in events for slot in made(event)}
        self.run(
            events, place, ({slot for slot in before if slot < SPAN} | self.shared) - own, within, named, body=True
        )
        if within:
            reader.wrong(f"{within[-1]} is entered and not left")

    def run(
        self,
        events: Sequence[Event],
        where: str,
        live: set[int],
        open_: list[str],
        named: Callable[[str], list[str]],
        body: bool = False,
    ) -> None:
        reader = self.reader
        dead: set[int] = set()

        def use(slot: int) -> None:
            earlier = body and slot >= 2 * SPAN and slot % SPAN in self.results
            if slot in dead or not (slot in live or earlier):
                reader.wrong(f"slot {slot_text(slot)} is used, and it has no tensor there")

        def make(slot: int, again: bool) -> None:
            if slot in live and not again:
                reader.wrong(f"slot {slot_text(slot)} is made twice")
            if body and not again and not (SPAN <= slot < 2 * SPAN or slot in self.shared):
                reader.wrong(f"a layer makes slot {slot_text(slot)}, which is not its own")
            live.add(slot)
            dead.discard(slot)

        def operands(tree: Any) -> None:
            for x in _leaves(tree):
                if isinstance(x, Ref):
                    use(x.slot)
                elif any(name not in reader.weights for name in named(x.name)):
                    reader.wrong(f"{x.name} is no weight of the model")

        for i, event in enumerate(events):
            reader.place = f"event {i} of {where}"
            if isinstance(event, Call):
                operands((event.args, event.keywords))
                for made in event.out:
                    make(made.slot, event.op.endswith("_"))
            elif isinstance(event, Drop):
                use(event.slot)
                live.discard(event.slot)
                dead.add(event.slot)
            elif isinstance(event, Enter):
                if event.path != LOSS and any(path not in reader.paths for path in named(event.path)):
                    reader.wrong(f"{shown(event.path)} is no module")
                operands((event.args, event.keywords))
                open_.append(event.path)
                if len(open_) > 64:
                    reader.wrong("modules are nested too deeply")
            elif isinstance(event, Exit):
                if not open_ or open_[-1] != event.path:
                    reader.wrong(
                        f"{shown(event.path)} is left, and {shown(open_[-1] if open_ else None)} was entered last"
                    )
                open_.pop()
                operands(event.out)
            elif isinstance(event, Function):
                operands(event.inputs)
                inner = set(live)
                self.run(event.forward, f"{where}[{i}].forward", inner, [], named)
                reader.place = f"event {i} of {where}"
                held = {x.slot for x in _leaves((event.inner, event.saved, event.attached)) if isinstance(x, Ref)}
                if missing := held - inner - {event.out.slot}:
                    reader.wrong(f"slot {slot_text(min(missing))} of a custom function has no tensor")
                back = {slot for slot in (*event.unpacked, event.grad) if slot >= 0}
                self.run(event.backward, f"{where}[{i}].backward", back, [], named)
                reader.place = f"event {i} of {where}"
                make(event.out.slot, False)


def _leaves(tree: Any) -> Iterator[Ref | Weight]:
    if isinstance(tree, (Ref, Weight)):
        yield tree
    elif isinstance(tree, tuple):
        for x in tree:
            yield from _leaves(x)
