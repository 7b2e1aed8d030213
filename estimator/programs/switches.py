"""Keys of a config that decide which parameters a model has, and nothing else: biases, tied embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .program import Body, Program, Weight, layer_numbers, with_weights


class Switch(NamedTuple):
    """A key of a config that decides which parameters there are, and nothing else: biases, tied embeddings.

    ``value`` is the recorded one, at which a model has the most. A model of the other lacks ``fewer``: names, with
    ``{}`` for the path of each layer, which calls are given nothing for. ``tied`` are another one's then.
    """

    value: bool
    fewer: tuple[str, ...]
    tied: Mapping[str, str]


def switched(program: Program, switches: Sequence[Switch]) -> Program:
    """The program of a model with the other values of some switches."""
    if not switches:
        return program
    fewer = [name for one in switches for name in one.fewer]
    tied = {name: other for one in switches for name, other in one.tied.items()}
    gone = {name.replace("{}", path, 1) for name in fewer for path in (program.paths if "{}" in name else [""])}
    weights = {name: Weight(tied[name]) if name in tied else None for name in fewer}
    return replace(
        program,
        before=with_weights(program.before, weights),
        between=with_weights(program.between, weights),
        bodies=tuple([Body(with_weights(body.events, weights), body.exit) for body in program.bodies]),
        after=with_weights(program.after, weights),
        parameters=tuple([one for one in program.parameters if one.name not in gone]),
        modules=tuple([row._replace(bias=False) if f"{row.path}.bias" in gone else row for row in program.modules]),
        tied={**program.tied, **tied},
    )


def switch(a: Program, b: Program) -> tuple[Program, Switch] | None:
    """Of two programs that differ in which parameters there are, the one with more, and what the other has not.

    ``None`` where they differ in more. The switch has no value yet.
    """
    more, less = (a, b) if len(a.parameters) > len(b.parameters) else (b, a)
    paths = more.paths
    names_ = {one.name for one in less.parameters}
    gone = [one.name for one in more.parameters if one.name not in names_]
    numbers = layer_numbers(gone, paths)
    fewer = dict.fromkeys("{}" + name[len(paths[numbers[name]]) :] if name in numbers else name for name in gone)
    tied = {name: other for name, other in less.tied.items() if name not in more.tied}
    found = Switch(True, tuple(fewer), tied)
    known = all(name in tied or name.endswith("bias") for name in gone)  # a call may be given no bias
    return (more, found) if gone and known and switched(more, [found]) == less else None
