"""``estimator compare-snapshot``: real steps, edited predictions, parts of recordings, and files that are none."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estimator.answers import snapshot_comparison
from estimator.io import plain_pickle
from estimator.plans.plan import parse_plan
from estimator.show.cli import main
from tests.cases.small_models import TINY, write_config
from tests.helpers.commands import child
from tests.helpers.recorded_snapshots import recorded_step

MODEL = "smollm-135m"
PLAN = ["--method", "lora", "--seq", "64", "--previous-seq", "64", "--runtime", "torch-cuda"]

Compared = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a plan of a small model."""
    return [write_config(tmp_path_factory.mktemp("model"), {**TINY, "num_hidden_layers": 9}), *PLAN]


@pytest.fixture(scope="module")
def written(plan: list[str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The snapshot of a process of two equal steps."""
    path = tmp_path_factory.mktemp("snapshot") / "predicted.pickle"
    assert main(["timeline", *plan, "--output", str(path)]) == 0
    return path.read_bytes()


@pytest.fixture
def predicted(written: bytes) -> Any:
    """It, for a test to change."""
    return pickle.loads(written)


@pytest.fixture
def compared(plan: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compared:
    """The record of the command for a snapshot; 1 where it has a first difference."""

    def ask(snapshot: Any, *arguments: str) -> dict[str, Any]:
        path = tmp_path / "recorded.pickle"
        path.write_bytes(pickle.dumps(snapshot, protocol=4))
        capsys.readouterr()
        status = main(["compare-snapshot", str(path), *(arguments or plan), "--json"])
        record: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert status == (record["first_difference"] is not None)
        return record

    return ask


def second_step(snapshot: Any) -> list[int]:
    """The entries that allocate in the second step."""
    trace = snapshot["device_traces"][0]
    start = next(n for n, one in enumerate(trace) if one["action"] == "snapshot")
    return [n for n, one in enumerate(trace) if n > start and one["action"] == "alloc"]


REAL: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": "lora"},
    {"method": "ia3", "checkpointing": "layer"},
    {"method": "full", "optimizer": "sgd-momentum", "keep_logits": False},
]


@pytest.mark.share(3)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("keys", REAL, ids=str)
def test_a_real_step_is_equal(keys: dict[str, Any], compared: Compared, tmp_path: Path) -> None:
    """Witness: measurement. From a kilobyte on, every allocation has its size, its place and its end; so has the peak.

    Below are numbers and the masks of short sequences.
    """
    model = write_config(tmp_path / "model", {**TINY, "num_hidden_layers": 5})
    plan = {"model": model, "batch": 2, "seq": 40, "dtype": "float32", "attention": "eager", **keys}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    record = compared(recorded_step(parse_plan(plan)), "--plan", str(file), "--at-least", "1000B")
    count = record["predicted"]["allocations"]
    assert record["first_difference"] is None
    assert record["equal_sizes"] == record["equal_lifetimes"] == record["recorded"]["allocations"] == count > 200
    risen = [record[side]["peak"] - record[side]["live_at_start"] for side in ("recorded", "predicted")]
    assert risen[0] == pytest.approx(risen[1], abs=1000)


@pytest.mark.extra("trace")
def test_a_real_step_has_what_the_rules_make(compared: Compared, tmp_path: Path) -> None:
    """Witness: measurement. Small allocations are compared, too: numbers of 8 bytes are all that is on one side."""
    model = write_config(tmp_path / "model", {**TINY, "num_hidden_layers": 5})
    plan = {"model": model, "batch": 2, "seq": 40, "dtype": "float32"}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    record = compared(recorded_step(parse_plan(plan)), "--plan", str(file))
    assert record["first_difference"]["predicted"]["bytes"] == 8
    assert record["equal_sizes"] > 0.8 * record["predicted"]["allocations"]


@pytest.mark.share(3)
@pytest.mark.consistency
def test_the_prediction_is_equal_to_itself(predicted: Any, compared: Compared) -> None:
    """With all totals of its step; of the first and the second the later is taken."""
    record = compared(predicted)
    assert record["first_difference"] is None
    assert record["equal_sizes"] == record["equal_lifetimes"] == record["predicted"]["allocations"]
    for key in ("allocations", "live_at_start", "peak"):  # what is reserved depends on the steps before
        assert record["recorded"][key] == record["predicted"][key]
    assert "predicted step 2" in record["assumed"][0]


def more(trace: list[Any], at: int) -> None:
    """One allocation more."""
    new = {**trace[at], "addr": 1 << 60, "size": 4321, "frames": [{"filename": "a/clip.py", "line": 7, "name": "norm"}]}
    freed = {**new, "action": "free_requested"}
    trace[at:at] = [new, freed]


def other_size(trace: list[Any], at: int) -> None:
    """Another size."""
    trace[at] = {**trace[at], "size": trace[at]["size"] + 8}


def less(trace: list[Any], at: int) -> None:
    """One allocation less."""
    end = next(n for n in range(at, len(trace)) if trace[n]["addr"] == trace[at]["addr"] and n > at)
    del trace[end], trace[at]


def freed_later(trace: list[Any], at: int) -> None:
    """The allocation is freed after the next but one."""
    end = next(n for n in range(at + 1, len(trace)) if trace[n]["addr"] == trace[at]["addr"])
    following = [n for n in range(end, len(trace)) if trace[n]["action"] == "alloc"][1]
    trace[at] = {**trace[at], "addr": 1 << 60}  # the allocator has given the other one to somebody else
    trace.insert(following + 1, {**trace[end], "addr": 1 << 60})
    del trace[end]


@pytest.mark.share(9)
@pytest.mark.parametrize(
    ("edit", "kind"),
    [(more, "recorded only"), (other_size, "size"), (less, "predicted only"), (freed_later, "freed later")],
)
@pytest.mark.parametrize("position", [3, 700, 2000])
def test_an_edit_is_named(edit: Any, kind: str, position: int, predicted: Any, compared: Compared) -> None:
    """Witness: the edit. What differs, where, and what of both sides it is."""
    trace, places = predicted["device_traces"][0], second_step(predicted)
    sizes = [trace[n]["size"] for n in places]
    ends = {one["addr"]: n for n, one in enumerate(trace) if one["action"] == "free_requested"}
    at = next(
        n
        for n in range(position % len(places), len(places))
        if sizes[n] not in sizes[n - 3 : n] + sizes[n + 1 : n + 4] and places[n] < ends.get(trace[places[n]]["addr"], 0)
    )
    original = copy.deepcopy(trace[places[at]])
    edit(trace, places[at])
    record = compared(predicted)
    first = record["first_difference"]
    assert first["kind"] == kind
    assert at <= first["position"] <= (at + 5000 if kind == "freed later" else at)
    count = record["predicted"]["allocations"]
    assert record["equal_sizes"] == count - (kind in ("size", "predicted only"))
    assert record["equal_lifetimes"] == record["equal_sizes"] - (kind == "freed later")
    if first["predicted"] is not None:
        assert first["predicted"]["bytes"] == original["size"]
        assert first["predicted"]["module"] == original["frames"][0]["filename"]
        assert first["predicted"]["phase"] == original["frames"][-1]["name"]
    if kind == "recorded only":
        assert first["recorded"]["frames"] == [{"filename": "a/clip.py", "line": 7, "name": "norm"}]
        assert first["recorded"]["bytes"] == 4321


@pytest.mark.share(3)
def test_the_difference_in_words(
    plan: list[str], predicted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table, the sentence with both sides, and ``--quiet``; lines no wider than the terminal."""
    monkeypatch.setenv("COLUMNS", "70")
    path = tmp_path / "recorded.pickle"
    more(predicted["device_traces"][0], second_step(predicted)[90])
    path.write_bytes(pickle.dumps(predicted, protocol=2))
    capsys.readouterr()
    assert main(["compare-snapshot", str(path), *plan]) == 1
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 70
    text = " ".join(shown.split())
    assert "First difference, recorded only, at allocation 90 of the step" in text
    assert "4,321 B (4.22 KiB) by clip.py:7:norm." in text
    assert "peak of the step" in text
    assert main(["compare-snapshot", str(path), *plan, "--quiet"]) == 1
    assert capsys.readouterr().out.startswith("First difference")
    assert main(["compare-snapshot", str(path), *plan, "--quiet", "--at-least", "8KiB"]) == 0
    assert capsys.readouterr().out == "equal\n"


def test_odd_frames(predicted: Any, compared: Compared) -> None:
    """Frames are told in part: those that are well-formed, with names of a bearable length."""
    trace, places = predicted["device_traces"][0], second_step(predicted)
    good = {"filename": "x" * 999 + "\x1b.py", "line": 1, "name": "é" * 999}
    odd = [3, {}, {"filename": 1, "line": 1, "name": "f"}, {"filename": "a.py", "line": "1", "name": "f"}, good]
    trace[places[50]] = {**trace[places[50]], "size": 4321, "frames": odd * 9000}
    frames = compared(predicted)["first_difference"]["recorded"]["frames"]
    assert len(frames) == 16
    assert frames[0] == {"filename": "x" * 196 + "\x1b.py", "line": 1, "name": "é" * 200}


def test_a_part_of_a_step(predicted: Any, compared: Compared) -> None:
    """A ring buffer has the last entries only; a recording that was stopped has no end."""
    trace, places = predicted["device_traces"][0], second_step(predicted)
    kept = trace[places[400] :]
    record = compared({**predicted, "device_traces": [[], kept]})
    assert record["first_difference"] is None
    assert record["predicted"]["allocations"] == record["equal_sizes"] == len(places) - 400
    assert any("begins within the step (predicted allocations left out: 400)" in one for one in record["assumed"])
    assert "device 1" in record["assumed"][0]
    stopped = trace[places[0] : places[500]]
    record = compared({**predicted, "device_traces": [stopped]})
    assert record["first_difference"] is None
    assert record["equal_sizes"] == 500
    assert any("ends within the step" in one for one in record["assumed"])


def test_several_steps(predicted: Any, compared: Compared) -> None:
    """Of equal steps the last one is taken; what every step has more than the prediction is found between two."""
    trace, places = predicted["device_traces"][0], second_step(predicted)
    step = trace[places[0] : places[-1] + 1]
    extra = {"action": "alloc", "addr": 1, "size": 12345, "frames": []}
    freed = {**extra, "action": "free_requested"}
    traces = [[*step, extra, freed, *step, extra, freed, *step[: len(step) // 2]]]
    record = compared({**predicted, "device_traces": traces})
    first = record["first_difference"]
    assert (first["kind"], first["recorded"]["bytes"]) == ("recorded only", 12345)
    assert first["position"] == len(places)


@pytest.mark.share(6)
def test_another_plan_differs(plan: list[str], predicted: Any, compared: Compared) -> None:
    """A longer sequence: hardly any size is equal, and there is a first difference all the same."""
    record = compared(predicted, plan[0], "--method", "lora", "--seq", "65", "--runtime", "torch-cuda")
    assert record["first_difference"] is not None
    assert record["equal_sizes"] < record["predicted"]["allocations"] // 2


class Runs:
    """Unpickling an instance would call a function."""

    def __reduce__(self) -> Any:
        return print, ("it runs",)


FILES: dict[str, tuple[bytes, str]] = {
    "text": (b'{"segments": []}', "no pickle"),
    "empty": (b"", "no pickle"),
    "old": (pickle.dumps({}, protocol=0), "no pickle"),
    "object": (pickle.dumps(Runs()), "GLOBAL"),
    "class": (pickle.dumps({"segments": Path}), "GLOBAL"),
    "set": (pickle.dumps({"a": {1}}, protocol=4), "EMPTY_SET"),
    "bytes": (pickle.dumps({"a": b"x"}, protocol=4), "SHORT_BINBYTES"),
    "cut off": (pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc"}] * 9]})[:-9], "damaged"),
    "large number": (pickle.dumps([1 << 900], protocol=4), "whole number"),
    "deep": (b"\x80\x04" + b"]" * 2_000_000, "nested"),
    "deep tuple as a key": (b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"K\x01s.", "damaged"),
    "memo": (b"\x80\x04]r\xff\xff\xff\x7f.", "damaged"),
    "itself": (b"\x80\x04}q\x00\x8c\x0ddevice_tracesh\x00s.", "no memory snapshot"),
    "segments only": (pickle.dumps([{"blocks": []}]), "without a history"),
    "no history": (pickle.dumps({"segments": [], "device_traces": [[]]}), "no history"),
    "no allocation": (pickle.dumps({"segments": [], "device_traces": [[{"action": "snapshot"}]]}), "no allocation"),
    "no list": (pickle.dumps({"segments": [], "device_traces": 3}), "no memory snapshot"),
    "no entry": (pickle.dumps({"segments": [], "device_traces": [[3]]}), "no memory snapshot"),
    "no size": (pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": 1}]]}), "no size"),
    "negative": (
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc", "addr": -1, "size": 2}]]}),
        "no addr",
    ),
    "no segments": (pickle.dumps({"device_traces": [[{"action": "alloc", "addr": 1, "size": 2}]]}), "segments"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wrong, exit status 2; nothing runs."""
    content, says = FILES[name]
    path = tmp_path / "x.pickle"
    path.write_bytes(content)
    assert main(["compare-snapshot", str(path), MODEL, *PLAN]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert "Traceback" not in captured.err


def test_values_take_little_memory(tmp_path: Path) -> None:
    """Asks the contract: six million dictionaries are too many for a process of 500 MB, and it says so."""
    path = tmp_path / "x.pickle"
    path.write_bytes(b"\x80\x04]" + (b"(" + b"}" * 100_000 + b"e") * 60 + b".")
    done = child("compare-snapshot", str(path), MODEL, *PLAN)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "max_entries" in done.stderr


@pytest.mark.parametrize(
    ("module", "limit", "value", "says"),
    [
        (plain_pickle, "MOST_BYTES", 1 << 10, "larger than"),
        (plain_pickle, "MOST_INSTRUCTIONS", 1000, "instructions"),
        (plain_pickle, "MOST_HELD", 1000, "values"),
        (snapshot_comparison, "MOST_ENTRIES", 1000, "entries"),
    ],
)
def test_limits(
    module: Any,
    limit: str,
    value: int,
    says: str,
    predicted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file beyond a limit is refused, whatever it holds."""
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(predicted, protocol=4))
    monkeypatch.setattr(module, limit, value)
    capsys.readouterr()
    assert main(["compare-snapshot", str(path), MODEL, *PLAN]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.pickle", MODEL], "none.pickle"),
        ([], "FILE"),
        (["none.pickle"], "no model"),
        (["none.pickle", MODEL, "--runtime", "llama.cpp"], "the format is PyTorch's"),
        (["none.pickle", MODEL, "--at-least", "many"], "many"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is wrong, exit status 2."""
    assert main(["compare-snapshot", *arguments]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
    assert says in captured.err
