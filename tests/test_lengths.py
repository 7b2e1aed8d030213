"""Lengths of a run. Witnesses: enumeration of all draws, exact binomials, transformers' sampler, pyarrow's files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import combinations, count, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.errors import InputError
from estimator.plans.lengths import (
    MOST_SAMPLES,
    Lengths,
    _counts_of,
    _fullest,
    _log_none_drawn,
    _mean_batches,
    expected,
    histogram,
    length_options,
    packed,
    quantile,
)

SAMPLES = (3, 3, 5, 8, 8, 9, 12)


def lengths(samples: Iterable[int], **block: Any) -> Lengths:
    return length_options({"histogram": Counter(samples), **block}).read()


def shares(found: Iterable[int]) -> dict[int, float]:
    counts = Counter(found)
    return {length: number / counts.total() for length, number in sorted(counts.items())}


def up(length: int, multiple: int) -> int:
    return next(size for size in count(length) if size % multiple == 0)


# Probabilities


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("batch", range(1, 8))
def test_one_batch(batch: int, multiple: int) -> None:
    """Asks an enumeration of all batches that can be drawn."""
    every = (up(max(drawn), multiple) for drawn in combinations(SAMPLES, batch))
    found = dict(lengths(SAMPLES, pad_to_multiple_of=multiple).batch_distribution(batch))
    assert found == pytest.approx(shares(every), abs=1e-15)


@pytest.mark.parametrize(("batch", "batches"), [(1, 1), (1, 3), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (1, 50)])
def test_a_run(batch: int, batches: int) -> None:
    """Asks an enumeration of the samples that a run's batches can hold; a whole epoch holds them all."""
    data = lengths(SAMPLES)
    every = [max(drawn) for drawn in combinations(SAMPLES, min(batch * batches, len(SAMPLES)))]
    assert dict(data.run_distribution(batch, batches)) == pytest.approx(shares(every), abs=1e-15)
    for length in range(14):
        share = sum(one > length for one in every) / len(every)
        assert data.probability_of_exceeding(length, batch, batches) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_batch_grouped_by_length(batch: int) -> None:
    """Asks an enumeration of the mega-batches, each sorted and cut into batches."""
    samples = [2, 2, 3, 3, 3, 4, 5, 5, 7, 7, 8, 9, 9, 9, 11, 20][: 8 * batch]
    together = batch * min(len(samples) // (4 * batch), 50)
    assert together > batch
    every = [
        max(ordered[start : start + batch])
        for drawn in combinations(samples, together)
        for ordered in [sorted(drawn, reverse=True)]
        for start in range(0, together, batch)
    ]
    found = lengths(samples, group_by_length=True)
    assert dict(found.batch_distribution(batch)) == pytest.approx(shares(every), abs=1e-14)
    assert found.run_distribution(batch, 1) == [(max(samples), 1.0)]
    assert found.probability_of_exceeding(max(samples) - 1, batch, 1) == 1


def test_the_sampler_that_groups_by_length() -> None:
    """Asks transformers' sampler: its first batch has the longest sample, and batches have the mean length."""
    torch = pytest.importorskip("torch")
    from transformers.trainer_pt_utils import get_length_grouped_indices

    samples = np.random.default_rng(0).geometric(0.01, 640).tolist()
    batch, mega_batch, means = 4, 160, []
    for seed in range(300):
        order = get_length_grouped_indices(samples, batch, generator=torch.Generator().manual_seed(seed))
        batches = [[samples[i] for i in order[start : start + batch]] for start in range(0, 640, batch)]
        assert max(batches[0]) == max(samples)
        shuffled = torch.randperm(640, generator=torch.Generator().manual_seed(seed)).tolist()
        if samples.index(max(samples)) in shuffled[:mega_batch]:  # it was first, none was swapped
            means.append(np.mean([max(one) for one in batches]))
    found = expected(lengths(samples, group_by_length=True).batch_distribution(batch))
    assert len(means) > 50
    assert found == pytest.approx(np.mean(means), abs=4 * np.std(means) / len(means) ** 0.5)
    assert 4 * np.std(means) / len(means) ** 0.5 < 0.01 * found


@pytest.mark.parametrize(
    ("samples", "marked", "draws"),
    [(10, 3, 4), (10, 1, 9), (10**7, 1, 1), (10**7, 40, 8), (10**7, 1, 8000), (10**6, 900, 1100), (10**9, 7, 10**6)],
)
def test_none_is_drawn(samples: int, marked: int, draws: int) -> None:
    """Asks exact binomials, also where a difference of log-gammas would have lost all digits."""
    few, many = sorted((marked, draws))
    exact = 1 - Fraction(math.comb(samples - many, few), math.comb(samples, few))  # symmetric in the two
    assert -math.expm1(_log_none_drawn(samples, marked, draws)) == pytest.approx(float(exact), rel=1e-12)
    if samples == 10:
        assert exact == 1 - Fraction(math.comb(samples - marked, draws), math.comb(samples, draws))


@pytest.mark.parametrize(
    ("samples", "marked", "draws", "batch"),
    [(20, 7, 8, 2), (20, 20, 8, 2), (20, 13, 12, 3), (5000, 3, 400, 8), (5000, 4990, 400, 8), (5000, 2500, 400, 8)],
)
def test_batches_that_marked_samples_fill(samples: int, marked: int, draws: int, batch: int) -> None:
    """Asks the hypergeometric distribution in exact fractions."""
    ways = {
        x: math.comb(marked, x) * math.comb(samples - marked, draws - x)
        for x in range(max(0, draws + marked - samples), min(marked, draws) + 1)
    }
    exact = sum(Fraction(way * -(-x // batch), math.comb(samples, draws)) for x, way in ways.items())
    assert _mean_batches(samples, marked, draws, batch) == pytest.approx(float(exact), rel=1e-12)


data = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@settings(deadline=None)
@given(
    samples=data, batch=st.integers(1, 60), steps=st.integers(1, 9), multiple=st.integers(1, 9), grouped=st.booleans()
)
def test_properties(samples: list[int], batch: int, steps: int, multiple: int, grouped: bool) -> None:
    """Asks the laws of probability: sums of one, monotone in length, steps and batch; bounds."""
    found = lengths(samples, pad_to_multiple_of=multiple, group_by_length=grouped)
    batch = min(batch, len(samples))
    one, run = found.batch_distribution(batch), found.run_distribution(batch, steps)
    for distribution in (one, run):
        assert math.fsum(chance for _, chance in distribution) == pytest.approx(1, abs=1e-12)
        assert all(chance >= 0 for _, chance in distribution)
        assert [length for length, _ in distribution] == sorted({length for length, _ in distribution})
        assert distribution[0][0] - 1e-9 <= expected(distribution) <= distribution[-1][0] + 1e-9
        levels = [quantile(distribution, share / 10) for share in range(11)]
        assert levels == sorted(levels)
        binned = histogram(distribution, 5)
        assert math.fsum(chance for *_, chance in binned) == pytest.approx(1, abs=1e-12)
        assert binned[0][0] == distribution[0][0]
        assert binned[-1][1] >= distribution[-1][0]
    assert one[-1][0] <= run[-1][0] == found.padded(found.longest)
    exceeding = [found.probability_of_exceeding(length, batch, steps) for length in range(70)]
    assert all(before >= after - 1e-12 for before, after in pairwise(exceeding))
    assert (exceeding[0], exceeding[-1]) == (pytest.approx(1), 0)
    for length in range(0, 70, 7):
        assert found.probability_of_exceeding(length, batch, steps + 1) >= exceeding[length] - 1e-12
    chosen = found.representative_batches(batch, steps)
    assert len(chosen) == steps
    assert max(chosen) == chosen[0 if grouped else -1] == found.padded(found.longest)
    assert set(chosen[1:] if grouped else chosen[:-1]) <= {length for length, _ in one}


@settings(deadline=None, max_examples=30)
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
    found = {lengths(samples), length_options({"histogram": {str(n): samples.count(n) for n in samples}}).read()}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        block = {"file": str(folder / name), "column": "n"} if name == "named" else str(folder / name)
        found.add(length_options(block).read())
    (one,) = found
    assert one.counts == tuple(sorted(Counter(samples).items()))


# A run's batches


@pytest.mark.parametrize(("samples", "batch", "accumulation"), product([1, 7, 12], [1, 2, 5], [1, 3]))
def test_batches_of_a_run(samples: int, batch: int, accumulation: int) -> None:
    """Asks a loop written out: steps of some batches, none over the end of an epoch."""
    batch = min(samples, batch)

    def loop(steps: int) -> int:
        batches = position = 0
        for _ in range(steps):
            for _ in range(accumulation):
                batches, position = batches + 1, position + batch
                if position >= samples:
                    position = 0
                    break
        return batches

    epoch = -(-samples // batch)
    for steps in range(1, 12):
        assert lengths([4] * samples, steps=steps).batches(batch, accumulation) == loop(steps)
    for epochs in (1, 2, 3.0):
        assert lengths([4] * samples, epochs=epochs).batches(batch, accumulation) == epochs * epoch
    assert lengths([4] * samples, epochs=100, steps=1).batches(batch, accumulation) == min(accumulation, epoch)


def test_a_number_is_every_length() -> None:
    """Asks the rule: of one length there is one batch, whatever the run."""
    for value in (689, np.int64(689), {"length": 689}):
        found = length_options(value).read()
        assert found.counts == ((689, MOST_SAMPLES),)
        assert found.batch_distribution(10**6) == found.run_distribution(4, 10) == [(689, 1.0)]
        assert [found.probability_of_exceeding(n, 4, 10) for n in (688, 689)] == [1, 0]
        assert found.representative_batches(4, 3) == [689] * 3
    assert length_options({"length": 689, "pad_to_multiple_of": 64}).read().batch_distribution(4) == [(704, 1.0)]


def test_truncation_comes_before_padding() -> None:
    """Asks the order in transformers: the tokenizer truncates, the collator pads, past the truncation too."""
    found = lengths(SAMPLES, truncate=9, pad_to_multiple_of=4)
    assert found.counts == ((3, 2), (5, 1), (8, 2), (9, 2))
    assert found.run_distribution(7, 1) == [(12, 1.0)]


def test_options_come_back_from_json() -> None:
    """Asks the contract: a block's dump is a block."""
    options = length_options({"histogram": {512: 9, 2048: 1}, "truncate": 1024})
    dumped = json.loads(json.dumps(options.model_dump()))
    assert length_options(dumped) == options == length_options(options)


# Packing


def test_packing_as_trl_packs() -> None:
    """Asks TRL's documented example (``pack_dataset``): samples of 5, 2, 3 and 1 tokens in rows of 4."""
    samples = Counter([5, 2, 3, 1])
    assert packed(samples, 4, "bfd") == {4: 3}  # [4], [3, 1], [2]
    assert packed(samples, 4, "bfd_split") == {4: 3}  # [4], [3, 1], [2, 1]
    assert packed(samples, 4, "wrapped") == {3: 1, 4: 2}


@pytest.mark.parametrize(
    ("samples", "room"), [([5, 5, 5], 12), ([7], 9), ([4, 6, 9], 14), ([11, 3], 9), ([3] * 9, 20), ([2, 4, 8], 9)]
)
def test_the_fullest_row(samples: list[int], room: int) -> None:
    """Asks an enumeration of all sets of samples that fit into a row."""
    cut = [min(length, room) for length in samples]
    every = {sum(some) for n in range(1, len(cut) + 1) for some in combinations(cut, n)}
    fullest = max(size for size in every if size <= room)
    assert _fullest(Counter(cut), room) == fullest
    assert packed(Counter(samples), room, "bfd") == {fullest: -(-sum(cut) // fullest)}


def test_packed_batches() -> None:
    """Asks TRL's collator: rows of bfd are as full as whole samples make them; wrapped's last row is shorter."""
    whole = lengths([600] * 100, truncate=1024, packing="bfd", pad_to_multiple_of=64)
    assert whole.batch_distribution(4) == [(640, 1.0)]  # rows of 600, padded
    assert whole.probability_of_exceeding(639, 4, 1) == 1
    wrapped = lengths([600] * 100, truncate=1024, packing="wrapped")
    assert wrapped.counts == ((608, 1), (1024, 58))
    assert dict(wrapped.batch_distribution(1)) == pytest.approx({608: 1 / 59, 1024: 58 / 59})


# Files


def write(path: Path, content: bytes | str) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_lines_are_streamed(tmp_path: Path) -> None:
    """Asks tracemalloc: memory does not grow with the file."""
    file = write(tmp_path / "many.jsonl", '{"length": 512, "text": "some words"}\n' * 30_000)
    tracemalloc.start()
    try:
        assert length_options(file).read().counts == ((512, 30_000),)
        assert tracemalloc.get_traced_memory()[1] < 500_000 < Path(file).stat().st_size
    finally:
        tracemalloc.stop()


def test_a_file_is_read_again_once_it_changed(tmp_path: Path) -> None:
    """Asks the file: the second answer is of its new content."""
    file = tmp_path / "x.jsonl"
    write(file, "5")
    assert _counts_of(file, None) is _counts_of(file, None)
    write(file, "5\n12")
    assert length_options(str(file)).read().counts == ((5, 1), (12, 1))


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_parquet(name: str, tmp_path: Path) -> None:
    """Asks pyarrow, which writes the file: counts of three widths and lists of token ids."""
    pa = pytest.importorskip("pyarrow")
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
        assert length_options({"file": file, "column": column}).read() == lengths(samples)
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
        check("not a valid parquet file", write(tmp_path / f"cut-{name}", whole[:cut]))
    broken = bytearray(whole)
    broken[10:400] = bytes(390)
    check("not a valid parquet file", write(tmp_path / f"broken-{name}", bytes(broken)))
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
    check("pip install '.[lengths]'", write(tmp_path / "x.parquet", b"PAR1"))


def test_imports_are_light() -> None:
    """Asks a new interpreter: lengths need no heavy package."""
    code = "import sys, estimator.plans.lengths; print(sorted({'numpy', 'pyarrow', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Wrong input


def check(says: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        length_options(value).read()
    line = str(caught.value)
    assert says in line
    assert line.isprintable()
    assert len(line) < 500


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
    file = write(tmp_path / name, content)
    check(says, file)
    check(name, file)


def test_wrong_column(tmp_path: Path) -> None:
    """Asks the contract: the columns found are listed; a bare number has none."""
    file = write(tmp_path / "x.jsonl", '{"length": 5, "n": 5}')
    check("has no column 'm'; it has length, n", {"file": file, "column": "m"})
    check("is no object", {"file": write(tmp_path / "x.jsonl", "512"), "column": "m"})


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: a file that is one long line is not read whole."""
    monkeypatch.setattr("estimator.plans.lengths._LINE_BYTES", 1 << 10)
    check("line 1 of", write(tmp_path / "x.jsonl", "[" + "1," * 1000))


def test_a_batch_of_more_than_there_is() -> None:
    """Asks the contract: no answer about batches that the data cannot fill."""
    found = lengths(SAMPLES)
    for ask in (
        lambda: found.batch_distribution(8),
        lambda: found.run_distribution(8, 1),
        lambda: found.probability_of_exceeding(3, 8, 1),
        lambda: found.representative_batches(8, 3),
        lambda: found.batches(8),
    ):
        with pytest.raises(InputError, match="batch 8 is more than the 7 samples"):
            ask()


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=80) | st.text(alphabet='{}[],:"\n 0159.-eNa', max_size=60).map(str.encode))
def test_any_bytes(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Asks the contract: any bytes are lengths or are refused in a line."""
    file = write(tmp_path_factory.getbasetemp() / "any.jsonl", content)
    with suppress(InputError):
        found = length_options(file).read()
        assert found.samples >= 1 <= found.longest
