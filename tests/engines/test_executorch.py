"""ExecuTorch: the arena of programs that its exporter made, processes that ran them, and files."""

from __future__ import annotations

import base64
import json
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate, max_context
from estimator.engines.executorch import pte_file, xnnpack
from estimator.engines.executorch.engine import PROGRAM_BYTES, Model
from estimator.engines.executorch.options import ExecuTorchOptions
from estimator.engines.executorch.shapes import shape_of
from estimator.engines.published import _rows
from estimator.errors import InputError
from estimator.plans.models import load
from estimator.plans.plan import parse_plan
from estimator.show.cli import main
from tests.cases import executorch_programs
from tests.helpers.commands import output

RECORD = json.loads(executorch_programs.RECORD.read_text())
ROWS = RECORD["programs"]
NAMES = [row["name"] for row in ROWS]


def asked(row: dict[str, Any], folder: Path) -> dict[str, int]:
    """The estimate of a row's model and export, in bytes."""
    path = folder / "config.json"
    path.write_text(json.dumps(row["config"]))
    return dict(estimate({"model": str(path), "runtime": "executorch", **row["plan"]}).bytes)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_arena_is_that_of_the_file(row: dict[str, Any], tmp_path: Path) -> None:
    """Witness: programs that ``export_llm`` made; of most the rules were written before they were exported."""
    assert asked(row, tmp_path)["planned"] == row["planned"]


WHOLE = [
    row for row in ROWS if "XNNPACK" not in row["name"] and row["plan"]["dtype"] != "float16" and "constants" in row
]


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row["name"])
def test_the_constants_are_those_of_the_file(row: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the data of programs without a delegate, to the scalars. Those in float16 are up to 6 % smaller."""
    assert 0 <= row["constants"] - asked(row, tmp_path)["mapped"] <= 64


@pytest.mark.parametrize("row", [row for row in ROWS if "run" in row], ids=lambda row: row["name"])
def test_a_process_is_as_large_as_predicted(row: dict[str, Any], tmp_path: Path) -> None:
    """Witness: processes that ran the programs: their memory that is no file's, and all of it."""
    found, run = asked(row, tmp_path), row["run"]
    anonymous = found["dirty"] - PROGRAM_BYTES
    assert anonymous == pytest.approx(run["RssAnon"], rel=xnnpack.UNCERTAINTY)
    assert found["process"] == pytest.approx(run["VmRSS"], rel=xnnpack.UNCERTAINTY)


QWEN_2 = next(row["config"] for row in ROWS if row["name"] == "XNNPACK, Qwen 2")
SMALL_QWEN_3 = {
    **QWEN_2,
    "model_type": "qwen3",
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 160,
}

SMALL_LLAMA = {
    **SMALL_QWEN_3,
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 8,
    "intermediate_size": 256,
}


@pytest.mark.parametrize(
    ("config", "keys", "grown"),
    [
        (QWEN_2, {"max_context_length": 1024}, [390688, 1121696]),
        (SMALL_LLAMA, {"max_context_length": 300, "max_seq_length": 200}, [102752, 509472]),
        (SMALL_QWEN_3, {"max_context_length": 64, "max_seq_length": 33}, [12448, 24864, 53280]),
    ],
)
def test_workspaces_are_what_a_process_asks_for(config: dict[str, Any], keys: dict[str, int], grown: list[int]) -> None:
    """Witness: processes of ExecuTorch 1.5.1 whose calls of posix_memalign were noted: each larger one in its turn."""
    shape = shape_of(config, "a model", ExecuTorchOptions(**keys), "8da4w", 128)
    sizes = xnnpack.workspaces(shape)
    assert [size for i, size in enumerate(sizes) if size > max(sizes[:i], default=0)] == grown


def test_a_file_is_read(tmp_path: Path) -> None:
    """Asks files that are none, or are cut: one line each."""
    for data, words in (
        (b"", "no ExecuTorch program"),
        (b"PK\x03\x04" + bytes(60), "no ExecuTorch program"),
        (struct.pack("<I4s4sIQQQ", 48, b"ET12", b"eh00", 32, 2**40, 0, 0) + bytes(60), "cut short"),
        (struct.pack("<I4s4sIQQQ", 2**31, b"ET12", b"eh00", 32, 60, 60, 8) + bytes(60), "damaged"),
        (struct.pack("<I4s", 8, b"ET12") + bytes(60), "no method"),
    ):
        path = tmp_path / "model.pte"
        path.write_bytes(data)
        with pytest.raises(InputError, match=words) as refused:
            pte_file.read(path)
        assert "\n" not in str(refused.value)


def test_a_file_answers_what_it_plans(tmp_path: Path) -> None:
    """Witness: a program of an MLP that the exporter made, with the arena that it printed; cut, it is refused."""
    path = tmp_path / "mlp.pte"
    data, planned = base64.b64decode(RECORD["file"]), RECORD["file_planned"]
    path.write_bytes(data)
    (method,) = pte_file.read(path).methods
    assert (method.name, method.planned, method.delegates, method.value) == ("forward", planned, (), None)
    result = estimate(str(path), device="pixel-8")
    assert result.bytes["planned"] == planned
    assert result.fits
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            pte_file.read(path)


Part = tuple[bytes, int]
"""What lies in a flatbuffer, and where in it the object begins: offsets are relative."""


def behind(data: bytes, entries: list[Any], width: int) -> bytes:
    """Entries of so many bytes; those that are parts lie behind them all, and their offsets take their places."""
    end, parts = len(data) + width * len(entries), b""
    for entry in entries:
        if isinstance(entry, tuple):
            offset = struct.pack("<I", end + len(parts) + entry[1] - len(data))
            parts, entry = parts + entry[0], offset
        data += entry.ljust(width, b"\0")
    return data + parts


def table(fields: dict[int, Any]) -> Part:
    count = max(fields, default=-1) + 1
    places = [4 + 8 * i if i in fields else 0 for i in range(count)]
    head = struct.pack(f"<HH{count}H", 4 + 2 * count, 4 + 8 * count, *places)
    return behind(head + struct.pack("<i", len(head)), [fields.get(i, b"") for i in range(count)], 8), len(head)


def listed(form: str, *entries: Any) -> Part:
    packed = [one if isinstance(one, tuple) else struct.pack(f"<{form}", one) for one in entries]
    return behind(struct.pack("<I", len(entries)), packed, struct.calcsize(form)), 0


def text(words: str) -> Part:
    return struct.pack("<I", len(words)) + words.encode(), 0


def test_what_methods_answer_and_who_runs_them(tmp_path: Path) -> None:
    """By hand, after ``schema/program.fbs``: an ``EValue`` of kind 2 is an ``Int``, whose field is left out where it is
    zero. The first of the arenas is none, constants lie in the file, and the file's context is the most."""
    integer, zero, number = table({0: struct.pack("<q", 2048)}), table({}), struct.pack("<B", 2)
    values = listed("I", table({0: b"\5", 1: zero}), table({0: number, 1: integer}), table({0: number, 1: zero}))

    def answers(name: str, inputs: list[int], outputs: list[int]) -> Part:
        return table({0: text(name), 2: values, 3: listed("i", *inputs), 4: listed("i", *outputs)})

    constant = table({0: listed("B", *range(24))})
    methods = [
        table(
            {
                0: text("forward"),
                2: values,
                3: listed("i", 0),
                4: listed("i", 1),
                7: listed("I", *[table({0: text("XnnpackBackend")})] * 2),
                8: listed("q", 7, 100, 28),
            }
        ),
        answers("get_max_context_len", [], [1]),
        answers("get_n_bos", [], [2]),
        answers("other", [], [0]),
        answers("two", [], [1, 1]),
        answers("none", [], [3]),
    ]
    data, start = table({1: listed("I", *methods), 2: listed("I", constant, constant), 3: listed("I", constant)})
    path = tmp_path / "made.pte"
    path.write_bytes(struct.pack("<I4s", 8 + start, b"ET12") + data)
    found = pte_file.read(path)
    assert (found.name, found.size, found.constants) == ("made.pte", 8 + len(data), 3 * 24)
    assert found.methods[0] == pte_file.Method("forward", 128, ("XnnpackBackend",), None)
    assert [one.value for one in found.methods[1:]] == [2048, 0, None, None, None]
    result = estimate(str(path), max_context_length=2048)
    assert (result.bytes["planned"], result.bytes["weights"]) == (128, 72)
    assert any("what XNNPACK packs is counted as large as in the file" in warning for warning in result.warnings)
    with pytest.raises(InputError, match=r"a context of 2,049 does not go with made\.pte, which has 2,048; export it"):
        estimate(str(path), max_context_length=2049)


@pytest.mark.parametrize("field", [1, 2, 7], ids=["methods", "constants", "delegates"])
def test_many_entries_of_one_table_are_refused_soon(field: int, tmp_path: Path) -> None:
    """Lists whose entries all point at one table, which has a long name or a list of its own."""
    entries = 400_000
    inner = table({0: listed("B", *bytes(3000)), 7: listed("I", table({0: text("x" * 3000)}))})
    shared, place = inner
    many = struct.pack("<I", entries) + b"".join(
        struct.pack("<I", 4 * (entries - i) + place) for i in range(entries)
    ) + shared  # fmt: skip
    fields = {field: (many, 0)} if field != 7 else {1: listed("I", table({7: (many, 0)}))}
    data, start = table(fields)
    path = tmp_path / "many.pte"
    path.write_bytes(struct.pack("<I4s", 8 + start, b"ET12") + data)
    begun = time.process_time()
    with pytest.raises(InputError, match="is damaged: its"):
        pte_file.read(path)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "model.pte")
    with pytest.raises(InputError, match="not a regular file; give a"):
        estimate(str(tmp_path / "model.pte"), device="pixel-8")


def test_a_damaged_file_is_refused_or_read(tmp_path: Path) -> None:
    """Asks files with one byte changed: no other error than ours, and no endless list."""
    path, data = tmp_path / "mlp.pte", base64.b64decode(RECORD["file"])
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x91]) + data[place + 1 :])
        with suppress(InputError):
            pte_file.read(path)


QWEN = {"model": "qwen3-0.6b", "runtime": "executorch"}


def test_what_an_export_fixes() -> None:
    """Derives: the cache of Qwen3 0.6B is 28 layers of 8 heads of 128 in float32, or in 8 bits with 5 bytes more. A
    longer call makes the arena larger, not the cache.
    """
    plain = estimate(QWEN, seq=1024).bytes
    assert plain["kv_cache"] == 2 * 28 * 8 * 128 * 1024 * 4
    assert estimate(QWEN, seq=1024, quantize_kv_cache=True).bytes["kv_cache"] == 2 * 28 * 8 * (128 + 5) * 1024
    longer = estimate(QWEN, seq=1024, max_seq_length=1024).bytes
    assert longer["kv_cache"] == plain["kv_cache"]
    assert longer["planned"] > plain["planned"]
    assert estimate(QWEN, seq=64, max_context_length=1024).bytes["kv_cache"] == plain["kv_cache"]
    assert estimate(QWEN, seq=1024, dtype="float32").bytes["packed"] == 0  # no delegate, as the exporter's default is


def test_a_device_counts_what_its_system_counts() -> None:
    """Asks limits: iOS counts dirty memory and its RAM what is in use, Android what is in use, a budget the process."""
    for device, counted in (("iphone-16", ["dirty", "used"]), ("pixel-9", ["used"]), (None, ["process"])):
        where = {"device": device} if device else {"budget": "4GiB"}
        plan = parse_plan({**QWEN, **where})
        limits = plan.engine.limits(plan, plan.engine.model(plan, load))
        assert estimate(plan).against == counted[0]
        assert [one.against for one in limits] == counted


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "gemma-3-1b", "runtime": "executorch"}, "gemma3_text, which export_llm"),
        ({**QWEN, "executorch": {"max_seq_length": 512, "max_context_length": 256}}, "max_seq_length: 512 does not go"),
        ({**QWEN, "executorch": {"context": 1}}, "unknown key 'executorch.context'"),
        ({**QWEN, "device": "pixel-9,pixel-8"}, "unknown device"),
        ({"model": "nothing.pte"}, "no file 'nothing.pte'"),
        ({"model": "llama-3.2-1b", "runtime": "mlc"}, "no published figure with runtime: mlc"),
        (
            {"model": "llama-3.2-3b", "runtime": "mlc", "device": "iphone-16", "seq": 3000},
            "more than the 2,048",
        ),
        ({"model": "gemma-4-e2b", "runtime": "litert", "device": "pixel-9"}, "litert on pixel-9; published are"),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        estimate(keys)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("runtime", ["litert", "mlc"])
def test_published_figures_are_what_was_published(runtime: str) -> None:
    """Asks the table: each figure has whose it is and a source, and an answer says that it is no prediction."""
    for row in _rows(runtime):
        assert row.source
        assert row.context <= 4096
        device = {"ios": "iphone-17-pro-max"}.get(row.on, "galaxy-s24-ultra")
        result = estimate(row.model, runtime=runtime, device=device, seq=row.context)
        assert result.bytes["process"] <= row.peak_bytes
        assert (result.bytes["file"] > 0) is (runtime == "litert")  # of MLC's no size was published
        assert any(note.startswith("a published figure, no prediction") for note in result.warnings)


def test_the_longest_context_of_a_file_is_its_own(tmp_path: Path) -> None:
    row = max_context("llama-3.2-3b", runtime="mlc", device="iphone-16-pro")
    assert (row.answer, row.binds, row.verdict) == (2048, "the model's own context", "fits")


def test_engines_are_compared_on_one_phone(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the command: a row of each engine that has an answer, and a line of each that has none."""
    command = ["max-context", "llama-3.2-1b", "--engines", "llama.cpp,executorch,mlc", "--device", "galaxy-s24"]
    text = output(*command)
    for words in ("by engine", "ExecuTorch", "llama.cpp", "No answer from mlc", "Assumed limit of one application"):
        assert words in text
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["runtime"] for row in printed["rows"]] == ["llama.cpp", "executorch"]
    assert printed["rows"][1]["recipe"] == "8da4w"
    assert len(printed["refused"]) == 1
    assert main(["max-context", "llama-3.2-1b", "--engines", "ollama2", "--device", "galaxy-s24"]) == 2
    assert "known are llama.cpp, executorch, litert, mlc" in " ".join(capsys.readouterr().err.split())
    assert "One app on iPhone 15 gets 3.00 GiB, 4.00 GiB with the" in " ".join(
        output("max-context", "llama-3.2-1b", "--device", "iphone-15").split()
    )


@pytest.mark.parametrize("positions", [0, -1, None, "many", 2.0])
def test_a_model_without_positions_is_refused_by_name(positions: Any) -> None:
    assert Model("small", {"max_position_embeddings": 1}, None).trained == 1
    with pytest.raises(InputError, match="model: small does not say for how many positions it was made"):
        Model("small", {"max_position_embeddings": positions}, None).trained  # noqa: B018
