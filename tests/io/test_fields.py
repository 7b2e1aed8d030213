"""The types of values in plans, and the sentence about a value that is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from estimator.errors import InputError
from estimator.io.fields import (
    Block,
    FileName,
    FloatDtype,
    Name,
    Number,
    Rank,
    Whole,
    block_reader,
    checked,
    parse_size,
    torch_dtype,
)


class Own:
    """A whole number of a library's own, as NumPy has."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (Whole, 3, 3), (Whole, Own(), 7), (Whole, -2, -2), (Whole, True, None), (Whole, 3.0, None), (Whole, "3", None),
        (Rank, 1, 1), (Rank, 10**6, 10**6), (Rank, 0, None), (Rank, 10**6 + 1, None), (Rank, 1.5, None),
        (FileName, "\udcff", "\udcff"), (FileName, "", ""), (FileName, 3, None), (FileName, None, None),
        (Name, "x", "x"), (Name, "", None), (Number, 2, 2.0), (Number, 0.5, 0.5), (Number, float("inf"), None),
        (Number, float("nan"), None), (Number, "2", None), (Number, True, None),
        (FloatDtype, "torch.BF16", "bfloat16"), (FloatDtype, "half", "float16"), (FloatDtype, "float", "float32"),
        (FloatDtype, "int8", None), (FloatDtype, 16, None),
    ],
)  # fmt: skip
def test_a_value_is_of_a_type_or_is_not(kind: Any, value: Any, read: Any) -> None:
    """``None`` stands for a value that is refused."""
    adapter = TypeAdapter(kind)
    if read is None:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)
        return
    found = adapter.validate_python(value)
    assert (found, type(found)) == (read, type(read))


def test_other_values_are_no_dtypes() -> None:
    for value in ("nf4", "torch.nf4", "BFLOAT", 16, None, ["fp32"]):
        assert torch_dtype(value) == value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("24GiB", 24 << 30), ("8 GB", 8 * 10**9), (" 512MiB ", 512 << 20), ("1.5KB", 1500), ("1b", 1), ("7 B", 7),
        ("3eib", 3 << 60), ("2kib", 2048), ("2TB", 2 * 10**12), ("4PiB", 4 << 50), ("999999999999999B", 10**15 - 1),
        ("1000000000000000B", "is not a number with a unit; write it like 24GiB, 8GB or 512MiB"),
        ("1.1234567890123456GB", "is not a number with a unit"), ("24", "is not a number with a unit"),
        ("GiB", "is not a number with a unit"), ("--1GB", "is not a number with a unit"), ("1.GB", "is not a number"),
        ("0GB", "is not positive; write it like 24GiB"), ("0.4B", "is not positive"), ("-1GB", "is not positive"),
        (" - 1GB", "is not positive"),
    ],
)  # fmt: skip
def test_sizes(text: str, found: int | str) -> None:
    """By hand: decimal units and those of 1,024."""
    if isinstance(found, int):
        assert parse_size(text) == found
        return
    with pytest.raises(InputError, match=f"^size '{text}' {found}"):
        parse_size(text)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    depth: Whole = 1


def _inner(value: Any) -> Inner:
    if value == "odd":
        raise ValueError("Odd things are refused")
    return value if isinstance(value, Inner) else checked(Inner, value, "the inner block", "inner.")


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rank: Rank
    mode: Literal["fast", "slow", "none"] = "fast"
    only: Literal["one"] = "one"
    either: Annotated[Literal["a", "b"] | Whole, Field()] = "a"
    sizes: list[Annotated[int, Field(ge=2)]] | Literal["all"] = "all"
    inner: Annotated[Inner, Block(_inner)] = Inner()

    @field_validator("rank")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Must be even")
        return value


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "'options.rank' is missing; add it to the plan"),
        ({"rank": 3}, "options.rank: must be even, not 3"),
        ({"rank": 2.5}, "options.rank: must be a whole number, not 2.5"),
        ({"rank": 0}, "options.rank: input should be greater than or equal to 1, not 0"),
        (
            {"rank": 2, "moda": 1},
            "unknown key 'options.moda' of the block (did you mean mode?); known keys are rank, mode, only, either, "
            "sizes, inner",
        ),
        (
            {"rank": 2, "x": 1},
            "unknown key 'options.x' of the block; known keys are rank, mode, only, either, sizes, inner",
        ),
        ({"rank": 2, "mode": "no"}, "options.mode: input should be 'fast', 'slow' or 'none', not 'no'"),
        ({"rank": 2, "only": "two"}, "options.only: input should be 'one', not 'two'"),
        ({"rank": 2, "either": "c"}, "options.either: input should be 'a' or 'b', not 'c'"),
        ({"rank": 2, "sizes": [2, 1]}, "options.sizes: input should be greater than or equal to 2, not 1"),
        ({"rank": 2, "sizes": "none"}, "options.sizes: input should be a valid list, not 'none'"),
        ({"rank": 2, "inner": "odd"}, "options.inner: odd things are refused, not 'odd'"),
        (
            {"rank": 2, "inner": {"deep": 1}},
            "unknown key 'inner.deep' of the inner block (did you mean depth?); known keys are depth",
        ),
        ({"rank": 2, "inner": {"depth": "x"}}, "inner.depth: must be a whole number, not 'x'"),
    ],
)
def test_one_sentence_says_what_is_wrong_with_a_block(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as raised:
        checked(Options, keys, "the block", "options.")
    assert str(raised.value) == says


class Choices(BaseModel):
    """Two fields of literals, one of which may be one of two sets."""

    one: Literal["a", "b"] | Literal["c"] = "a"
    two: Literal["x"] = "x"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"one": "no"}, "one: input should be one of 'a', 'b', 'c', not 'no'"),
        ({"one": "no", "two": "no"}, "one: input should be 'a' or 'b', not 'no'"),
        ({"two": 9}, "two: input should be 'x', not 9"),
    ],
)
def test_the_choices_of_a_key_are_listed_together(keys: dict[str, Any], says: str) -> None:
    """Those of several keys are not: the first key is spoken of."""
    with pytest.raises(InputError) as raised:
        checked(Choices, keys)
    assert str(raised.value) == says


def test_a_block_is_read() -> None:
    read = block_reader(Options, "options", "{rank: 2}")
    given = Options(rank=4)
    assert read(given) is given
    assert read({"rank": 2, "mode": "slow", "inner": {"depth": Own()}}) == Options(
        rank=2, mode="slow", inner=Inner(depth=7)
    )
    with pytest.raises(InputError, match=r"^options must be a block such as \{rank: 2\}$"):
        read("fast")
    with pytest.raises(InputError, match=r"^unknown key 'options\.x' of options; known keys are rank"):
        read({"rank": 2, "x": 1})
    with pytest.raises(InputError, match=r"^unknown key 'x'; known keys are depth"):
        checked(Inner, {"x": 1})


class Holder(BaseModel):
    own: Annotated[Inner, Block(_inner)]
    any_of: Annotated[BaseModel, Block(_inner, lambda: (Inner, Choices))]


def test_a_schema_has_the_models_that_a_block_may_be() -> None:
    """A name stands for a block, too."""
    schema = Holder.model_json_schema()
    own, several = schema["properties"]["own"]["anyOf"], schema["properties"]["any_of"]["anyOf"]
    assert own[0] == several[0] == {"type": "string"}
    assert [one["title"] for one in own[1:]] == ["Inner"]
    assert [one["title"] for one in several[1:]] == ["Inner", "Choices"]
