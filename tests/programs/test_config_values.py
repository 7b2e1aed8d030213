"""Lists with an entry for each layer, which a config need not have."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.errors import InputError
from estimator.programs.config_values import default_list, one_for_all

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
