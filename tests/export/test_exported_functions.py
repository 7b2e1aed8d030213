"""Plans as functions in other languages. The witness is ``estimate``, asked with plain numbers; each program is run by
what it is for.
"""

from __future__ import annotations

import json
import random
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.answers.estimate import live_result
from estimator.errors import InputError
from estimator.export import code_python, sql
from estimator.export.build import function_of
from estimator.export.code_python import evaluate
from estimator.export.function import Function
from estimator.export.heading import heading
from estimator.export.json_trees import to_json
from estimator.export.latex import to_latex
from estimator.export.short import shortened
from estimator.plans.flat import nested
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.cases.exported_functions import BEYOND_DECODERS, CASES, points
from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.small_models import write_config
from tests.helpers import engines
from tests.helpers.exported import estimated, shared
from tests.helpers.files import DOCS

COUNT = 10
"""Points for each plan."""


@cache
def function(name: str) -> Function:
    plan, variables = {**CASES, **BEYOND_DECODERS}[name]
    return function_of(parse_plan(nested({}, plan)), variables, ceiling=name == "old gpu")


@cache
def wanted(name: str, folder: Path) -> tuple[list[dict[str, int]], list[dict[str, int]]]:
    """Points of a case, and the estimate at each."""
    f = function(name)
    given = points(f, COUNT)
    return given, [estimated(f, {**CASES, **BEYOND_DECODERS}[name][0], row, folder) for row in given]


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the configs of models with other sizes."""
    return tmp_path_factory.mktemp("configs")


@pytest.mark.share(72)
@pytest.mark.parametrize("engine", engines.LIGHT)
@pytest.mark.parametrize("name", CASES)
def test_programs_equal_the_estimate(name: str, engine: str, tmp_path: Path, configs: Path) -> None:
    f = function(name)
    given, expected = wanted(name, configs)
    found = engines.LIGHT[engine](f, given, tmp_path)
    for point, got, want in zip(given, found, expected, strict=True):
        assert shared(f, got) == shared(f, want), point


@pytest.mark.extra("trace")
@pytest.mark.share(96)
@pytest.mark.parametrize("name", ["gemma3", "llava", "llava with pixtral", "qwen2_vl", "qwen2_5_vl", "smolvlm"])
def test_images_are_a_variable_in_each_language(name: str, tmp_path: Path) -> None:
    """Also where a model walks the images of a batch one by one, so that no program is for all batches."""
    config, keys = WITH_IMAGES[name]
    model = write_config(tmp_path / "model", config)
    plan = {**keys, "model": model, "images": 1, "dtype": "float32", "method": "lora"}
    f = function_of(parse_plan(plan), ["batch", "seq", "images"], ceiling=False)
    rng = random.Random(name)
    given = [
        {"batch": batch, "images": images, "seq": rng.randrange(2000, 4000)}
        for batch, images in ((1, 1), (1, 3), (2, 1), (3, rng.randrange(2, 9)), (rng.randrange(4, 9), 2))
    ]
    expected = [dict(estimate(**{**plan, **values}).bytes) for values in given]
    for engine, run in engines.LIGHT.items():
        for point, got, want in zip(given, run(f, given, tmp_path), expected, strict=True):
            assert shared(f, got) == shared(f, want), (engine, point)
    assert f"each image takes {f.variables[1].least - 1:,} tokens of a row" in "\n".join(heading(f))


@pytest.mark.share(24)
@pytest.mark.parametrize("name", CASES)
def test_a_function_gives_every_component_of_the_result(name: str) -> None:
    plan = parse_plan(nested({}, CASES[name][0]))
    result = live_result(plan, {}) if plan.runtime == "torch-cuda" else estimate(plan)
    components = {c for c in function(name).components if not c.endswith(("_at_least", "_at_most"))}
    wanted = set(result.bytes)
    assert components == (wanted - {"process"} if plan.runtime == "torch-cuda" else wanted)


@pytest.mark.share(6)
@pytest.mark.parametrize("name", CASES)
def test_bigquery_parses_its_query(name: str) -> None:
    import sqlglot

    (tree,) = sqlglot.parse(sql.to_sql(function(name), "bigquery"), dialect="bigquery")
    assert tree is not None
    assert tree.named_selects == [*(v.name for v in function(name).variables), *function(name).components]


@pytest.mark.share(6)
@pytest.mark.parametrize("name", CASES)
def test_json_fits_its_schema(name: str) -> None:
    import jsonschema

    schema = json.loads((Path(__file__).parents[2] / "docs/schemas/function-1.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(to_json(function(name))))


@pytest.mark.share(3)
@pytest.mark.parametrize("name", BEYOND_DECODERS)
def test_functions_of_models_beyond_decoders(name: str, configs: Path) -> None:
    """Witness: the ledger run with integers, from the least values on that a model's own program serves."""
    for point, want in zip(*wanted(name, configs), strict=True):
        assert shared(function(name), evaluate(function(name), point)) == shared(function(name), want), point
    least = {"two stacks": {"seq": 2, "target_seq": 2}, "sound": {"target_seq": 2}}.get(name, {"seq": 1})
    assert {v.name: v.least for v in function(name).variables if v.name in least} == least
    most = {v.name: v.most for v in function(name).variables}
    assert {"two stacks": 10**8, "sound": 448}.get(name, 512) == most.get("target_seq", most.get("seq"))


@pytest.mark.share(9)
def test_what_formulas_of_a_gpu_lack_is_said() -> None:
    """Of a sum of 9 rows of 208 tokens for a bias several thread blocks have partial results; Llama has no bias."""
    plan = {"model": "all-minilm-l6-v2", "device": "rtx-4090"}
    f = function_of(parse_plan(plan), ("batch", "seq"))
    said = next(note for note in f.notes if note.startswith("peak_above_resident, peak: in 64 replays"))
    lacking = int(said.partition(" up to ")[2].rpartition(" up to ")[2].partition(" B more")[0].replace(",", ""))
    gap = estimate(plan, batch=9, seq=208).bytes["peak"] - evaluate(f, {"batch": 9, "seq": 208})["peak"]
    assert 0 < gap <= lacking
    assert not any("B more" in note for note in function_of(parse_plan(CASES["gpu"][0]), ("batch", "seq")).notes)


def test_every_engine_was_run_at_a_thousand_points() -> None:
    """``make witness`` ran all of them, also those that are too heavy for every run."""
    data = json.loads((DOCS / "measured" / "exports.json").read_text())
    assert set(data["cases"]) == set(CASES)
    for name, case in data["cases"].items():
        assert case["variables"] == list(CASES[name][1])
        assert case["points"] >= 1000
        assert case["equal"] == dict.fromkeys([*engines.LIGHT, *engines.HEAVY], case["points"]), name


@pytest.mark.share(3)
def test_latex_has_every_component() -> None:
    f = function("windows that alternate")
    text = to_latex([f], heading(f))
    assert all(rf"M_{{\text{{{component.replace('_', ' ')}}}}} &=" in text for component in f.components)
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert r"\begin{cases}" in text
    assert r"\max" in text


class TestRange:
    def test_out_of_range_is_refused_in_each_language(self, tmp_path: Path) -> None:
        import duckdb
        import numpy as np

        f = function("lora")
        for value in (0, -1, 10**6 + 1):
            with pytest.raises(InputError, match="batch must be a whole number from 1 to 1000000"):
                code_python.evaluate(f, {"batch": value, "seq": 4, "r": 4})
            with pytest.raises(ValueError, match="batch must be whole numbers"):
                code_python.arrays(f)(np.array([1, value]), 4, 4)
        with pytest.raises(ValueError, match="whole"):
            code_python.arrays(f)(np.array([1.5]), 4, 4)
        connection = duckdb.connect()
        connection.execute("create table plans as select 0 as batch, 4 as seq, 4 as r union all select 1, 4, 4")
        rows = connection.execute(sql.to_sql(f)).fetchall()
        assert sorted(row[:3] for row in rows) == [(0, 4, 4), (1, 4, 4)]
        assert {row[0]: row[3] is None for row in rows} == {0: True, 1: False}

    def test_integers_beyond_floating_point_are_exact_or_refused(self, tmp_path: Path) -> None:
        import duckdb
        import numpy as np

        f = function("full eager")
        huge = [{"batch": 10**6, "seq": 10**4 - 1}]  # 2^53 < bytes < 2^63
        want = [code_python.evaluate(f, huge[0])]
        assert want[0]["peak"] > 2**53
        for name in ("python", "numpy", "javascript", "c", "duckdb", "json"):
            assert engines.LIGHT[name](f, huge, tmp_path) == want, name
        with pytest.raises(OverflowError):
            code_python.arrays(f)(np.array([10**6]), 10**8)
        connection = duckdb.connect()
        connection.execute("create table plans as select 1000000 as batch, 100000000 as seq")
        assert connection.execute(sql.to_sql(f)).fetchall()[0][2:] == (None,) * len(f.components)

    def test_multiples(self, tmp_path: Path) -> None:
        f = function("sizes")
        heads = next(v for v in f.variables if v.name == "num_attention_heads")
        values = {v.name: v.value for v in f.variables}
        with pytest.raises(InputError, match=f"num_attention_heads must be a multiple of {heads.multiple_of}"):
            code_python.evaluate(f, {**values, "num_attention_heads": heads.value + 1})


class TestShortForm:
    @pytest.mark.share(4)
    @pytest.mark.parametrize("name", ["lora", "window", "nf4, checkpointed", "gpu"])
    def test_error_is_within_its_bound(self, name: str) -> None:
        whole, short = function(name), shortened(function(name))
        note = short.notes[-1]
        bound = float(note.rpartition("at most ")[2].partition("%")[0]) / 100
        checked = 0
        for point in points(whole, 400):
            if all(v.least <= point[v.name] <= v.most for v in short.variables):
                exact, got = code_python.evaluate(whole, point), code_python.evaluate(short, point)
                assert exact["peak_above_resident"] * (1 - bound - 0.0005) <= got["peak_above_resident"]
                assert got["peak_above_resident"] <= exact["peak_above_resident"]
                assert got["saved"] == exact["saved"]
                checked += 1
        assert checked > 10
        assert len(code_python.to_python(short)) < len(code_python.to_python(whole))


class TestCommand:
    @pytest.mark.share(2)
    def test_each_target(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        for target in ("python", "numpy", "javascript", "c", "sql", "latex", "json", "xlsx"):
            path = tmp_path / f"exported.{target}"
            ask = ["export", "smollm2-135m", "--method", "lora", "--vars", "seq,r", "--to", target]
            assert main([*ask, "--output", str(path)]) == 0
            assert path.stat().st_size > 500
            assert capsys.readouterr().out == ""
            if target != "xlsx":
                assert main(ask) == 0
                assert capsys.readouterr().out == path.read_text()
        assert (tmp_path / "exported.json").read_text().startswith('{\n "')
        with zipfile.ZipFile(tmp_path / "exported.xlsx") as file:  # the axis says that its numbers are millions
            assert b'<c:builtInUnit val="millions"/><c:dispUnitsLbl' in file.read("xl/charts/chart1.xml")

    def test_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", "smollm2-135m", "--vars", "seq", "--to", "python", "--only", "peak,saved"]) == 0
        text = capsys.readouterr().out
        scope: dict[str, Any] = {}
        exec(text, scope)
        result = estimate("smollm2-135m", seq=77)
        assert scope["estimate"](77) == {name: result.bytes[name] for name in ("saved", "peak")}
        assert "gradients" not in text

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--vars", "batch,foo", "--to", "c"], "'foo' cannot be a variable of this plan"),
            (["--vars", "seq,seq", "--to", "c"], "named twice"),
            (["--vars", ",", "--to", "c"], "no variable is named"),
            (["--to", "xlsx"], "name a file with --output"),
            (["--to", "c", "--dialect", "spark"], "--dialect belongs to --to sql"),
            (["--to", "c", "--only", "peek"], "no component 'peek'"),
            (["--to", "c", "--loss", "chunked"], "a formula does not go with loss: chunked"),
            (["--to", "c", "--output", "/dev/null/x.c"], "cannot write '/dev/null/x.c'"),
            (["--to", "xlsx", "--output", "/dev/null/x.xlsx"], "cannot write '/dev/null/x.xlsx'"),
            (["--to", "c", "--dtype", "q4_k_m", "--vars", "seq"], "'seq' cannot be a variable of this plan"),
            (["--to", "c", "--dtype", "q4_k_m", "--short"], "--short is for steps in PyTorch"),
        ],
    )
    def test_wrong_input_is_one_line(self, options: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", "smollm2-135m", *options]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1


NASTY = 'a */ x """ y -- z\n\';drop table plans;--.json'


@pytest.mark.parametrize("target", ["python", "numpy", "javascript", "c", "sql", "latex", "json"])
def test_a_files_name_cannot_leave_its_comment(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's path is in the header: it must not end the comment, whatever it is called."""
    monkeypatch.chdir(tmp_path)
    folder = Path(NASTY.replace("/", "_"))
    folder.mkdir()
    raw = resolve(parse_plan({"model": "smollm2-135m"})).spec.raw
    (folder / "config.json").write_text(json.dumps(raw))
    assert main(["export", str(folder), "--vars", "seq", "--to", target, "--output", "out"]) == 0
    text = Path("out").read_text()
    assert text.isascii()
    if target in ("python", "numpy"):
        compile(text, "out", "exec")
    elif target == "javascript":
        Path("out.mjs").write_text(text)
        engines._run([engines.tool("node"), "--check", "out.mjs"])
    elif target == "c":
        Path("out.c").write_text(text)
        engines._run([engines.tool("cc", "gcc", "clang"), "-std=c99", "-fsyntax-only", "out.c"])
    elif target == "sql":
        import sqlglot

        assert len([x for x in sqlglot.parse(text, dialect="duckdb") if x is not None]) == 1
    elif target == "json":
        assert json.loads(text)["model"] == str(folder)
