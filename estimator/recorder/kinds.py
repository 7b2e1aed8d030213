"""The kinds of layers of a recording, and the rule that says which layer is of which kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError, shown
from ..programs.depth import LOOKS_AT, Kinds, Signature, deepened, key_of
from ..programs.module_table import NamedModule
from ..programs.program import SPAN, Program, Stored, layer_numbers, renamed


def examples(program: Program, signatures: Sequence[Signature], stack: int = 0) -> Kinds:
    """The kinds of layers of a stack of a recording, numbered within it.

    Raises ``InputError`` where the signatures do not decide the kind.
    """
    own = [number for number, k in enumerate(program.stack_of) if k == stack]
    layers = _layers(program)
    kinds: dict[Any, int] = {}
    kind_of = [kinds.setdefault((program.layers[number], layers[number]), i) for i, number in enumerate(own)]
    for looks_at in LOOKS_AT:
        table: dict[Signature, int] = {}
        if all(table.setdefault(key_of(looks_at, signatures, i), kind) == kind for i, kind in enumerate(kind_of)):
            return Kinds(looks_at, table)
    raise InputError(
        f"the layers' kinds {shown(kind_of)} do not follow from the config; there is no rule for such a model"
    )


def smallest(program: Program, *kinds: Kinds) -> tuple[Any, ...]:
    """The program with one layer of each kind of each stack, and the rules for it."""
    own = [sorted(set(one.table.values())) for one in kinds]
    like = [program.stack_of.index(stack) + number for stack, numbers in enumerate(own) for number in numbers]
    rules = [
        Kinds(one.looks_at, {key: numbers.index(old) for key, old in one.table.items()})
        for one, numbers in zip(kinds, own, strict=True)
    ]
    return deepened(program, like), *rules


class SeveralKinds(InputError):
    """Layers of which a config says the same call different things."""


def extended(program: Program, kinds: Kinds, other: Program, signatures: Sequence[Signature]) -> tuple[Program, Kinds]:
    """The program with the kinds of layers of another recording, whose layers are in another order, as its last ones.

    Raises ``InputError`` where the same kind calls something else there.
    """
    outside = [(p.before, p.attributes, p.inputs, _after(p)) for p in (program, other)]
    if outside[0] != outside[1]:
        raise InputError("what is called outside the layers follows from their order; there is no rule for that")
    known = [(program.bodies[i], rows) for i, rows in zip(program.layers, _layers(program), strict=True)]
    table = dict(kinds.table)
    for i, rows in enumerate(_layers(other)):
        key, layer = key_of(kinds.looks_at, signatures, i), (other.bodies[other.layers[i]], rows)
        if key in table and known[table[key]] != layer:
            raise SeveralKinds(f"layers with {shown(key)} are of several kinds; there is no rule for such a model")
        if layer not in known:
            known.append(layer)
            program = _with_layer(program, other, i)
        table[key] = known.index(layer)
    return program, Kinds(kinds.looks_at, table)


def _after(program: Program) -> tuple[Any, ...]:
    """What follows the layers, as if there was one."""
    last = (len(program.layers) - 1) * SPAN
    return tuple(
        [renamed(event, lambda slot: slot - last if slot >= last + SPAN else slot, str) for event in program.after]
    )


def _with_layer(program: Program, other: Program, number: int) -> Program:
    """The program with a layer of another one as its last."""
    count = len(program.layers)
    (stack,) = program.stacks
    old, path = stack.path.format(number), stack.path.format(count)

    def of_layer(name: str) -> bool:
        return name == old or name.startswith(f"{old}.")

    def rows(own: Sequence[Any], others: Sequence[Any]) -> tuple[Any, ...]:
        numbers = layer_numbers([row[0] for row in own], program.paths)
        stop = max((i + 1 for i, row in enumerate(own) if row[0] in numbers), default=0)
        added = [type(row)(path + row[0][len(old) :], *row[1:]) for row in others if of_layer(row[0])]
        return (*own[:stop], *added, *own[stop:])

    def slot(number: int) -> int:
        return number + SPAN if number >= count * SPAN else number

    body = other.bodies[other.layers[number]]
    bodies = program.bodies if body in program.bodies else (*program.bodies, body)
    return replace(
        program,
        modules=rows(program.modules, other.modules),
        parameters=rows(program.parameters, other.parameters),
        buffers=rows(program.buffers, other.buffers),
        plain=program.plain | {path + name[len(old) :] for name in other.plain if of_layer(name)},
        checkpoints=program.checkpoints | {path + name[len(old) :] for name in other.checkpoints if of_layer(name)},
        bodies=bodies,
        layers=(*program.layers, bodies.index(body)),
        stacks=(stack._replace(depth=count + 1),),
        after=tuple([renamed(event, slot, str) for event in program.after]),
        outputs={name: renamed(ref, slot, str) for name, ref in program.outputs.items()},
    )


def _layers(program: Program) -> list[tuple[Any, ...]]:
    """For each layer, its rows with paths that begin at the layer."""
    paths = program.paths
    found: list[list[Any]] = [[] for _ in paths]
    for rows in (program.modules, program.parameters, program.buffers):
        given: Sequence[NamedModule[Any] | Stored] = rows
        numbers = layer_numbers([row[0] for row in given], paths)
        for row in given:
            if (number := numbers.get(row[0])) is not None:
                found[number].append((row[0][len(paths[number]) :], *row[1:], row[0] in program.plain))
    return [tuple(rows) for rows in found]
