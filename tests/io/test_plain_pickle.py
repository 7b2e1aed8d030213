"""Pickles of plain values."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.errors import InputError
from estimator.io import plain_pickle
from estimator.io.plain_pickle import loads, read_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**120), 2**120) | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(max_size=9) | st.integers(-(2**70), 2**70), inner)
    ),
    max_leaves=40,
)


@settings(max_examples=38, deadline=None)
@given(PLAIN, st.integers(2, 5))
def test_plain_values_are_read(value: Any, protocol: int) -> None:
    """Witness: CPython's pickle, which writes them."""
    read = loads(pickle.dumps([value, value], protocol=protocol))
    assert read == [value, value]
    assert repr(read) == repr([value, value])


@settings(max_examples=75, deadline=None)
@given(st.binary(max_size=60), st.integers(2, 5))
def test_any_bytes_are_read_or_refused(content: bytes, protocol: int) -> None:
    """Nothing but one kind of error, whatever the instructions."""
    with contextlib.suppress(InputError):
        loads(bytes([0x80, protocol]) + content + b".")


def test_other_keys_are_not_kept() -> None:
    """Of dictionaries at every depth."""
    value = [{"size": 1, "time_us": 2, "frames": [{"line": 3, "x": 4}]}]
    read = loads(pickle.dumps(value), ("size", "frames", "line"))
    assert read == [{"size": 1, "frames": [{"line": 3}]}]


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"\x80\x02]K\x01a.", [1]),
        (b"\x80\x02(K\x01K\x02l.", [1, 2]),
        (b"\x80\x02(K\x01K\x02d.", {1: 2}),
        (b"\x80\x02}K\x01K\x02s.", {1: 2}),
        (b"\x80\x02(K\x01K\x02t.", (1, 2)),
        (b"\x80\x02]r\x00\x00\x00\x00j\x00\x00\x00\x00a.", None),
    ],
    ids=("append", "list", "dict", "setitem", "tuple", "itself"),
)
def test_instructions_that_others_write(content: bytes, value: Any) -> None:
    """Witness: CPython reads the same."""
    found, expected = loads(content), pickle.loads(content)
    if value is None:  # a list in itself
        assert found[0] is found
        assert expected[0] is expected
    else:
        assert found == expected == value


@pytest.mark.parametrize(
    "content",
    [
        b"K\x01K\x02a.",  # to no list
        b"a.",
        b"s.",
        b"}K\x01s.",  # no value
        b"}(K\x01u.",
        b"}NK\x01s.",  # a key that is no text and no number
        b"\x85.",
        b"K\x01\x86.",
        b"\x8c\x05abc.",
        b"]q\x01.",  # not the next place
        b"h\x00.",
    ],
)
def test_damaged(content: bytes) -> None:
    with pytest.raises(InputError, match="damaged"):
        loads(b"\x80\x04" + content)


@pytest.mark.parametrize("limit", ["MOST_BYTES", "LONGEST_NUMBER", "MOST_INSTRUCTIONS"])
def test_limits(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is as large as the limit is read, and one byte or instruction more is not."""
    content = pickle.dumps([1 << 100, 2], protocol=2)  # protocol, list, mark, two numbers, append, end, and its memo
    least = {
        "MOST_BYTES": len(content),
        "LONGEST_NUMBER": 13,
        "MOST_INSTRUCTIONS": 8,
    }[limit]
    file = tmp_path / "x.pickle"
    file.write_bytes(content)
    monkeypatch.setattr(plain_pickle, limit, least)
    assert read_pickle(file, "a pickle") == [1 << 100, 2]
    monkeypatch.setattr(plain_pickle, limit, least - 1)
    with pytest.raises(InputError, match=r"x\.pickle.*; give a pickle"):
        read_pickle(file, "a pickle")


def test_what_values_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a list, three numbers and nine bytes for each of its places; looked at before the last instruction."""
    content = b"\x80\x02](M\x01\x01M\x02\x02M\x03\x03e."
    monkeypatch.setattr(plain_pickle, "_CHECKED", 7)
    monkeypatch.setattr(plain_pickle, "MOST_HELD", 64 + 3 * 32 + 3 * 9)
    assert loads(content) == [257, 514, 771]
    monkeypatch.setattr(plain_pickle, "MOST_HELD", 64 + 3 * 32 + 3 * 9 - 1)
    with pytest.raises(InputError, match="its values take more"):
        loads(content)


def test_nothing_is_appended_to_itself() -> None:
    """What is appended needs a list below it: at the bottom of the stack there is none."""
    with pytest.raises(InputError):
        loads(b"]a.")


@pytest.mark.parametrize("start", [b"", b"\x80", b"\x80\x01", b"\x80\x06", b"x\x04"], ids=repr)
def test_what_begins_otherwise_is_no_pickle(start: bytes) -> None:
    with pytest.raises(InputError, match="it is no pickle of protocols 2 to 5"):
        loads(start + pickle.dumps(7, protocol=4)[2:])
