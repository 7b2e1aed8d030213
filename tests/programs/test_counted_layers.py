"""Which layers run, and how many each stands for. By hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estimator.ledger import Ledger
from estimator.ledger.sizes import symbol
from estimator.operators import CPU
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs.layer_runs import Run, TooLong, layers_stood_for, repeats_of, runs_of, segments
from estimator.programs.program import SPAN, Drop

EQUAL, ALTERNATE = (Run(0, 30),), tuple(Run(i, 1, kind=i % 2) for i in range(20))


def rows(runs: tuple[Run, ...], length: int = 1, unrolled: bool = False) -> list[tuple[object, list[int]]]:
    ledger = Ledger(CPU, unrolled=unrolled)
    return [(one.copies, [index for index, _ in one.layers]) for one in segments(runs, length, ledger)]


def test_four_of_equal_layers_run() -> None:
    assert rows(EQUAL) == [(1, [0]), (1, [1]), (27, [2]), (1, [3])]
    assert rows((Run(0, 4),)) == [(1, [i]) for i in range(4)]
    assert rows(EQUAL, unrolled=True) == [(1, [i]) for i in range(30)]
    layers = symbol("L")
    assert rows((Run(0, layers),)) == [(1, [0]), (1, [1]), (layers - 3, [2]), (1, [3])]


def test_four_repetitions_of_a_pattern_run() -> None:
    assert rows(ALTERNATE) == [*((1, [i]) for i in range(4)), (7, [4, 5]), (1, [6]), (1, [7])]


@pytest.mark.parametrize(("count", "last"), [(6, []), (7, [(1, [6])])])
def test_groups_under_one_checkpoint(count: int, last: list[tuple[int, list[int]]]) -> None:
    """The last group is what is left."""
    assert rows((Run(0, count),), 3) == [(1, [0, 1, 2]), (1, [3, 4, 5]), *last]
    assert rows(EQUAL, 3) == [(1, [0, 1, 2]), (1, [3, 4, 5]), (7, [6, 7, 8]), (1, [9, 10, 11])]


def test_every_layer_is_stood_for_once() -> None:
    for runs, length in ((EQUAL, 1), (EQUAL, 3), (ALTERNATE, 1), (ALTERNATE, 3)):
        found = layers_stood_for(runs, Ledger(CPU), length)
        assert sorted(layer for layers in found.values() for layer in layers) == list(range(sum(r.count for r in runs)))
    assert layers_stood_for(EQUAL, Ledger(CPU)) == {0: [0], 1: [1], 2: list(range(2, 29)), 3: [29]}


def test_what_is_made_between_stacks_is_of_no_layer() -> None:
    """A text model's first layer is called with what lies between the tower and it. What follows lets go of that."""
    resolved = resolve(parse_plan({"model": "llava-1.5-7b", "images": 1, "seq": 700}))
    program = resolved.sizes(batch=1, seq=700).program
    tower, text = (stack.depth for stack in program.stacks)

    def looks_back(slot: int) -> bool:
        return replace(program, after=(*program.after, Drop(slot))).looks_back

    assert not program.looks_back
    assert len({*program.kinds}) < 10
    free = program.places[tower] - 1
    assert [looks_back((place + 1) * SPAN) for place in (program.places[0], program.places[tower - 1])] == [True, True]
    assert not looks_back((free + 1) * SPAN)
    assert [looks_back((program.places[tower + text + i] + 1) * SPAN + SPAN - 1) for i in (-2, -1)] == [True, False]


def test_256_runs_are_the_most() -> None:
    kinds = [i * i for i in range(257)]
    assert runs_of(kinds[:256]) == [(i, 1) for i in range(256)]
    assert repeats_of(kinds[:256]) == [(i, 1, 1) for i in range(256)]
    for ask in (runs_of, repeats_of):
        with pytest.raises(TooLong, match="257 runs of equal layers, and 256 are the most"):
            ask(kinds)
