"""Lists with an entry for each layer, which a config need not have."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.config_values import (
    LARGEST_LIST,
    default_list,
    flattened,
    letters_of,
    nested,
    number_of,
    one_for_all,
    runs,
)

EVERY = {"period": ["some", "last"], "every": "k"}
NUMBERS = {"numbers": "k", "listed": "listed", "others": "other"}
FROM = {"from": "k", "below": "below", "above": "above"}


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ({"period": ["a", "b"]}, None, ["a", "b", "a", "b", "a"]),
        (EVERY, None, ["some", "last", "some", "last", "some"]),
        (EVERY, 3, ["some", "some", "last", "some", "some"]),
        (EVERY, 9, ["some"] * 5),
        (NUMBERS, None, ["listed"] * 5),
        (NUMBERS, [1, 3], ["other", "listed", "other", "listed", "other"]),
        (NUMBERS, [], ["other"] * 5),
        (FROM, 0, ["above"] * 5),
        (FROM, 2, ["below", "below", "above", "above", "above"]),
    ],
)
def test_a_list_by_its_rule(rule: dict[str, Any], value: Any, expected: list[str]) -> None:
    assert default_list(rule, {"k": value}, 5, "kinds") == expected


@pytest.mark.parametrize(("rule", "value"), [(NUMBERS, "1"), (NUMBERS, [True]), (FROM, False), (FROM, -1), (None, 1)])
def test_values_that_are_none_of_a_rule(rule: Any, value: Any) -> None:
    with pytest.raises(InputError):
        default_list(rule, {"k": value}, 5, "kinds")


def test_a_size_of_each_layer_is_one_where_all_are_equal() -> None:
    for value, one in (
        ([4, 4, 4], 4),
        ((7,), 7),
        ([4, 5, 4], [4, 5, 4]),
        ([], []),
        ([True, True], [True, True]),
        (3, 3),
    ):
        assert one_for_all(value) == one


def test_letters_stand_for_the_kinds_of_layers() -> None:
    """One letter, one kind: Nemotron-H's ``hybrid_override_pattern``."""
    assert letters_of("M*M-", ["mamba", "attention", "mamba", "mlp"]) == {"M": "mamba", "*": "attention", "-": "mlp"}
    assert letters_of("M*MM", ["mamba", "attention", "mamba", "mlp"]) is None
    assert letters_of("M*M", ["mamba", "attention", "mamba", "mlp"]) is None
    assert letters_of(["M"], ["mamba"]) is None


def test_runs_of_entries() -> None:
    """``[[entries, times], ...]``, of no more entries than a config may list."""
    assert runs([[["a", "b"], 2], [("c",), 1]]) == ["a", "b", "a", "b", "c"]
    assert runs(()) == []
    assert runs([[["a"], LARGEST_LIST]]) == ["a"] * LARGEST_LIST
    for wrong in ("ab", 3, [3], [["a", 2]], [[["a"], 2, 1]], [[["a"], True]], [[["a"], 0]], [[[], 2]]):
        assert runs(wrong) is None
    assert runs([[["a"], LARGEST_LIST + 1]]) is None
    assert [number_of(one) for one in (7, [1, 2, 3], (4, 5))] == [7, 3, 2]


def test_keys_of_parts_stand_behind_the_part() -> None:
    config = {"model_type": "llava", "vision_config": {"depth": 3}, "text_config": None, "other": {"depth": 4}}
    flat = flattened(config)
    assert flat == {"model_type": "llava", "vision_config.depth": 3, "text_config": None, "other": {"depth": 4}}
    assert nested(flat) == config
