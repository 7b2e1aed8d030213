"""Lists of tensors by one name, written out. Witness: by hand. ``recorder/test_rows.py`` folds recorded loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.program import SPAN, Body, Call, Drop, Enter, Event, Exit, GradMode, Made, Program, Ref
from estimator.programs.rows import (
    ALL,
    LAST,
    LISTS,
    MEMBERS,
    MOST,
    OF_A_KIND,
    OTHERS,
    OUTSIDE,
    Rows,
    has_lists,
    listed,
    of_list,
    written_out,
)


def call(op: str, args: Sequence[Any], *slots: int, **keywords: Any) -> Call:
    return Call(op, tuple(args), tuple(keywords.items()), tuple(Made(slot, (3,), "float32") for slot in slots))


def test_slots_of_lists() -> None:
    """Four for each list, so many lists for each kind of loop."""
    assert of_list(0) == LISTS
    assert of_list(5, LAST) == LISTS + 21
    assert of_list(5, OTHERS, kind=2) == LISTS + 2 * OF_A_KIND + 22
    for kind in (0, 1, 3):
        assert Rows(3, (call("exp", (Ref(7),), of_list(0, kind=kind)), Drop(of_list(9, kind=kind)))).kind == kind


FIRST, SECOND = MEMBERS, MEMBERS + MOST
"""The first member of the first list, and of the second."""


def test_a_loop_is_written_out_row_by_row() -> None:
    """Each row has its own tensors. The next row drops a variable of the row before, and the first row none."""
    mine, before = of_list(0), of_list(1)
    loop = Rows(
        0,
        (
            call("exp", (Ref(mine), Ref(7)), before),
            Drop(of_list(1, LAST)),
            Drop(mine),
            Drop(7),
        ),
    )
    found = written_out((loop,), {0: 3})
    assert found == (
        *(call("exp", (Ref(FIRST), Ref(7)), SECOND), Drop(FIRST), Drop(7)),
        *(call("exp", (Ref(FIRST + 1), Ref(7)), SECOND + 1), Drop(SECOND), Drop(FIRST + 1), Drop(7)),
        *(call("exp", (Ref(FIRST + 2), Ref(7)), SECOND + 2), Drop(SECOND + 1), Drop(FIRST + 2), Drop(7)),
    )


def test_outside_of_loops_a_name_is_all_members_the_last_or_the_others() -> None:
    events: tuple[Event, ...] = (
        call("unbind", (Ref(1), 0), of_list(0)),
        call("cat", ((Ref(of_list(0)), Ref(2)), 1), 3, tensors=(Ref(of_list(0)),)),
        call("neg", (Ref(of_list(0, LAST)),), 4),
        Enter("tower", (Ref(of_list(0, LAST)),), ()),
        Drop(of_list(0, OTHERS)),
        Drop(of_list(0, LAST)),
        Drop(4),
        GradMode(False),
    )
    members = [Ref(FIRST + row) for row in range(3)]
    assert written_out(events, {0: 3}) == (
        call("unbind", (Ref(1), 0), FIRST, FIRST + 1, FIRST + 2),
        call("cat", ((*members, Ref(2)), 1), 3, tensors=tuple(members)),
        call("neg", (members[2],), 4),
        Enter("tower", (members[2],), ()),
        *map(Drop, (FIRST, FIRST + 1)),
        Drop(FIRST + 2),
        Drop(4),
        GradMode(False),
    )
    second = of_list(0, kind=1)
    assert written_out((Drop(second),), {0: 5, 1: 2}) == (
        *map(Drop, (MEMBERS + OF_A_KIND // 4 * MOST, MEMBERS + OF_A_KIND // 4 * MOST + 1)),
    )
    assert written_out((Drop(of_list(0, ALL)),), {0: 2}, 100) == (Drop(100), Drop(101))


def test_lists_side_by_side_take_turns() -> None:
    """Such as two images of each row: first those of the first row."""
    one, two = of_list(0), of_list(1)
    found = written_out(
        (call("unbind", (Ref(1), (4,), 0), one, two), call("cat", ((Ref(one), Ref(two)), 1), 3), Drop(two)), {0: 2}
    )
    slots = FIRST, SECOND, FIRST + 1, SECOND + 1
    assert found == (
        call("unbind", (Ref(1), (4, 4, 4, 4), 0), *slots),
        call("cat", (tuple(map(Ref, slots)), 1), 3),
        *map(Drop, (SECOND, SECOND + 1)),
    )


def test_too_many_members_are_refused() -> None:
    assert written_out((), {0: MOST - 1}) == ()
    with pytest.raises(InputError, match="no rule for 4,096 rows or images; 4,095 are the most"):
        written_out((), {0: 3, 1: MOST})


def test_lists_that_a_program_makes_outside_its_layers() -> None:
    """An output of a list is one of each of its tensors, and another output stays."""

    def program(before: tuple[Event, ...], after: tuple[Event, ...], **outputs: Ref) -> Program:
        return Program((), (), (), (), {"pixels": 1}, outputs, before, (), (), after)

    made = call("unbind", (Ref(1), 0), of_list(0))
    folded = program((made,), (Drop(of_list(0, OTHERS)), Exit("m", (Ref(2),))), images=Ref(of_list(0)), loss=Ref(2))
    assert has_lists(folded)
    assert not has_lists(program((call("exp", (Ref(1),), MEMBERS),), ()))
    assert listed(folded, 2) == program(
        (call("unbind", (Ref(1), 0), OUTSIDE, OUTSIDE + 1),),
        (Drop(OUTSIDE), Exit("m", (Ref(2),))),
        **{"images.0": Ref(OUTSIDE), "images.1": Ref(OUTSIDE + 1), "loss": Ref(2)},
    )


def test_lists_that_a_layer_makes() -> None:
    """Slots of a layer follow that of its result."""

    def program(*events: Event) -> Program:
        body = (*events, Exit("{}", (Ref(SPAN),)))
        return Program((), (), (), (), {}, {}, (), (Body(body, len(events)),), (0,), ())

    folded = program(call("unbind", (Ref(2 * SPAN), 0), of_list(0)), Drop(of_list(0, OTHERS)))
    first = SPAN + OUTSIDE
    assert listed(folded, 2) == program(call("unbind", (Ref(2 * SPAN), 0), first, first + 1), Drop(first))
