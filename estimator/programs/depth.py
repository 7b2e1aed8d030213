"""A program for another number of layers, and the rule that says which layer calls what.

A recording has a few layers. ``examples`` finds the kinds among them and how a layer's kind follows from the config
(its entry in ``layer_types``, whether it is the first). ``deepened`` writes the program for any sequence of kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError, shown
from .module_table import NamedModule
from .program import SPAN, Program, Stored, layer_numbers, renamed

Signature = tuple[Any, ...]
"""What the config says of one layer."""


@dataclass(frozen=True)
class Kinds:
    """Which layer of a program each layer of a deeper one is like."""

    looks_at: str
    """What decides: ``layer``, the layer's signature; ``first`` or ``before``, also whether it is the first, or the
    signature of the one before it; ``last``, also whether it is the last."""
    table: Mapping[Signature, int]

    def of(self, signatures: Sequence[Signature]) -> tuple[int, ...]:
        """For each layer, the layer that it is like. Raises ``InputError`` for one that was not recorded."""
        found = []
        for i in range(len(signatures)):
            key = _key(self.looks_at, signatures, i)
            if key not in self.table:
                raise InputError(f"layer {i} with {shown(key)} is of a kind that was not recorded")
            found.append(self.table[key])
        return tuple(found)


LOOKS_AT = ("layer", "first", "before", "last")


def _key(looks_at: str, signatures: Sequence[Signature], i: int) -> Signature:
    before = signatures[i - 1] if i else None
    if looks_at == "layer":
        return (signatures[i],)
    if looks_at == "first":
        return signatures[i], i == 0
    if looks_at == "before":
        return signatures[i], before
    return signatures[i], before, i == len(signatures) - 1


def examples(program: Program, signatures: Sequence[Signature]) -> Kinds:
    """The kinds of layers of a recording. Raises ``InputError`` where the signatures do not decide the kind."""
    layers = _layers(program)
    kinds: dict[Any, int] = {}
    kind_of = [
        kinds.setdefault((body, rows), i) for i, (body, rows) in enumerate(zip(program.layers, layers, strict=True))
    ]
    for looks_at in LOOKS_AT:
        table: dict[Signature, int] = {}
        if all(table.setdefault(_key(looks_at, signatures, i), kind) == kind for i, kind in enumerate(kind_of)):
            return Kinds(looks_at, table)
    raise InputError(
        f"the layers' kinds {shown(kind_of)} do not follow from the config; there is no rule for such a model"
    )


def smallest(program: Program, kinds: Kinds) -> tuple[Program, Kinds]:
    """The program with one layer of each kind, and the rule for it."""
    like = sorted(set(kinds.table.values()))
    return deepened(program, like), Kinds(kinds.looks_at, {key: like.index(old) for key, old in kinds.table.items()})


def deepened(program: Program, like: Sequence[int]) -> Program:
    """A program of as many layers as ``like`` has entries, each like that layer of the given program."""
    if not program.layers or not like:
        raise InputError("a program without layers has no other depth")
    old = [program.path.format(i) for i in range(len(program.layers))]

    def renaming(i: int) -> Callable[[str], str]:
        before, after = old[like[i]], program.path.format(i)
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
        after=tuple([renamed(event, slot, str) for event in program.after]),
        outputs={name: renamed(ref, slot, str) for name, ref in program.outputs.items()},
    )


def _layers(program: Program) -> list[tuple[Any, ...]]:
    """For each layer, its rows with paths that begin at the layer."""
    paths = [program.path.format(i) for i in range(len(program.layers))]
    found: list[list[Any]] = [[] for _ in paths]
    for rows in (program.modules, program.parameters, program.buffers):
        given: Sequence[NamedModule[Any] | Stored] = rows
        numbers = layer_numbers([row[0] for row in given], paths)
        for row in given:
            if (number := numbers.get(row[0])) is not None:
                found[number].append((row[0][len(paths[number]) :], *row[1:], row[0] in program.plain))
    return [tuple(rows) for rows in found]
