"""Loops within a layer are found in its events. Witness: events that are written here, pass by pass."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.programs.program import SPAN, Body, Call, Drop, DtypeOf, Exit, Made, Ref, Repeat
from estimator.programs.substitution import PASS, sizes_symbol
from estimator.recorder.loops import _difference, _rolled

NUMBER = sizes_symbol(PASS)


def layer(passes: int, length: int = 8, before: int = 0, changed: int = -1) -> list[Any]:
    """``before`` events, passes of so many, each given the result before it and an index that grows by four, and an
    end that is given the last result. One event has another name where it is ``changed``."""
    made = [Call("first", (Ref(SPAN + i),), (), (Made(SPAN + i + 1, (2, 3), "float32"),)) for i in range(before)]
    for number in range(passes * length):
        slot, op = SPAN + before + number, "other" if number == changed else f"op {number % length}"
        out = (Made(slot + 1, (2, 3), "float32"),)
        made.append(Call(op, (Ref(slot), 4 * (number // length) + 1), (("dtype", DtypeOf(slot, "float32")),), out))
    last = SPAN + before + passes * length
    return [*made, Call("last", (Ref(last),), (), (Made(last + 1, (2,), "float32"),)), Exit("{}", (Ref(last + 1),))]


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("length", [8, 11])
def test_passes_behind_the_first_are_a_loop(before: int, length: int) -> None:
    """What follows counts its slots as behind the first pass."""
    body = Body(tuple(layer(5, length, before)), 0)
    found = _rolled(body, SPAN)
    start, first = before + length, SPAN + before + length
    loop: Any = found.events[start]
    assert isinstance(loop, Repeat)
    assert (loop.count, loop.first, loop.stride, len(loop.events)) == (4, first, length, length)
    assert loop.events[0].args == (Ref(first), 5 + 4 * NUMBER)
    assert loop.events[0].out == (Made(first + 1, (2, 3), "float32"),)
    assert found.events[:start] == body.events[:start]
    assert found.events[start + 1].args == (Ref(first),)  # type: ignore[union-attr]
    assert (len(found.events), found.exit) == (start + 3, start + 2)


@pytest.mark.parametrize(
    ("events", "used_later"),
    [
        (layer(2), SPAN),
        (layer(5, 7), SPAN),
        (layer(3, changed=20), SPAN),
        (layer(5), SPAN + 41),
    ],
    ids=["two passes", "short ones", "another call in the third", "slots that others use"],
)
def test_what_is_no_loop(events: list[Any], used_later: int) -> None:
    assert _rolled(Body(tuple(events), 0), used_later).events == tuple(events)


def test_what_differs_between_passes() -> None:
    """An index grows evenly, a slot by as much as before; anything else is the same or is no loop."""
    moved: dict[int, int] = {}
    assert _difference(Ref(5), Ref(8), moved) == Ref(5)
    assert (_difference(Drop(5), Drop(8), moved), _difference(Drop(5), Drop(9), moved)) == (Drop(5), None)
    assert moved == {5: 3}
    assert _difference(Made(5, (2,), "int64"), Made(8, (2,), "int64"), moved) == Made(5, (2,), "int64")
    for other in (Made(9, (2,), "int64"), Made(8, (3,), "int64"), Ref(8)):
        assert _difference(Made(5, (2,), "int64"), other, moved) is None
    assert _difference(DtypeOf(5, "int64"), DtypeOf(8, "int64"), moved) == DtypeOf(5, "int64")
    for of_dtype in (DtypeOf(8, "int32"), DtypeOf(7, "int64")):
        assert _difference(DtypeOf(5, "int64"), of_dtype, moved) is None
    assert (_difference(2, 2, moved), _difference(2, 5, moved)) == (2, 2 + 3 * NUMBER)
    assert _difference((1, None, "x"), (3, None, "x"), moved) == (1 + 2 * NUMBER, None, "x")
    for one, other in ((("x",), ("y",)), ((1,), (1, 1)), (1.0, 2.0), (True, False)):
        assert _difference(one, other, moved) is None
