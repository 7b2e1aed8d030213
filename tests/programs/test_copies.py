"""How the lists of a file share their rows."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.errors import InputError
from estimator.programs.program_files import copies
from estimator.programs.program_files.copies import Asked, Lists, Writer, where_one


def wrong(place: str, what: str) -> NoReturn:
    raise InputError(f"{place}: {what}")


def lists_of(rows: list[Any], stored: bool = False) -> Lists:
    return Lists([Asked(one, lambda row: row, f"list {i}", stored) for i, one in enumerate(rows)], wrong)


ROWS = st.lists(st.sampled_from(["a", "b", "c"]).map(lambda x: [x * 30, 1]) | st.just(3), max_size=40)


@given(st.lists(ROWS, max_size=5))
def test_lists_are_read_as_they_were_written(lists: list[list[Any]]) -> None:
    writer = Writer()
    read = lists_of([writer.written(rows) for rows in lists])
    assert [read.whole(i) for i in reversed(range(len(lists)))] == lists[::-1]


WEIGHTS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["*", "int8"])).map(lambda x: [x[0] * 30, x[1], 1]))


@given(st.lists(WEIGHTS, max_size=4))
def test_weights_are_read_as_they_were_written(lists: list[list[Any]]) -> None:
    writer = Writer()
    read = lists_of([writer.written(rows, stored=True) for rows in lists], stored=True)
    assert [read.whole(i) for i in range(len(lists))] == lists


def rows(*words: str) -> list[Any]:
    return [[word, "x" * 20] for word in words]


def test_a_list_has_what_is_in_none_before_it() -> None:
    writer = Writer()
    assert writer.written(rows("a", "b", "c")) == rows("a", "b", "c")
    assert writer.written(rows("d", "e")) == rows("d", "e")
    assert writer.written(rows("b", "c", "d", "f", "a")) == [[1, 4], *rows("f"), [0, 1]]
    assert writer.written(rows("c", "d", "f")) == [[6, 9]]  # of the last list, which has all three in a row
    assert writer.written([["g"], ["g"]]) == [["g"], ["g"]]
    assert writer.written([["g"]]) == [["g"]]  # its place is no shorter


def test_rows_of_several_lists_are_taken_at_once() -> None:
    read = lists_of([rows("a", "b"), [], rows("c"), [[1, 3]], [[0, 5], *rows("d")]])
    assert read.whole(4) == rows("a", "b", "c", "b", "c", "d")
    assert read.whole(1) == []


def test_weights_of_other_dtypes() -> None:
    writer = Writer()
    first = [["a" * 20, "*", [1]], 0, ["{}b" * 9, "*", [2]], ["{}c" * 9, "float32", [2]]]
    assert writer.written(first, stored=True) == first
    other = [["a" * 20, "int8", [1]], 0, ["{}b" * 9, "int8", [2]], ["{}c" * 9, "float32", [2]]]
    assert writer.written(other, stored=True) == [[0, 3, "int8"], [3, 4]]
    assert lists_of([first, [[0, 3, "int8"], [3, 4]]], stored=True).whole(1) == other


def test_what_has_a_dtype() -> None:
    """A name and a dtype at least, also in a list of weights."""
    copy = [[0, 1, "int8"]]
    assert lists_of([[["a", "*"]], copy], stored=True).whole(1) == [["a", "int8"]]
    for row in (["a"], "ab", {"a": 1, "b": 2}):
        with pytest.raises(InputError, match="is a dtype of what has none"):
            lists_of([[row], copy], stored=True).whole(1)


def test_what_a_program_takes_from_another_where_symbols_are_one() -> None:
    writer = Writer({"H"})
    writer.written([["view", ["=B*S", "B", 3], {"size": "=B+2"}], ["add", "=H*S+S*H" * 3]])
    own = [["view", ["=S", "B", 3], {"size": 3}], ["add", "=H*S+S*H" * 3]]
    assert writer.written(own, ["B"]) == [[0, 2]]
    assert writer.written(own) == [[2, 4]]
    assert where_one(["B"], ["H"])(["=B*H", "=H*2", "=3*B", "B", 4]) == ["=H", "=H*2", 3, "B", 4]
    with pytest.raises(InputError, match="which is no symbol"):
        where_one(["B"], [])("=B*other_size")


def test_an_earlier_row_with_an_expression_that_is_none() -> None:
    asked = [Asked([["=B*"]], lambda row: row, "list 0"), Asked([[0, 1]], where_one(["B"], []), "list 1")]
    with pytest.raises(InputError, match="list 1: an earlier row has an expression that is none"):
        Lists(asked, wrong).whole(1)


def test_so_many_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_EVENTS", 8)
    monkeypatch.setattr(copies, "MOST_OF_FILE", 20)
    eight = [["x"]] * 8
    assert lists_of([eight, [[0, 8]], [["x"]] * 4]).whole(1) == eight
    with pytest.raises(InputError, match="list 1: it has more than 8 rows"):
        lists_of([eight, [[0, 8], ["x"]]])
    with pytest.raises(InputError, match="list 2: the file has more than 20 rows"):
        lists_of([eight, [[0, 8]], [["x"]] * 5])


@pytest.mark.parametrize("row", [[0, 2], [-1, 1], [1, 0]])
def test_places_are_those_before(row: list[int]) -> None:
    with pytest.raises(InputError, match="are no places before it"):
        lists_of([[["a"]], [row]])


def test_what_stands_for_rows() -> None:
    """Two places, and perhaps a dtype; whatever else a list has is a row of its own."""
    read = lists_of([[["a"]], [[0, 0]], [[0, "x"], [0, 1, 2, 3], ["x", 0], [0], 0, [True, 1]], [[0, 1]]])
    assert [read.whole(i) for i in (1, 3)] == [[], [["a"]]]
    assert read.whole(2) == [[0, "x"], [0, 1, 2, 3], ["x", 0], [0], 0, [True, 1]]
    asked = [Asked(one, lambda row: row, "steps") for one in ([["a", "b"]], [[0, 1, "int8"]])]
    with pytest.raises(InputError, match="steps: 'int8' is a dtype of what has none"):
        Lists(asked, wrong).whole(1)


def test_what_is_no_list() -> None:
    with pytest.raises(InputError, match="list 0: it must be a list"):
        lists_of([{"a": 1}])


def test_lists_that_stand_for_each_other_are_read_without_end() -> None:
    """Each takes the one before; there are more of them than calls may be nested."""
    assert lists_of([[["a"]], *([[n, n + 1]] for n in range(5000))]).whole(5000) == [["a"]]
