"""Values of a config.json: what is no number, no switch or no list is one line that names the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from estimator.engines.llama_cpp.config_keys import ConfigKeys
from estimator.errors import InputError

READ: dict[str, Callable[[ConfigKeys], Any]] = {
    "number": lambda keys: keys.number("key", least=2),
    "flag": lambda keys: keys.flag("key", True),
    "factor": lambda keys: keys.factor("key", 0.5),
    "kinds": lambda keys: keys.kinds("key", 2),
}
TAKEN: list[tuple[str, Any, Any]] = [
    ("number", 2, 2), ("number", 10**8, 10**8), ("flag", False, False), ("flag", None, True), ("factor", 3, 3.0),
    ("factor", 0.25, 0.25), ("factor", None, 0.5), ("kinds", ["a", "b"], ["a", "b"]), ("kinds", None, None),
]  # fmt: skip
REFUSED: list[tuple[str, Any, str]] = [
    ("number", None, "key is missing"),
    ("number", True, "must be a whole number"),
    ("number", 2.0, "must be a whole number"),
    ("number", 1, "must be between 2 and 100000000"),
    ("number", 10**8 + 1, "must be between 2 and 100000000"),
    ("flag", 1, "must be true or false"),
    ("factor", True, "must be a number"),
    ("factor", "1", "must be a number"),
    ("kinds", ["a"], "must list one type for each of the 2 layers"),
    ("kinds", ["a", 1], "must list one type for each of the 2 layers"),
    ("kinds", "ab", "must list one type for each of the 2 layers"),
]


@pytest.mark.parametrize(("kind", "value", "read"), TAKEN)
def test_what_is_taken(kind: str, value: Any, read: Any) -> None:
    assert READ[kind](ConfigKeys({"key": value}, "config.json")) == read


@pytest.mark.parametrize(("kind", "value", "words"), REFUSED)
def test_what_is_refused(kind: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"^config.json: key .*{words}|^config.json: {words}"):
        READ[kind](ConfigKeys({"key": value}, "config.json"))


def test_a_default_takes_the_place_of_a_number_alone() -> None:
    assert ConfigKeys({}, "config.json").number("key", 7) == 7
    assert ConfigKeys({"key": 3}, "config.json").number("key", 7) == 3
