"""Lengths as they are given: numbers, histograms and files. Witnesses: what was written, and pyarrow's files."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.errors import InputError
from estimator.plans.lengths import _counts_of, length_options
from tests.helpers.files import written
from tests.helpers.refusals import assert_one_line

data = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@settings(deadline=None, max_examples=8)
@given(samples=data)
def test_every_source_is_the_same(samples: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Asks the other ways to say it: numbers, objects, lists of token ids, a histogram in YAML's and in JSON's keys."""
    folder = tmp_path_factory.mktemp("lengths")
    files = {
        "numbers": "\n".join(map(str, samples)),
        "objects": "".join(f'{{"id": "x", "length": {n}}}\r\n' for n in samples),
        "ids": "\ufeff" + "\n\n".join(json.dumps({"input_ids": [7] * n}) for n in samples),
        "lists": "\n".join(json.dumps([7] * n) for n in samples),
        "named": "\n".join(json.dumps({"n": n, "length": 1}) for n in samples),
    }
    found = {
        length_options({"histogram": Counter(samples)}).read(),
        length_options({"histogram": {str(n): samples.count(n) for n in samples}}).read(),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        block = {"file": str(folder / name), "column": "n"} if name == "named" else str(folder / name)
        found.add(length_options(block).read())
    (one,) = found
    assert one.counts == tuple(sorted(Counter(samples).items()))


def test_options_come_back_from_json() -> None:
    """Asks the contract: a block's dump is a block."""
    options = length_options({"histogram": {512: 9, 2048: 1}, "truncate": 1024})
    dumped = json.loads(json.dumps(options.model_dump()))
    assert length_options(dumped) == options == length_options(options)


def test_lines_are_streamed(tmp_path: Path) -> None:
    """Asks tracemalloc: memory does not grow with the file."""
    file = written(tmp_path / "many.jsonl", '{"length": 512, "text": "some words"}\n' * 30_000)
    tracemalloc.start()
    try:
        assert length_options(file).read().counts == ((512, 30_000),)
        assert tracemalloc.get_traced_memory()[1] < 500_000 < Path(file).stat().st_size
    finally:
        tracemalloc.stop()


def test_a_file_is_read_again_once_it_changed(tmp_path: Path) -> None:
    """Asks the file: the second answer is of its new content."""
    file = tmp_path / "x.jsonl"
    written(file, "5")
    assert _counts_of(file, None) is _counts_of(file, None)
    written(file, "5\n12")
    assert length_options(str(file)).read().counts == ((5, 1), (12, 1))


@pytest.mark.extra("lengths")
@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_parquet(name: str, tmp_path: Path) -> None:
    """Asks pyarrow, which writes the file: counts of three widths and lists of token ids."""
    import pyarrow as pa
    from pyarrow import parquet

    samples = [3, 9, 9, 700, 12] * 1000
    ids = [[1] * length for length in samples]
    columns = {
        "length": pa.array(samples, pa.uint16()),
        "wide": pa.array(samples, pa.int64()),
        "ids": pa.array(ids, pa.list_(pa.int32())),
        "large.ids": pa.array(ids, pa.large_list(pa.int64())),
        "text": pa.array(["x"] * len(samples)),
        "share": pa.array([0.5] * len(samples)),
        "texts": pa.array([["x"]] * len(samples)),
        "holes": pa.array([None, *samples[1:]], pa.int32()),
        "none": pa.array([[], *ids[1:]], pa.list_(pa.int32())),
        "negative": pa.array([-1, *samples[1:]], pa.int32()),
        "fixed": pa.array([[1, 2]] * len(samples), pa.list_(pa.int8(), 2)),
    }
    file = str(tmp_path / name)
    parquet.write_table(pa.table(columns), file, row_group_size=777)
    for column in (None, "length", "wide", "ids", "large.ids"):
        assert (
            length_options({"file": file, "column": column}).read()
            == length_options({"histogram": Counter(samples)}).read()
        )
    assert length_options({"file": file, "column": "fixed"}).read().counts == ((2, 5000),)
    for column, says in {
        "text": "holds string",
        "share": "holds double",
        "texts": "holds list",
        "holes": "None is no count",
        "none": "0 is no count",
        "negative": "-1 is no count",
        "no": "has no column 'no'; it has length, wide, ids",
    }.items():
        check(says, {"file": file, "column": column})
    whole = Path(file).read_bytes()
    for cut in (4, 5, 100, len(whole) // 2, len(whole) - 1):
        check("not a valid parquet file", written(tmp_path / f"cut-{name}", whole[:cut]))
    broken = bytearray(whole)
    broken[10:400] = bytes(390)
    check("not a valid parquet file", written(tmp_path / f"broken-{name}", bytes(broken)))
    parquet.write_table(pa.table({"length": pa.array([], pa.int32())}), file)
    check("has no samples", file)
    parquet.write_table(pa.table({"a": [1], "b": [2]}), file)
    check("has a, b; say in which", file)
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["length", "length"]), file)
    check("has 2 columns 'length'", file)
    parquet.write_table(pa.table({"a": pa.array([{"b": 1}]), "a.b": pa.array([5])}), file)
    assert length_options({"file": file, "column": "a.b"}).read().counts == ((5, 1),)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: the line names what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check("pip install '.[lengths]'", written(tmp_path / "x.parquet", b"PAR1"))


def test_imports_are_light() -> None:
    """Asks a new interpreter: lengths need no heavy package."""
    code = "import sys, estimator.plans.lengths; print(sorted({'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def check(says: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        length_options(value).read()
    assert says in str(caught.value)
    assert_one_line(str(caught.value))


ONE = {5: 1}
WRONG: list[tuple[Any, str]] = [
    (None, "lengths must be a number of tokens"),
    (True, "lengths must be"),
    (1.5, "lengths must be"),
    (float("nan"), "lengths must be"),
    ([1, 2], "lengths must be"),
    (0, "lengths.length"),
    (-3, "lengths.length"),
    (10**9, "lengths.length"),
    ({"length": 10**5000}, "lengths.length"),
    ("", "lengths.file"),
    ({}, "it has none of them"),
    ({"truncate": 3}, "it has none of them"),
    ({"file": "x", "histogram": ONE}, "both file and histogram"),
    ({"histogram": ONE, "length": 3}, "both histogram and length"),
    ({"fiel": "x"}, "did you mean file?"),
    ({128: 5000}, "unknown key 'lengths.128' of lengths"),
    ({"file": 3}, "lengths.file"),
    ({"file": "no-such-file.jsonl"}, "No such file"),
    ({"file": "a\x00b"}, "cannot read"),
    ({"file": "f" * 5000}, "cannot read"),
    ({"file": "."}, "is a folder"),
    ({"file": "x", "column": 3}, "lengths.column"),
    ({"length": 3, "column": "n"}, "belongs to a file"),
    ({"length": True}, "lengths.length"),
    ({"length": "689"}, "lengths.length"),
    ({"histogram": {}}, "must map tokens to samples"),
    ({"histogram": [3]}, "must map tokens to samples"),
    ({"histogram": {"x" * 5000: 3}}, "no number of tokens"),
    ({"histogram": {0: 3}}, "0 is no number of tokens"),
    ({"histogram": {-1: 3}}, "-1 is no number of tokens"),
    ({"histogram": {1.5: 3}}, "1.5 is no number of tokens"),
    ({"histogram": {True: 3}}, "True is no number of tokens"),
    ({"histogram": {"٣": 3}}, "no number of tokens"),
    ({"histogram": {10**5000: 3}}, "no number of tokens"),
    ({"histogram": {None: 3}}, "no number of tokens"),
    ({"histogram": {5: 0}}, "0 samples of 5 tokens"),
    ({"histogram": {5: -1}}, "-1 samples of 5 tokens"),
    ({"histogram": {5: 0.5}}, "0.5 samples"),
    ({"histogram": {5: True}}, "True samples"),
    ({"histogram": {5: float("nan")}}, "nan samples"),
    ({"histogram": {5: "3"}}, "'3' samples"),
    ({"histogram": {5: 10**5000}}, "samples of 5 tokens"),
    ({"histogram": {5: 10**9, 6: 1}}, "divide its counts"),
    ({"histogram": ONE, "truncate": 0}, "lengths.truncate"),
    ({"histogram": ONE, "truncate": 2.0}, "lengths.truncate"),
    ({"histogram": ONE, "pad_to_multiple_of": 0}, "lengths.pad_to_multiple_of"),
    ({"histogram": ONE, "pad_to_multiple_of": True}, "lengths.pad_to_multiple_of"),
    ({"histogram": ONE, "packing": "ffd"}, "lengths.packing"),
    ({"histogram": ONE, "packing": "bfd"}, "add truncate"),
    ({"histogram": ONE, "group_by_length": "yes"}, "lengths.group_by_length"),
    ({"histogram": ONE, "steps": 0}, "lengths.steps"),
    ({"histogram": ONE, "steps": 1.0}, "lengths.steps"),
    ({"histogram": ONE, "epochs": 0}, "lengths.epochs"),
    ({"histogram": ONE, "epochs": float("inf")}, "lengths.epochs"),
    ({"histogram": ONE, "epochs": "3"}, "lengths.epochs"),
]


@pytest.mark.parametrize(("value", "says"), WRONG)
def test_wrong_block(value: Any, says: str) -> None:
    """Asks the contract: one line that says what and how to mend it."""
    check(says, value)


WRONG_FILES: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "has no samples"),
    "blank": ("\n  \n", "has no samples"),
    "malformed": ('5\n{"length": 5', "line 2 of"),
    "words": ("5\n\nseven", "line 3 of"),
    "zero": ("5\n0", "line 2 of"),
    "negative": ('{"length": -4}', "-4 is no count of tokens"),
    "fraction": ("5.0", "5.0 is no count"),
    "nan": ('{"length": NaN}', "nan is no count"),
    "infinite": ("Infinity", "inf is no count"),
    "bool": ("true", "True is no count"),
    "null": ("null", "None is no count"),
    "text": ('"5"', "'5' is no count"),
    "huge": ("100000001", "is no count"),
    "digits": ("9" * 5000, "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "no-ids": ('{"input_ids": []}', "[] is no count"),
    "messages": ('{"messages": [{"role": "user"}]}', "is no count"),
    "batched": ("[[1, 2], [3]]", "is no count"),
    "columns": ('{"id": 1, "text": "x"}', "has id, text; say in which"),
    "lacking": ('{"length": 5}\n{"len": 5}', "line 2 of"),
    "no-columns": ("{}", "has no columns"),
    "binary": (bytes(range(256)), "is not JSON"),
    "latin": ('{"length": 5, "ä": 1}'.encode("latin-1"), "is not text in UTF-8"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94(K\x05K\x06e.", "is not text in UTF-8"),
    "control": ('{"\\u001b[31m\\u2028": 1, "b": 2}', "say in which"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_file(name: str, tmp_path: Path) -> None:
    """Asks the contract: one line with the file's name and, in JSON Lines, the line's number."""
    content, says = WRONG_FILES[name]
    file = written(tmp_path / name, content)
    check(says, file)
    check(name, file)


def test_wrong_column(tmp_path: Path) -> None:
    """Asks the contract: the columns found are listed; a bare number has none."""
    file = written(tmp_path / "x.jsonl", '{"length": 5, "n": 5}')
    check("has no column 'm'; it has length, n", {"file": file, "column": "m"})
    check("is no object", {"file": written(tmp_path / "x.jsonl", "512"), "column": "m"})


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: a file that is one long line is not read whole."""
    monkeypatch.setattr("estimator.plans.lengths._LINE_BYTES", 1 << 10)
    check("line 1 of", written(tmp_path / "x.jsonl", "[" + "1," * 1000))


@settings(max_examples=38, deadline=None)
@given(content=st.binary(max_size=80) | st.text(alphabet='{}[],:"\n 0159.-eNa', max_size=60).map(str.encode))
def test_any_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Asks the contract: any bytes are lengths or are refused in a line."""
    file = written(tmp_path_factory.getbasetemp() / "any.jsonl", content)
    with suppress(InputError):
        found = length_options(file).read()
        assert found.samples >= 1 <= found.longest
