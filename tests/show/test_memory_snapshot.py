"""``estimator timeline --output FILE.pickle``: PyTorch's own tools read it, and its totals are the estimate's."""

from __future__ import annotations

import json
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.engines.torch_cuda.caching_allocator import CachingAllocator
from estimator.operators.cuda.cublas import workspaces
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main

MODEL = "smollm2-135m"
GPU: list[dict[str, Any]] = [
    {"method": "lora", "seq": 200},
    {"method": "full", "checkpointing": "layer", "seq": 100, "expandable_segments": True},
    {"method": "lora", "seq": 64, "dtype": "nf4", "compute_dtype": "bfloat16", "model": "qwen2.5-0.5b"},
    {"method": "lora", "seq": 300, "torch": "2.12", "loss": "chunked"},
    {"task": "infer", "seq": 100},
]
CPU: list[dict[str, Any]] = [
    {"method": "lora", "seq": 200},
    {"method": "full", "checkpointing": "layer", "seq": 100, "model": "gpt2"},
    {"method": "lora", "seq": 64, "dtype": "nf4", "compute_dtype": "bfloat16"},
    {"method": "ia3", "seq": 40, "gradient_accumulation_steps": 2, "optimizer": "adafactor"},
    {"method": "mezo", "seq": 30},
    {"task": "infer", "seq": 100, "use_cache": True},
]
VIEWER = {  # torch/utils/viz/MemoryViz.js: unpickle
    *("APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPUT", "BINUNICODE", "DICT"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "FRAME", "LIST", "LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK"),
    *("MEMOIZE", "NEWFALSE", "NEWTRUE", "NONE", "PROTO", "SETITEM", "SETITEMS", "SHORT_BINUNICODE", "STOP"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}


def written(path: Path, **keys: Any) -> Any:
    """The snapshot that the command writes for a plan."""
    plan, output = path / "plan.json", path / "step.pickle"
    plan.write_text(json.dumps({"model": MODEL, **keys}))
    assert main(["timeline", "--plan", str(plan), "--output", str(output)]) == 0
    return pickle.loads(output.read_bytes())


def peaks(trace: list[dict[str, Any]]) -> dict[str, int]:
    """The largest totals of a trace: of what was asked for, and of what was taken from the device."""
    total = {"requested": 0, "reserved": 0}
    largest = dict(total)
    for entry in trace:
        kind = "reserved" if entry["action"].startswith("segment") else "requested"
        if entry["action"] in ("alloc", "segment_alloc", "segment_map"):
            total[kind] += entry["size"]
        elif entry["action"] in ("free_completed", "segment_free", "segment_unmap"):
            total[kind] -= entry["size"]
        largest[kind] = max(largest[kind], total[kind])
    return largest


@pytest.mark.share(2)
@pytest.mark.parametrize("keys", GPU, ids=str)
def test_a_gpu_snapshot_has_the_estimates_bytes(keys: dict[str, Any], tmp_path: Path) -> None:
    """Reserved bytes from the segments; allocated bytes from the requests, which another allocator is given."""
    snapshot = written(tmp_path, runtime="torch-cuda", **keys)
    plan = parse_plan({"model": MODEL, "runtime": "torch-cuda", **keys})
    found = estimate(plan)
    (trace,) = snapshot["device_traces"]
    assert peaks(trace)["reserved"] == found.bytes["reserved_peak"]
    allocator = CachingAllocator(plan.expandable_segments, ties="block" if plan.torch == "2.12" else "segment")
    blocks = {}
    for entry in trace:
        if entry["action"] == "alloc":
            blocks[entry["addr"]] = allocator.malloc(entry["size"])
            assert blocks[entry["addr"]].address == entry["addr"]
        elif entry["action"] == "free_completed":
            allocator.free(blocks.pop(entry["addr"]))
        elif entry["action"] in ("segment_free", "segment_unmap"):
            allocator.empty_cache()
    assert allocator.peak_allocated == found.bytes["allocated_peak"]
    segments = snapshot["segments"]
    after = found.phases[-1]
    assert sum(one["allocated_size"] for one in segments) == after.allocated
    assert sum(one["total_size"] for one in segments) == after.reserved
    for one in segments:
        assert sum(block["size"] for block in one["blocks"]) == one["total_size"]


def test_what_is_asked_for_is_what_is_alive(tmp_path: Path) -> None:
    """Without the step before's output, the trace's peak is the ledger's and the workspaces."""
    keys = {"runtime": "torch-cuda", "method": "full", "seq": 150, "previous_output": False}
    plan = parse_plan({"model": MODEL, **keys})
    step = resolve(plan).step
    taken = workspaces(step.procedure.runs_backward) * step.device.cublas_workspace
    (trace,) = written(tmp_path, **keys)["device_traces"]
    assert peaks(trace)["requested"] == estimate(plan).bytes["peak"] + taken


@pytest.mark.share(2)
@pytest.mark.parametrize("keys", CPU, ids=str)
def test_a_cpu_snapshot_has_the_estimates_bytes(keys: dict[str, Any], tmp_path: Path) -> None:
    """Every tensor is a segment, so both totals are the peak."""
    snapshot = written(tmp_path, **keys)
    found = estimate(parse_plan({"model": MODEL, **keys})).bytes
    (trace,) = snapshot["device_traces"]
    assert peaks(trace) == {"requested": found["peak"], "reserved": found["peak"]}
    assert sum(one["allocated_size"] for one in snapshot["segments"]) >= found["resident"]


@pytest.mark.share(2)
@pytest.mark.extra("trace")
@pytest.mark.parametrize("keys", [*GPU[:3], {**CPU[0], "runtime": "torch-cpu"}], ids=str)
def test_pytorch_reads_it(keys: dict[str, Any], tmp_path: Path) -> None:
    """Witness: the functions of ``torch/cuda/_memory_viz.py``, which check the sums of what they read."""
    from torch.cuda import _memory_viz as viewer

    snapshot = written(tmp_path, **{"runtime": "torch-cuda", **keys})
    reserved = sum(one["total_size"] for one in snapshot["segments"])
    assert f"total_reserved: {viewer.Bytes(reserved)}" in viewer.segsum(snapshot)
    for page in (
        viewer.trace_plot(snapshot),
        viewer.segment_plot(snapshot),
        viewer.trace_plot(snapshot, plot_segments=True),
    ):
        assert "MemoryViz.js" in page
    for lines in (viewer.memory(snapshot, str), viewer.segments(snapshot, str)):
        stacks = dict(line.rsplit(" ", 1) for line in lines.splitlines())
        assert any("step:1:load;module:0:model;" in stack for stack in stacks)
        assert sum(int(line.rsplit(" ", 1)[1]) for line in lines.splitlines()) == reserved
    viewer.filter_alloc_free_pairs(snapshot)
    left = {entry["action"] for entry in snapshot["device_traces"][0]}
    assert left <= {"alloc", "segment_alloc", "segment_map", "segment_free", "segment_unmap", "snapshot"}


def test_the_viewers_javascript_reads_it(tmp_path: Path) -> None:
    """It knows these instructions only, and fails where a trace has categories without ``unknown``."""
    snapshot = written(tmp_path, method="lora", seq=64)
    content = (tmp_path / "step.pickle").read_bytes()
    names = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert names <= VIEWER
    categories = {entry["category"] for entry in snapshot["device_traces"][0]}
    assert categories == {"parameter", "optimizer_state", "gradient", "activation", "temporary", "unknown"}


def test_the_frames_name_module_operator_and_phase(tmp_path: Path) -> None:
    """Innermost frame first; a layer that is not run itself has its own name, and a recomputation its own phase."""
    snapshot = written(tmp_path, runtime="torch-cuda", method="lora", seq=64, checkpointing="layer")
    allocations = [entry for entry in snapshot["device_traces"][0] if entry["action"] == "alloc"]
    stacks = [[(f["filename"], f["line"], f["name"]) for f in entry["frames"]] for entry in allocations]
    around = [("model.layers", 0, "17"), ("model", 0, "layers"), ("module", 0, "model")]
    mlp = [
        ("model.layers.17.mlp.act_fn", 0, "silu"),
        ("model.layers.17.mlp", 0, "act_fn"),
        ("model.layers.17", 0, "mlp"),
        *around,
    ]
    for step in (1, 2):
        for phase in ("forward", "recomputation"):
            assert [*mlp, ("step", step, phase)] in stacks
    assert any(
        stack[0] == ("model.layers.17.mlp.act_fn", 0, "SiluBackward0") and stack[-1][2] == "backward"
        for stack in stacks
    )
    assert [("optimizer", 0, "state"), ("module", 0, "optimizer"), ("step", 1, "optimizer step")] in stacks
    loaded = [("model.embed_tokens", 0, "weight"), ("model", 0, "embed_tokens"), ("module", 0, "model")]
    assert stacks[0] == [*loaded, ("step", 1, "load")]
    assert [entry["time_us"] for entry in snapshot["device_traces"][0]] == list(
        range(len(snapshot["device_traces"][0]))
    )


def test_out_of_memory(tmp_path: Path) -> None:
    """The trace ends where the process does."""
    path = tmp_path / "short.pickle"
    command = ["timeline", MODEL, "--runtime", "torch-cuda", "--seq", "2048", "--budget", "1GiB"]
    assert main([*command, "--output", str(path)]) == 1
    last = pickle.loads(path.read_bytes())["device_traces"][0][-1]
    assert last["action"] == "oom"
    assert 0 <= last["device_free"] < last["size"] + (20 << 20)
    assert "addr" not in last
