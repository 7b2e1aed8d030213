"""A program for another number of layers, and the rule that says which layer calls what.

A recording has a few layers. ``recorder/kinds.py`` finds the kinds among them and how a layer's kind follows from the
config (its entry in ``layer_types``, whether it is the first). ``deepened`` writes a program for any sequence of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import InputError, shown
from .program import SPAN, Drop, Event, Program, layer_numbers, renamed

Signature = tuple[Any, ...]
"""What the config says of one layer."""


class Kinds(NamedTuple):
    """Which layer of a program each layer of a deeper one is like."""

    looks_at: str
    """What decides: ``layer``, the layer's signature; ``first`` or ``before``, also whether it is the first, or the
    signature of the one before it; ``last``, also whether it is the last; ``ends``, whether it is one of the last two,
    of which a tower may give the first."""
    table: Mapping[Signature, int]

    def of(self, signatures: Sequence[Signature]) -> tuple[int, ...]:
        """For each layer, the layer that it is like. Raises ``InputError`` for one that was not recorded."""
        found = []
        for i in range(len(signatures)):
            key = key_of(self.looks_at, signatures, i)
            if key not in self.table:
                words = ", ".join(map(str, signatures[i]))
                if i and self.looks_at not in ("layer", "first"):
                    words += " after " + ", ".join(map(str, signatures[i - 1]))
                raise InputError(f"layer {i} ({shown(words)}) is of a kind that was not recorded")
            found.append(self.table[key])
        return tuple(found)


LOOKS_AT = ("layer", "first", "before", "last", "ends")


def key_of(looks_at: str, signatures: Sequence[Signature], i: int) -> Signature:
    """What decides a layer's kind (``Kinds.looks_at``)."""
    before = signatures[i - 1] if i else None
    if looks_at == "layer":
        return (signatures[i],)
    if looks_at == "first":
        return signatures[i], i == 0
    if looks_at == "before":
        return signatures[i], before
    behind = len(signatures) - 1 - i
    return signatures[i], before, behind == 0 if looks_at == "last" else min(behind, 2)


def deepened(program: Program, like: Sequence[int]) -> Program:
    """A program of as many layers as ``like`` has entries, each like that layer of the given program.

    Layers of all stacks are numbered together, and those of a stack are like some of the same stack.
    """
    if not program.layers or not like:
        raise InputError("a program without layers has no other depth")
    old, stack_of = program.paths, [program.stack_of[number] for number in like]
    stacks = tuple([stack._replace(depth=stack_of.count(k)) for k, stack in enumerate(program.stacks)])
    if stack_of != sorted(stack_of) or not all(stack.depth for stack in stacks):
        raise InputError("a program of several stacks of layers has layers of each, in their order")
    deeper = replace(program, layers=(0,) * len(like), stacks=stacks)

    def renaming(i: int) -> Callable[[str], str]:
        before, after = old[like[i]], deeper.paths[i]
        return lambda name: after + name[len(before) :]

    def rows(given: Sequence[Any]) -> tuple[Any, ...]:
        numbers = layer_numbers([row[0] for row in given], old)
        of_layer: list[list[Any]] = [[] for _ in old]
        stop = {program.stack_of[numbers[row[0]]]: i + 1 for i, row in enumerate(given) if row[0] in numbers}
        made: list[Any] = []
        at = 0
        while at < len(given):
            number = numbers.get(given[at][0])
            if number is None:
                made.append(given[at])
                at += 1
                continue
            stack = program.stack_of[number]
            for row in given[at : stop[stack]]:
                if row[0] not in numbers:
                    raise InputError(
                        f"{row[0]} is among the layers' modules and in none of them; there is no rule for that"
                    )
                of_layer[numbers[row[0]]].append(row)
            at = stop[stack]
            for i, number in enumerate(like):
                if stack_of[i] == stack:
                    rename = renaming(i)
                    made += [type(row)(rename(row[0]), *row[1:]) for row in of_layer[number]]
        return tuple(made)

    def names(given: Iterable[str]) -> Iterable[str]:
        numbers = layer_numbers(given, old)
        of_layer: list[list[str]] = [[] for _ in old]
        for name in given:
            if name in numbers:
                of_layer[numbers[name]].append(name)
            else:
                yield name
        for i, number in enumerate(like):
            yield from map(renaming(i), of_layer[number])

    moved = _places(program, deeper, like)

    def slot(number: int) -> int:
        place = number // SPAN - 1
        if place < 0:
            return number
        if place not in moved:
            raise InputError(f"what follows the layers uses a tensor of layer {place}; there is no rule for that")
        return number + (moved[place] - place) * SPAN

    def following(events: Sequence[Event]) -> Iterator[Event]:
        """What follows the layers, which may let go of what each of them left: a tuple of its last item first."""
        dying = {event.slot for event in events if isinstance(event, Drop)}
        for event in events:
            place = event.slot // SPAN - 1 if isinstance(event, Drop) else -1
            number = program.places.index(place) if place in program.places else -1
            if isinstance(event, Drop) and number >= 0 and place not in moved and number != like[-1]:
                alike = [i for i, body in enumerate(program.layers[:-1]) if body == program.layers[number]]
                if not all(event.slot + (program.places[i] - place) * SPAN in dying for i in alike):
                    slot(event.slot)  # which is refused
                for i in reversed(range(len(like))):
                    if like[i] == number:
                        yield Drop(event.slot + (deeper.places[i] - place) * SPAN)
            else:
                yield renamed(event, slot, str)

    if layer_numbers([*program.tied, *program.tied.values()], old):
        raise InputError("parameters of layers are tied to others; there is no rule for that")
    order = list(dict.fromkeys(program.layers[number] for number in like))
    return replace(
        program,
        modules=rows(program.modules),
        parameters=rows(program.parameters),
        buffers=rows(program.buffers),
        plain=frozenset(names(sorted(program.plain))),
        checkpoints=frozenset(names(sorted(program.checkpoints))),
        bodies=tuple(program.bodies[number] for number in order),
        layers=tuple(order.index(program.layers[number]) for number in like),
        stacks=stacks,
        between=tuple([tuple([renamed(event, slot, str) for event in events]) for events in program.between]),
        after=tuple(following(program.after)),
        outputs={name: renamed(ref, slot, str) for name, ref in program.outputs.items()},
    )


def _places(program: Program, deeper: Program, like: Sequence[int]) -> dict[int, int]:
    """The places whose tensors what is outside the layers may use, and those that they have in a deeper program.

    They are the last layer of each stack, and the free place before the next one's first layer. Of a stack that is as
    it was they are all of its layers'.
    """
    moved: dict[int, int] = {}
    first = at = 0
    for k, (stack, other) in enumerate(zip(program.stacks, deeper.stacks, strict=True)):
        same = list(like[at : at + other.depth]) == list(range(first, first + stack.depth))
        for i in range(stack.depth) if same else (stack.depth - 1,):
            moved[first + i + k] = at + i + k + (0 if same else other.depth - stack.depth)
        first, at = first + stack.depth, at + other.depth
        moved[first + k] = at + k
    return moved
