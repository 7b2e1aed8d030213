"""Loops over the rows of a batch in a recording. The witness is the recording: written out, it calls the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.program import (
    SPAN,
    Autocast,
    Body,
    Call,
    Drop,
    Event,
    Exit,
    Made,
    Program,
    Ref,
    made,
    renamed,
    used,
)
from estimator.programs.rows import MOST, Rows, listed, written_out

recorder = pytest.importorskip("estimator.recorder.rows")
fold_rows, folded, with_slots_in_order = recorder.fold_rows, recorder.folded, recorder.with_slots_in_order


def call(op: str, args: Sequence[Any], *slots: int, shape: tuple[int, ...] = (3,)) -> Call:
    return Call(op, tuple(args), (), tuple(Made(slot, shape, "float32") for slot in slots))


def walk(rows: int, keeps_variable: bool = False) -> tuple[Event, ...]:
    """``torch.stack([row.exp().neg() for row in x])`` of [rows, 3], input slot 0."""
    events: list[Event] = [call("unbind", (Ref(0), 0), *range(1, rows + 1))]
    slot = rows + 1
    last, results = None, []
    for row in range(rows):
        events.append(call("exp", (Ref(1 + row),), slot))
        if last is not None and keeps_variable:
            events.append(Drop(last))
        last = slot
        events.append(call("neg", (Ref(slot),), slot + 1))
        if not keeps_variable:
            events.append(Drop(slot))
        results.append(slot + 1)
        slot += 2
    if keeps_variable:
        events.append(Drop(last))
    events += [Drop(1 + row) for row in reversed(range(rows))]
    events.append(call("stack", (tuple(map(Ref, results)),), slot, shape=(rows, 3)))
    events += [Drop(one) for one in results]
    return tuple(events)


def replayed(events: Sequence[Event]) -> tuple[list[tuple[str, int]], set[int]]:
    """What is called, with how many tensors have names then; and those that are left."""
    live, found = {0}, []
    for event in events:
        if isinstance(event, Drop):
            assert event.slot in live
            live.remove(event.slot)
        else:
            assert isinstance(event, Call)
            live.update(one.slot for one in event.out)
            found.append((event.op, len(live)))
    return found, live


@pytest.mark.parametrize("keeps_variable", [False, True])
@pytest.mark.parametrize("rows", [3, 4, 7])
def test_a_loop_is_folded_and_written_out(rows: int, keeps_variable: bool) -> None:
    events = walk(rows, keeps_variable)
    folded = fold_rows(events, [rows], 1)
    assert sum(isinstance(event, Rows) for event in folded) == 1
    found, left = replayed(written_out(folded, {0: rows}))
    assert (found, len(left)) == (replayed(events)[0], 2)


@pytest.mark.parametrize("keeps_variable", [False, True])
def test_batches_of_other_sizes_fold_alike(keeps_variable: bool) -> None:
    """So a fit finds the same events, and the number of rows is a size."""

    def skeleton(rows: int) -> list[Any]:
        folded = fold_rows(walk(rows, keeps_variable), [rows], 1)
        return [
            [type(x).__name__ for x in event.events] if isinstance(event, Rows) else type(event).__name__
            for event in folded
        ]

    assert skeleton(4) == skeleton(9)


def test_another_number_of_rows_is_written_out() -> None:
    folded = fold_rows(walk(4), [4], 1)
    assert replayed(written_out(folded, {0: 6}))[0] == replayed(walk(6))[0]


def test_a_loop_with_which_the_events_end() -> None:
    events = walk(4)
    loop = events[: max(i for i, event in enumerate(events) if isinstance(event, Call))]
    found = fold_rows(loop, [4], 1)
    assert sum(isinstance(event, Rows) for event in found) == 1
    assert replayed(written_out(found, {0: 4}))[0] == replayed(loop)[0]


def test_calls_that_are_no_loop_stay() -> None:
    events = (call("exp", (Ref(0),), 1), call("exp", (Ref(1),), 2), call("exp", (Ref(2),), 3))
    assert not any(isinstance(event, Rows) for event in fold_rows(events, [3], 1))


def late(rows: int) -> tuple[Event, ...]:
    """``walk``, where each row's first tensor dies as the next row begins, and the last one's at the end."""
    events = [*walk(rows)]
    last = max(i for i, event in enumerate(events) if isinstance(event, Call) and event.op == "neg") + 1
    return (*events[:last], *events[last + 1 :], events[last])


def test_a_variable_that_dies_as_the_next_row_begins() -> None:
    """The last row has no next one."""
    folded = fold_rows(late(5), [5], 1)
    assert sum(isinstance(event, Rows) for event in folded) == 1
    for rows in (5, 3, 8):
        assert replayed(written_out(folded, {0: rows}))[0] == replayed(late(rows))[0]


def test_rows_that_let_go_of_different_things_are_refused() -> None:
    events = [*walk(5)]
    (first, *_) = [i for i, event in enumerate(events) if isinstance(event, Drop)]
    with pytest.raises(InputError, match="let go of different things"):
        fold_rows((*events[:first], *events[first + 1 :], events[first]), [5], 1)


def layer(images: int) -> Program:
    """A program of a layer that splits what it is given, one for each image, and joins it."""
    own = range(SPAN + 2, SPAN + 2 + images)
    events = (
        call("neg", (Ref(2 * SPAN),), SPAN + 1),
        call("split_with_sizes", (Ref(SPAN + 1), (4,) * images, 0), *own),
        call("cat", (tuple(map(Ref, own)),), SPAN),
        *map(Drop, (SPAN + 1, *own)),
        Exit("{}", (Ref(SPAN),)),
    )
    return Program((), (), (), (), {}, {}, (), (Body(events, len(events) - 1),), (0,), ())


def test_a_layer_has_lists_of_its_own() -> None:
    few = folded(layer(5), 5)
    for images in (5, 7):
        assert with_slots_in_order(listed(few, images)).bodies == layer(images).bodies


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no rule for 4,096 rows"):
        written_out((), {0: MOST})


def test_loops_of_two_kinds_have_numbers_of_their_own() -> None:
    """Three rows of one tensor, then four of another, with a pass that begins and ends an autocast."""
    second = [renamed(event, lambda slot: slot + 50 if slot else 0, str) for event in walk(4)]
    cast = [Autocast(event.op == "exp", False) if isinstance(event, Call) else event for event in second]
    both = [one for pair in zip(second, cast, strict=True) for one in pair[: 1 + isinstance(pair[1], Autocast)]]
    folded = fold_rows([*walk(3), *both], [3, 4], 1)
    assert [event.kind for event in folded if isinstance(event, Rows)] == [0, 1]
    for rows, parts in ((3, 4), (5, 2)):
        events = [one for one in written_out(folded, {0: rows, 1: parts}) if not isinstance(one, Autocast)]
        assert [op for op, _ in replayed(events)[0]] == [op for n in (rows, parts) for op, _ in replayed(walk(n))[0]]


def looks(images: int, sizes: bool = False) -> Program:
    """A program that makes a list of its images, with one size for each or not, joins it, and gives it back."""
    members = tuple([Ref(2 + k) for k in range(images)])
    last = 2 + images
    before = (
        call("unbind", (Ref(1), *[(4,) * images] * sizes, 0), *[one.slot for one in members]),
        Drop(1),
        call("cat", (members,), last),
        Exit("model", (Ref(last), *members)),
    )
    outputs = {"loss": Ref(last), **{f"images.{k}": one for k, one in enumerate(members)}}
    return Program((), (), (), (), {"pixels": 1}, outputs, before, (), (), ())


@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("sizes", [False, True])
def test_a_list_outside_the_layers_has_one_name(sizes: bool, each: int) -> None:
    """Of several images of each row the first are a list, the second another one."""
    few = folded(looks(5 * each, sizes), 5)
    assert few.outputs.keys() == {"loss", *({"images"} if each == 1 else {f"images.{k}" for k in range(each)})}
    ours, theirs = listed(few, 7), looks(7 * each, sizes)
    slots = [[x for event in p.before[:3] for x in (*used(event), *made(event))] for p in (ours, theirs)]
    numbers = dict(zip(*slots, strict=True))
    assert tuple([renamed(event, numbers.__getitem__, str) for event in ours.before]) == theirs.before
    assert {name: renamed(x, numbers.__getitem__, str) for name, x in ours.outputs.items()} == theirs.outputs
