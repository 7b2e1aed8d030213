"""How slots are named in the lists of a file: what is named is found again, by whoever reads the list in its order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.programs.program import SPAN
from estimator.programs.program_files.limits import MOST_LAYERS
from estimator.programs.program_files.slots import NEAR, Slots, slot_number, slot_text
from estimator.programs.rows import of_list

SLOTS = (
    st.integers(0, 90) | st.integers(0, 90).map(lambda own: SPAN + own) | st.just(3 * SPAN + 7) | st.just(of_list(2))
)
ASKED = st.tuples(st.sampled_from(["text", "text_of_made", "text_of_next"]), SLOTS)


@given(st.booleans(), st.lists(SLOTS, max_size=4), st.lists(ASKED, max_size=200))
def test_what_is_named_is_found_again(layer: bool, given_: list[int], asked: list[tuple[str, int]]) -> None:
    wrote, reads = Slots(layer), Slots(layer)
    for one in (wrote, reads):
        one.given(given_)
    for how, slot in asked:
        name = getattr(wrote, how)(slot)
        assert getattr(reads, how.replace("text", "number"))(name) == slot


@pytest.mark.parametrize(
    ("slot", "text"),
    [
        (7, "7"),
        (SPAN, ".0"),
        (SPAN + 12, ".12"),
        (2 * SPAN, "1.0"),
        (5 * SPAN + 3, "4.3"),
        ((MOST_LAYERS + 1) * SPAN + SPAN - 1, f"{MOST_LAYERS}.{SPAN - 1}"),
    ],
)
def test_a_slot_as_it_is(slot: int, text: str) -> None:
    assert slot_text(slot) == text
    assert slot_number(text) == slot


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "x",
        "-1",
        "1.",
        "1.x",
        "\u0663",
        "1.2.3",
        str(SPAN),
        f".{SPAN}",
        f"{MOST_LAYERS + 1}.0",
        "9" * 40,
        None,
        3,
        "~",
        "^",
    ],
)
def test_what_is_no_slot(text: object) -> None:
    assert slot_number(text) is None


def test_names_are_counted_back_from_the_latest_result() -> None:
    slots = Slots(layer=True)
    slots.given([4, 2 * SPAN])
    assert [slots.text_of_made(SPAN + n) for n in (0, 1, 2, 9, 10, 5)] == ["~", "~", "~", ".9", "~", ".5"]
    assert [slots.text(SPAN + n) for n in (5, 10, 9, 0)] == ["~1", "~2", "~3", "~6"]
    assert [slots.text(slot) for slot in (4, 2 * SPAN, 5, 3 * SPAN, SPAN + 7)] == ["^0", "^1", "5", "2.0", ".7"]
    assert slots.text_of_next(SPAN + 6) == "~"
    for name in ("~7", "~0", "~-1", "^2", "^-1", "~x", "~", "^"):
        assert slots.number(name) is None


def test_the_oldest_result_that_is_counted_back() -> None:
    slots = Slots()
    for slot in range(NEAR + 1):
        slots.text_of_made(slot)
    assert slots.text(1) == f"~{NEAR}"
    assert slots.text(0) == "0"


def test_the_first_call_of_a_layer_gives_its_tensors() -> None:
    slots = Slots(layer=True)
    slots.given([5, 5, 6])
    slots.given([7])
    assert [slots.text(slot) for slot in (5, 6, 7)] == ["^0", "^1", "7"]


def test_lists_of_a_batch_are_named_as_they_are() -> None:
    """They are as many as a batch has rows, so none is the next."""
    slots = Slots()
    assert slots.text_of_made(of_list(0)) == str(of_list(0))
    assert slots.text(of_list(0)) == str(of_list(0))
    assert slots.text_of_made(0) == "~"
