"""Tables of plans. The witness of each row is ``estimate``; of the whole table, the exported SQL in an engine."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path
from typing import Any

import pytest

import estimator
from estimator import estimate
from estimator.answers.estimate import live_result
from estimator.errors import InputError
from estimator.export import sql
from estimator.export.build import function_of
from estimator.export.sweep import BLOCK, Sweep, axes_of
from estimator.plans.plan import parse_plan
from estimator.show.cli import main
from tests.cases.small_models import write_config
from tests.helpers.engines import tool

SWEEPS: dict[str, dict[str, Any]] = {
    "training": {
        "model": "smollm2-135m",
        "method": ["lora", "full", "ia3"],
        "dtype": ["bfloat16", "float32"],
        "batch": [1, 2, 5],
        "seq": {"from": 1, "to": 2500, "step": 357},
    },
    "ranks": {
        "model": "gemma-2-2b",
        "method": {"name": "lora", "target_modules": ["q_proj", "v_proj"], "r": [1, 8, 64]},
        "seq": [1, 2, 4095, 4096, 5000],
        "checkpointing": ["none", "layer"],
    },
    "models": {"model": ["qwen3-0.6b", "gpt2"], "seq": [64, 128], "budget": "8GiB"},
    "no formula": {"model": "smollm2-135m", "loss": "chunked", "seq": [100, 300], "batch": [1, 2]},
    "calls of generate": {"model": "smollm2-135m", "max_new_tokens": [1, 2, 30], "seq": [8, 16]},
    "gpus": {
        "model": "smollm2-135m",
        "method": "lora",
        "device": ["t4", "rtx-4090"],
        "batch": [1, 4],
        "seq": [64, 700],
    },
    "phones": {
        "model": "qwen3-0.6b",
        "dtype": ["q4_0", "q8_0"],
        "llama_cpp": {"n_ctx": {"from": 1000, "to": 30000, "step": 9000}},
        "device": ["iphone-15-pro", "pixel-8"],
    },
}


def rows_of(keys: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    table = Sweep(keys, **options)
    rows = table.records()
    assert len(rows) == table.rows
    assert all(list(row) == table.columns for row in rows)
    return rows


def keys_of(name: str, row: dict[str, Any]) -> dict[str, Any]:
    fixed, axes = axes_of(SWEEPS[name])
    return {**fixed, **{axis: row[axis] for axis in axes}}


@pytest.mark.share(12)
@pytest.mark.parametrize("name", SWEEPS)
def test_each_row_is_its_estimate(name: str) -> None:
    from estimator.plans.flat import nested

    rows = rows_of(SWEEPS[name])
    for row in random.Random(0).sample(rows, min(len(rows), 12)):
        plan = parse_plan(nested({}, keys_of(name, row)))
        result = live_result(plan, {}) if plan.runtime == "torch-cuda" else estimate(plan)
        sizes = {key: size for key, size in result.bytes.items() if key in row}
        assert {key: row[key] for key in sizes} == sizes, row
        if plan.runtime != "torch-cuda" and result.budget_bytes is not None:
            assert row["fits"] == result.fits
        if plan.runtime == "torch-cuda":
            assert row["fits"] in (None, False) or row["process_at_most"] <= row["budget_bytes"]


def test_what_a_rank_sends_is_a_column_where_it_is_asked_for() -> None:
    """In the order of an estimate's components, row by row, since no formula has it."""
    keys = {"model": "smollm2-135m", "sharding": {"name": "fsdp2", "world_size": [1, 4]}, "seq": [8, 9]}
    rows = rows_of(keys, only=["communicated", "peak"])
    for row in rows:
        sharding = {"name": "fsdp2", "world_size": row["world_size"]}
        found = estimate("smollm2-135m", seq=row["seq"], sharding=sharding)
        assert (row["peak"], row["communicated"]) == (found.bytes["peak"], found.communicated)
    assert [bool(row["communicated"]) for row in rows] == [False, False, True, True]


def test_order_is_that_of_the_keys_and_arrays_come_last() -> None:
    rows = rows_of({"model": "smollm2-135m", "seq": [3, 9], "dtype": ["float32", "bfloat16"], "batch": [2, 4]})
    assert [(row["dtype"], row["seq"], row["batch"]) for row in rows] == [
        (dtype, seq, batch) for dtype in ("float32", "bfloat16") for seq in (3, 9) for batch in (2, 4)
    ]


def test_a_refused_combination_keeps_its_rows() -> None:
    rows = rows_of({"model": "smollm2-135m", "method": ["full", "lora"], "dtype": "nf4", "seq": [5, 6]})
    refused = [row for row in rows if row["error"]]
    assert len(refused) == 2
    assert all(row["method"] == "full" and row["peak"] is None for row in refused)
    assert all(row["peak"] > 0 for row in rows if row["method"] == "lora")


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ({"seq": {"from": 1, "to": 3 * BLOCK + 5}}, 3 * BLOCK + 5),
        ({"batch": [1, 2, 3], "seq": {"from": 1, "to": BLOCK + 1}}, 3 * (BLOCK + 1)),
        ({"batch": {"from": 1, "to": 700}, "seq": {"from": 1, "to": 700}}, 490_000),
    ],
)
def test_blocks_are_the_whole_product(axes: dict[str, Any], count: int) -> None:
    import numpy as np

    table = Sweep({"model": "smollm2-135m", **axes}, ["peak"])
    names = list(axes)
    seen, last = 0, None
    for block in table.blocks():
        assert len(block["peak"]) <= BLOCK
        rank = np.zeros(len(block["peak"]), dtype=np.int64)
        for name in names:
            rank = rank * (len(table.axes[name]) + 1) + block[name]
        assert (np.diff(rank) > 0).all()
        assert last is None or rank[0] > last
        seen, last = seen + len(rank), rank[-1]
    assert seen == table.rows == count


@pytest.mark.share(3)
def test_files_have_the_same_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ask = ["sweep", "smollm2-135m", "--method", "lora,full", "--batch", "1,2", "--seq", "10:50:20"]
    paths = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "parquet", "arrow")}
    for path in paths.values():
        assert main([*ask, "--output", str(path)]) == 0
    expected = rows_of(
        {
            "model": "smollm2-135m",
            "method": ["lora", "full"],
            "batch": [1, 2],
            "seq": {"from": 10, "to": 50, "step": 20},
        }
    )
    assert parquet.read_table(paths["parquet"]).to_pylist() == expected
    assert pa.ipc.open_file(paths["arrow"]).read_all().to_pylist() == expected
    with paths["csv"].open() as file:
        read = [
            {key: value if key == "method" else int(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    assert read == expected


def test_standard_output_and_a_plan_file(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("model: smollm2-135m\nmethod: {name: lora, r: [4, 8]}\nseq: {from: 100, to: 300, step: 100}\n")
    assert main(["sweep", "--plan", str(plan), "--only", "peak"]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0] == '"r","seq","peak"' or lines[0] == '"seq","r","peak"'
    assert len(lines) == 7


def test_a_table_of_text_needs_no_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ask = ["sweep", "smollm2-135m", "--method", "lora,lorra", "--lora-dropout", "0.0,0.1", "--seq", "8,9"]
    path = tmp_path / "table.csv"
    assert main([*ask, "--only", "peak", "--budget", "8GiB", "--output", str(path)]) == 0
    head, first, *_, last = path.read_text().splitlines()
    assert head == '"method","lora_dropout","seq","peak","budget_bytes","fits","error"'
    peak = estimate("smollm2-135m", method="lora", lora_dropout=0.0, seq=8).bytes["peak"]
    assert first == f'"lora",0.0,8,{peak},8589934592,true,'
    assert last.startswith('"lorra",0.1,9,,,,"method \'lorra\' is neither')
    assert main([*ask, "--output", str(tmp_path / "table.parquet")]) == 2
    line = "estimator: a .parquet file is written by pyarrow: pip install '.[tables]' in a clone; or write a .csv\n"
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == [path]


def test_values_of_several_types_in_every_kind_of_file(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = Sweep(
        {"model": "smollm2-135m", "method": "lora", "lora_dropout": [0, 0.5], "init_lora_weights": [True, "eva"]}
    )
    table.write(tmp_path / "table.arrow", ".arrow")
    read = pa.ipc.open_file(tmp_path / "table.arrow").read_all().to_pylist()
    assert [(row["lora_dropout"], row["init_lora_weights"]) for row in read] == [
        (dropout, init) for dropout in (0.0, 0.5) for init in ("True", "eva")
    ]


def as_sql(engine: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A table, and the same question asked of an engine as SQL."""
    keys = {"model": "smollm2-135m", "method": "lora"}
    axes: dict[str, Any] = {"batch": [1, 2, 7], "seq": {"from": 1, "to": 3000, "step": 50}, "r": [1, 16]}
    expected = rows_of({**keys, **axes})
    query = sql.to_sql(function_of(parse_plan(keys), ["batch", "seq", "r"]), engine)
    grid = [{name: row[name] for name in axes} for row in expected]
    if engine == "duckdb":
        duckdb, pa = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow")

        plans = pa.Table.from_pylist(grid)
        connection = duckdb.connect()
        connection.register("plans", plans)
        found = connection.execute(query).to_arrow_table().to_pylist()
    else:
        tool("java")
        pytest.importorskip("pyspark")
        from pyspark.sql import SparkSession

        session = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
        session.createDataFrame([tuple(row.values()) for row in grid], list(axes)).createOrReplaceTempView("plans")
        found = [row.asDict() for row in session.sql(query.rstrip().rstrip(";")).collect()]

    def key(row: dict[str, Any]) -> tuple[int, ...]:
        return tuple(row[name] for name in axes)

    return sorted(expected, key=key), sorted(found, key=key)


def test_duckdb_gives_the_same_table() -> None:
    expected, found = as_sql("duckdb")
    assert found == expected


@pytest.mark.witness
def test_spark_gives_the_same_table() -> None:
    expected, found = as_sql("spark")
    assert found == expected


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    pytest.importorskip(library)
    frame = Sweep({"model": "smollm2-135m", "seq": [10, 20]}).to_frame(library)
    assert list(frame["peak"]) == [estimate("smollm2-135m", seq=seq).bytes["peak"] for seq in (10, 20)]
    with pytest.raises(InputError, match="take pandas or polars"):
        Sweep({"model": "smollm2-135m", "seq": [10, 20]}).to_frame("excel")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "nothing is swept"),
        (["--seq", "9:3"], "is no range"),
        (["--seq", "0:3"], "is no range"),
        (["--seq", "1:3:0"], "is no range"),
        (["--seq", f"1:{'9' * 5000}"], "is no range"),
        (["--batch", "1,1"], "batch has a value twice"),
        (["--batch", "1,x"], "batch: 'x' is no whole number from 1 on"),
        (["--batch", "1,2", "--output", "x.txt"], "a table is written as .csv, .parquet, .arrow"),
        (["--batch", "1,2", "--output", "/dev/null/x.csv"], "cannot write '/dev/null/x.csv'"),
        (["--batch", "1,2", "--only", "peek"], "no component 'peek'"),
        (["--method", "lora,lorra", "--batch", "1,2", "--model-is", "1"], "unrecognized arguments"),
        (["--seq", "1:100000000", "--batch", "1:1000000"], "10,000,000,000 are the most"),
        (["--seq", "1:100000000:99999999", "--batch", "999999,1000000"], "the bytes may not fit in 63 bits"),
        (["--loss", "chunked", "--seq", "1:1000000"], "estimates one by one are too many"),
    ],
)
def test_wrong_input_is_one_line(
    options: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "smollm2-135m", *options]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_text_is_a_spreadsheets_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote before it keeps a spreadsheet from running it: https://owasp.org/www-community/attacks/CSV_Injection."""
    names = [write_config(tmp_path / name, {}) for name in ("=cmd|x", "+1", "plain", "bytes\udcff")]
    monkeypatch.chdir(tmp_path)
    table = Sweep({"model": [Path(name).name for name in names], "seq": [16, 32]})
    rows = b"".join(table.lines()).decode().splitlines()
    assert [row.partition(",")[0] for row in rows[1::2]] == ['"\'=cmd|x"', '"\'+1"', '"plain"', '"bytes\\udcff"']


def test_a_figure_is_drawn_along_a_swept_number() -> None:
    """By default the sequence; else that which is asked for, if it is swept and a number."""
    table = Sweep({"model": "smollm2-135m", "batch": [1, 2], "seq": [16, 32], "dtype": ["bfloat16", "float32"]})
    assert table.plot().axes[0].get_xlabel() != table.plot(along="batch").axes[0].get_xlabel()
    for along in ("dtype", "max_new_tokens"):
        with pytest.raises(InputError, match="drawn along; this table has batch, seq"):
            table.plot(along=along)
    with pytest.raises(InputError, match="no component 'heap'; there are "):
        table.plot("heap")
    with pytest.raises(InputError, match="drawn along; this table has none"):
        Sweep({"model": "smollm2-135m", "dtype": ["bfloat16", "float32"]}).plot()


def test_a_number_of_thousands_of_digits() -> None:
    """Python prints none of more than 4,300."""
    for keys in (
        {"seq": [1, 10**5000]},
        {"random_seed": [1, 10**5000]},
        {"optimizer": [10**5000, "adamw"]},
        {"seq": {"from": 1, "to": 10**5000}},
    ):
        with pytest.raises(InputError, match="thousands of digits"):
            axes_of({"model": "gpt2", **keys})
    with pytest.raises(InputError, match="no component a number of thousands of digits"):
        estimator.formula("smollm2-135m", seq=8, component=10**5000)  # type: ignore[arg-type]
