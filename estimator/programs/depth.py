"""A program for another number of layers, and the rule that says which layer calls what.

A recording has a few layers. ``recorder/kinds.py`` finds the kinds among them and how a layer's kind follows from the
config (its entry in ``layer_types``, whether it is the first). ``deepened`` writes a program for any sequence of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import InputError, shown
from .program import SPAN, Program, layer_numbers, renamed

Signature = tuple[Any, ...]
"""What the config says of one layer."""


class Kinds(NamedTuple):
    """Which layer of a program each layer of a deeper one is like."""

    looks_at: str
    """What decides: ``layer``, the layer's signature; ``first`` or ``before``, also whether it is the first, or the
    signature of the one before it; ``last``, also whether it is the last."""
    table: Mapping[Signature, int]

    def of(self, signatures: Sequence[Signature]) -> tuple[int, ...]:
        """For each layer, the layer that it is like. Raises ``InputError`` for one that was not recorded."""
        found = []
        for i in range(len(signatures)):
            key = key_of(self.looks_at, signatures, i)
            if key not in self.table:
                words = ", ".join(map(str, signatures[i]))
                if i and self.looks_at in ("before", "last"):
                    words += " after " + ", ".join(map(str, signatures[i - 1]))
                raise InputError(f"layer {i} ({shown(words)}) is of a kind that was not recorded")
            found.append(self.table[key])
        return tuple(found)


LOOKS_AT = ("layer", "first", "before", "last")


def key_of(looks_at: str, signatures: Sequence[Signature], i: int) -> Signature:
    """What decides a layer's kind (``Kinds.looks_at``)."""
    before = signatures[i - 1] if i else None
    if looks_at == "layer":
        return (signatures[i],)
    if looks_at == "first":
        return signatures[i], i == 0
    if looks_at == "before":
        return signatures[i], before
    return signatures[i], before, i == len(signatures) - 1


def deepened(program: Program, like: Sequence[int]) -> Program:
    """A program of as many layers as ``like`` has entries, each like that layer of the given program."""
    if not program.layers or not like:
        raise InputError("a program without layers has no other depth")
    if len(program.stacks) > 1:
        raise InputError("a program of several stacks of layers has no other depth")
    old, (stack,) = program.paths, program.stacks

    def renaming(i: int) -> Callable[[str], str]:
        before, after = old[like[i]], stack.path.format(i)
        return lambda name: after + name[len(before) :]

    def rows(given: Sequence[Any]) -> tuple[Any, ...]:
        numbers = layer_numbers([row[0] for row in given], old)
        inside = [i for i, row in enumerate(given) if row[0] in numbers]
        if not inside:
            return tuple(given)
        start, stop = inside[0], inside[-1] + 1
        of_layer: list[list[Any]] = [[] for _ in old]
        for row in given[start:stop]:
            if row[0] not in numbers:
                raise InputError(
                    f"{row[0]} is among the layers' modules and in none of them; there is no rule for that"
                )
            of_layer[numbers[row[0]]].append(row)
        made: list[Any] = []
        for i, number in enumerate(like):
            rename = renaming(i)
            made += [type(row)(rename(row[0]), *row[1:]) for row in of_layer[number]]
        return (*given[:start], *made, *given[stop:])

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

    def slot(number: int) -> int:
        layer = number // SPAN - 1
        if layer < 0:
            return number
        if layer != len(old) - 1:
            raise InputError(f"what follows the layers uses a tensor of layer {layer}; there is no rule for that")
        return number + (len(like) - len(old)) * SPAN

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
        stacks=(stack._replace(depth=len(like)),),
        after=tuple([renamed(event, slot, str) for event in program.after]),
        outputs={name: renamed(ref, slot, str) for name, ref in program.outputs.items()},
    )
