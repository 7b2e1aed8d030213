"""Processes on a GPU: a ledger's allocations replayed, what a budget does to them, and verdicts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator import estimate
from estimator.answers.formulas import compile_plan, regime_of
from estimator.answers.result import Result
from estimator.engines.devices import context_bytes, find
from estimator.engines.replay import KINDS, Timeline
from estimator.engines.snapshot import Snapshot
from estimator.engines.torch_cuda.caching_allocator import Block, CachingAllocator, OutOfMemory, one_by_one
from estimator.engines.torch_cuda.nccl import FITTED, LEAST, NVLINK
from estimator.engines.torch_cuda.process import Process, RateLimiter, replay
from estimator.export.code_python import evaluate
from estimator.export.components import FLOORS
from estimator.export.formula import formula
from estimator.ledger import Events, Ledger
from estimator.operators.cuda.cublas import workspaces
from estimator.operators.device import CPU
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main

MODEL = "smollm2-135m"
MIB = 2**20


def planned(**keys: Any) -> Any:
    return parse_plan({"model": MODEL, "method": "lora", "runtime": "torch-cuda", "seq": 300, **keys})


@dataclass
class Piece:
    """A block as large as its request."""

    size: int


class NoRounding:
    """An allocator that takes what it is asked for: its peak is what the ledger says is alive."""

    def __init__(self) -> None:
        self.allocated = self.peak_allocated = self.reserved = self.peak_reserved = 0

    def reset_peaks(self) -> None:
        self.peak_allocated = self.allocated

    def malloc(self, nbytes: int, copies: int = 1, stream: str = "") -> Piece:
        self.allocated += nbytes * copies
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return Piece(nbytes)

    def reached(self, event: int) -> None:
        """No block waits."""

    def free(self, piece: Piece, until: int | None = None) -> None:
        self.allocated -= piece.size

    play = one_by_one

    def empty_cache(self) -> None:
        """There is no cache."""


QLORA = {"dtype": "nf4", "compute_dtype": "bfloat16", "kbit_preparation": True, "autocast": "bfloat16"}
FSDP1 = {"name": "fsdp1", "world_size": 4}
SETTINGS: list[dict[str, Any]] = [
    {"method": "full"},
    {},
    {"method": "ia3", "batch": 3, "attention": "eager", "dtype": "float16"},
    {"method": {"name": "lora", "target_modules": "all-linear"}, "checkpointing": "layer", "seq": 1},
    {"method": "full", "optimizer": "adamw-foreach", "gradient_clipping": True, "checkpointing": "every-4"},
    {"dtype": "nf4", "compute_dtype": "bfloat16", "kbit_preparation": True, "device": "t4"},
    {"dtype": "int8", "device": "t4"},
    {"dtype": "int8-weight-only"},
    {"method": "bitfit", "model": "qwen2.5-0.5b", "attention": "flash", "device": "h100-80gb"},
    {"autocast": "bfloat16", "dtype": "float32", "attention_mask": True, "batch": 2},
    {"loss": "liger", "mlp_chunks": 3, "keep_logits": False},
    {**QLORA, "attention": "flash", "loss": "liger", "checkpointing": "layer", "device": "rtx-4090", "batch": 2},
    {**QLORA, "loss": "cce", "device": "a100-80gb", "method": {"name": "lora", "modules_to_save": ["lm_head"]}},
    {"dtype": "float32", "autocast": "float16", "loss": "liger", "method": "full", "device": "t4", "seq": 150},
    {"gradient_accumulation_steps": 2, "optimizer": "sgd-momentum"},
    {"method": {"name": "mezo", "adapter": "lora"}},
    {"task": "infer", "use_cache": True},
    {"sharding": {**FSDP1, "groups": "transformers"}, "checkpointing": "layer", "attention": "flash"},
    {"sharding": {**FSDP1, "param_dtype": "bfloat16", "replicate": 2}, "dtype": "float32", "method": "full"},
    *(
        {"sharding": {"name": name, "world_size": world, "reduce_bucket_size": 2_000_000, **keys}, "method": method}
        for name, world, keys, method in (
            ("zero1", 3, {}, "full"),
            ("zero2", 8, {"overlap_comm": True}, "full"),
            ("zero2", 5, {}, "lora"),
            ("zero3", 3, {"stage3_param_persistence_threshold": 1_000}, "full"),
            ("zero3", 3, {}, "lora"),
        )
    ),
]


def test_the_first_step_makes_the_workspaces() -> None:
    """As cuBLAS does at the first product of each thread. They stay beside the parameters in later steps."""
    timeline = Timeline()
    plan = planned()
    process = Process(resolve(plan), timeline=timeline)
    held = []
    for _ in range(2):
        process.step(plan.batch, plan.seq)
        held.append(timeline.live[-1][KINDS.index("parameters")])
    assert held[0] == held[1]


def test_llm_int8_is_loaded_one_weight_after_the_other() -> None:
    """Witness: ``Int8Params._quantize``, and reports of 8 to 10 GB for a loaded 7B.

    While one weight is quantised it is there in bfloat16 and in float16. No other one has 16 bits.
    """
    plan = parse_plan({"model": "llama-2-7b", "dtype": "int8", "task": "infer", "seq": 8, "device": "rtx-3090"})
    timeline = Timeline()
    process = Process(resolve(plan), timeline=timeline)
    process.step(1, 8)
    loaded, largest = estimate(plan).bytes["resident"], 4096 * 11008
    held = timeline.live[: next(at for at, part in timeline.parts if part != "load")]
    weights = [live[KINDS.index("parameters")] for live in held]
    assert max(weights[2:]) <= loaded + 4 * largest
    assert 8e9 > estimate(plan).bytes["process"] > loaded


@pytest.mark.share(12)
@pytest.mark.parametrize("keys", SETTINGS, ids=lambda keys: ",".join(map(str, keys.values())) or "default")
def test_the_log_has_the_ledgers_peak(keys: dict[str, Any]) -> None:
    """Witness: the ledger with layers counted. Every layer written out, replayed without rounding, is the same."""
    plan = planned(previous_output=False, **keys)
    resolved = resolve(plan)
    process = Process(resolved)
    process.allocator = NoRounding()  # type: ignore[assignment]
    for batch in plan.engine.batches(plan):
        process.step(batch.rows, batch.seq, batch.empty_cache)
    taken = workspaces(resolved.step.procedure.runs_backward) * resolved.step.device.cublas_workspace
    assert process.allocated_peak == estimate(plan).bytes["peak"] + taken


@pytest.mark.share(4)
@pytest.mark.parametrize("keys", SETTINGS, ids=lambda keys: ",".join(map(str, keys.values())) or "default")
def test_floor(keys: dict[str, Any]) -> None:
    """No process is below the closed form; its rounding is at most a MiB a block, as PyTorch leaves blocks unsplit."""
    plan = planned(**keys)
    found = estimate(plan).bytes
    if plan.piecewise is None:
        compiled = compile_plan(plan, regime_of(resolve(plan)))
        formulas = {name: formula(compiled, name) for name in FLOORS}
        at, process = (
            evaluate(f, {v.name: compiled.given[v.name] for v in f.variables})[name] for name, f in formulas.items()
        )
        assert at <= found["allocated_peak"] <= 1.05 * at
        linked = plan.engine.device_of(plan).capability in NVLINK
        fitted = FITTED - LEAST if plan.sharding is not None and linked else 0
        assert process - at == found["process"] - found["reserved_peak"] - fitted
    assert found["peak"] < found["allocated_peak"] <= found["reserved_peak"] < found["process"]


def test_the_output_before_is_held() -> None:
    """With the step before's output the peak in the forward pass is higher by its logits."""
    plan = planned(previous_seq=300, method={"name": "lora", "r": 4}, loss="liger")
    with_it, without = (
        estimate(plan.model_copy(update={"previous_output": held, "loss": "standard"})).bytes["allocated_peak"]
        for held in (True, False)
    )
    assert with_it >= without
    kept = 300 * 49152 * 2  # logits of a step, in bfloat16
    inside = {
        held: Process(resolve(plan.model_copy(update={"previous_output": held, "loss": "standard"})))
        for held in (True, False)
    }
    for process in inside.values():
        for _ in range(2):
            process.step(1, 300)
    assert inside[True].phases["forward"].allocated - inside[False].phases["forward"].allocated == pytest.approx(
        kept, abs=MIB
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_gradients_of_fsdp1_are_held(method: str) -> None:
    """Witness: published runs, at whose ends they are allocated (fms-acceleration-fsdp.yaml). The next pass frees them.

    What is loaded is a tensor for each flat parameter.
    """
    plan = planned(method=method, sharding={**FSDP1, "groups": "transformers"}, previous_output=False)
    process, ends = Process(resolve(plan)), []
    for _ in range(3):
        process.step(1, 300)
        ends.append(process.phases["after step"].allocated)
    found, loaded = estimate(plan).bytes, process.phases["after load"].allocated
    held = loaded + found["optimizer"] + found["gradients"] + process.job.step.device.cublas_workspace * 2
    assert loaded == pytest.approx(found["parameters"] + found["buffers"], rel=0.01)
    assert ends == pytest.approx([held] * 3, rel=0.01)


def test_units_of_fsdp1_wait() -> None:
    """Witness: ``_FreeEventQueue``. Forward two layers are in flight, backward two and the one that was freed last.

    So the pool of gathered parameters has three layers beside the root, however many there are.
    """
    plan = planned(model="llama-3.2-1b", method="full", sharding=FSDP1, previous_output=False)
    process = Process(resolve(plan))
    for _ in range(2):
        process.step(1, 300)
    own = process.allocator._pools["unshard", False]
    sizes = {segment.address: segment.size for segment in process.allocator.segments()}
    segments = sorted(sizes[head.address] for head in process.allocator._heads.values() if head.pool is own)
    layer, root = 60_821_504 * 2, (128_256 * 2048 + 2048) * 2
    assert segments == [-(-size // (2 * MIB)) * 2 * MIB for size in (layer, layer, layer, root)]


def test_what_fsdp1_waits_for() -> None:
    """Blocks can be taken once what comes before the event that was waited for is done."""
    allocator, limiter = CachingAllocator(), RateLimiter()
    blocks = {stream: allocator.malloc(MIB, stream=stream) for stream in ("unshard", "pre_unshard", "")}
    waits = {}
    for stream, block in blocks.items():
        waits[stream] = limiter.until(stream)
        allocator.free(block, waits[stream])
    assert waits == {"unshard": 1, "pre_unshard": 1, "": 2}
    limiter.unshard(allocator)
    assert limiter.waited == 0
    assert limiter.until("unshard") == 2
    limiter.unshard(allocator)
    assert limiter.waited == 1
    assert [until for until, _ in allocator._waiting] == [2]


def test_what_has_no_bytes_is_not_allocated_and_is_waited_for() -> None:
    """PyTorch's allocator is not called for an empty tensor. FSDP1 waits where it gathers, also for nothing."""
    events, process, blocks = Events(), Process(resolve(planned())), dict[int, Block]()
    ledger = Ledger(CPU, events=events)
    for stream, nbytes in (("", 3), ("", 0), ("unshard", 0)):
        with ledger.on_stream(stream):
            events.allocated(nbytes, ledger)
    process._limiter.recorded = RateLimiter.IN_FLIGHT
    process._play(events, events.order, blocks)
    assert ([*blocks], process.allocator.allocated, process._limiter.waited) == ([0], 512, 1)
    process._play(events, [~number for number in events.order], blocks)
    assert (blocks, process.allocator.allocated) == ({}, 0)


def test_timeline_adds_up() -> None:
    """After every event the kinds add up to what is allocated, which is never more than what is reserved."""
    timeline = Timeline()
    plan = planned(method="full", batch=2)
    process = Process(resolve(plan), timeline=timeline)
    for batch in plan.engine.batches(plan):
        process.step(batch.rows, batch.seq, batch.empty_cache)
    live = np.array(timeline.live)
    assert live.shape == (len(timeline.reserved), len(KINDS))
    assert (live >= 0).all()
    assert (live.sum(axis=1) <= timeline.reserved).all()
    assert live.sum(axis=1).max() == process.allocated_peak
    assert max(timeline.reserved) == process.reserved_peak
    last = dict(zip(KINDS, timeline.live[-1], strict=True))
    found = estimate(plan).bytes
    assert last["optimizer states"] == pytest.approx(found["optimizer"], rel=0.01)
    assert last["gradients"] == 0 or last["gradients"] == pytest.approx(found["gradients"], rel=0.01)
    assert [part for _, part in timeline.parts[:5]] == ["load", "forward", "backward", "update", "zero_grad"]


def test_capacity() -> None:
    """A process runs in what it reserves, perhaps in less, and never in less than it allocates."""
    plan = planned(seq=700)
    resolved, batches = resolve(plan), plan.engine.batches(plan)
    free = replay(resolved, batches)
    assert replay(resolved, batches, free.reserved_peak) == free
    snapshot = Snapshot()
    short = replay(resolved, batches, free.allocated_peak - 1, snapshot=snapshot)
    assert short.out_of_memory is not None
    assert short.out_of_memory.startswith("step 2 of 2, backward")
    assert (free.lacking, free.gave_back) == (None, False)
    assert short.lacking is not None
    assert short.lacking > 0
    (at,) = (i for i, entry in enumerate(snapshot.trace) if entry["action"] == "oom")
    signs = {"segment_alloc": 1, "segment_free": -1}
    reserved = sum(signs.get(entry["action"], 0) * entry["size"] for entry in snapshot.trace[:at])
    assert reserved + snapshot.trace[at]["device_free"] == free.allocated_peak - 1
    process = Process(resolved, capacity=200 * MIB)
    with pytest.raises(OutOfMemory):
        process.step(1, 700)
    assert process.part == "load"


@pytest.mark.consistency
@pytest.mark.parametrize("share", [None, 1.0, 0.9, 0.5, 0.3])
def test_a_first_step_is_made_once(share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that goes on from another one is that which makes the step itself, in whatever room."""
    plan = planned(seq=700)
    resolved, batches, logs = resolve(plan), plan.engine.batches(plan), plan.engine.logs()
    free = replay(resolved, batches, logs=logs)
    capacity = None if share is None else int(free.reserved_peak * share)
    within = replay(resolved, batches, capacity)
    made: list[int] = []
    monkeypatch.setattr(Process, "_load", lambda self, log, load=Process._load: (made.append(1), load(self, log)))
    (first,) = logs.begun.values()
    room = capacity is None or first.reserved_peak <= capacity
    assert replay(resolved, batches, capacity, logs=logs) == within
    assert len(made) == (0 if room else 1)
    assert replay(resolved, batches, logs=logs) == free


@pytest.mark.share(3)
@settings(max_examples=4, deadline=None)
@given(st.integers(1, 3), st.integers(2, 500), st.booleans(), st.sampled_from(["none", "layer"]))
def test_any_process(batch: int, seq: int, expandable: bool, checkpointing: str) -> None:
    """Allocated bytes do not depend on the kind of segments but for what blocks are left with, and grow with tokens."""
    keys = {"batch": batch, "checkpointing": checkpointing, "method": {"name": "ia3"}}
    one = estimate(planned(seq=seq, expandable_segments=expandable, **keys)).bytes
    more = estimate(planned(seq=seq + 64, expandable_segments=expandable, **keys)).bytes
    assert one["allocated_peak"] <= one["reserved_peak"]
    assert one["peak"] <= more["peak"]
    if expandable:  # no block is left unsplit, and only the last granule of a range can be empty
        other = estimate(planned(seq=seq, **keys)).bytes
        assert one["allocated_peak"] <= other["allocated_peak"]


def test_verdicts() -> None:
    """Fits, tight, does not fit, by the margin and the uncertainty of measured processes."""
    need = estimate(planned()).bytes["process"]

    def within(budget: int) -> Result:
        return estimate(planned(budget=f"{budget}B"))

    assert (within(2 * need).verdict, within(2 * need).margin_bytes) == ("fits", need)
    assert within(need).verdict == "tight"
    assert within(need).margin_bytes == 0
    refused = within(need // 2)
    assert refused.verdict == "does not fit"
    assert refused.margin_bytes is not None
    assert refused.margin_bytes < 0
    assert "out of memory in step" in refused.warnings[-1]


def test_what_lies_outside_the_allocator() -> None:
    """The process is the reserved peak and the device's CUDA context."""
    for name in ("t4", "rtx-4090", "h100-80gb"):
        found = estimate(planned(device=name, attention="eager", dtype="float16")).bytes
        assert found["process"] - found["reserved_peak"] == context_bytes(find(name))[0]


@pytest.mark.parametrize(("device", "status"), [("rtx-4090", 0), ("gtx-1650", 1)])
def test_exit_status(device: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a verdict, for job scripts."""
    command = ["estimate", "llama-3.2-1b", "--method", "lora", "--seq", "2048", "--device", device]
    assert main([*command, "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == ("fits" if status == 0 else "does not fit")
    assert answer["margin_bytes"] == answer["budget_bytes"] - answer["bytes"]["process"]
    assert answer["uncertainty_bytes"] > 0
    assert main(command) == status
    assert ("Fits in" if status == 0 else "Does not fit in") in capsys.readouterr().out


@pytest.mark.share(6)
def test_a_run_over_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job dies of its longest batch: the answer is the maximum, and how likely the run meets what does not fit."""
    path = tmp_path / "lengths.jsonl"
    path.write_text("".join(f'{{"length": {n}}}\n' for n in [*[100] * 900, *[400] * 99, 4000]))
    command = ["estimate", MODEL, "--method", "lora", "--runtime", "torch-cuda", "--batch", "2", "--json"]
    command += ["--lengths", str(path)]
    assert main(command) == 0
    free = json.loads(capsys.readouterr().out)
    quantiles = free["run"].pop("reserved_quantiles")
    assert free["run"] == {"batches": 500, "longest_seq": 4000}
    for share, seq in (("0.5", 100), ("0.9", 400), ("0.99", 400)):
        assert quantiles[share] == estimate(planned(seq=seq, batch=2)).bytes["reserved_peak"]
    one = estimate(planned(seq=400, batch=2)).bytes["process"]
    assert main([*command, "--budget", f"{int(1.1 * one)}B"]) == 1
    run = json.loads(capsys.readouterr().out)["run"]
    del run["reserved_quantiles"]
    assert run == {"batches": 500, "longest_seq": 4000, "longest_seq_that_fits": 400, "oom_probability": 1.0}
    block = {"histogram": {100: 900, 400: 99, 4000: 1}, "steps": 50}
    keys = {"model": MODEL, "method": "lora", "runtime": "torch-cuda", "batch": 2, "lengths": block}
    short = estimate(**keys, budget=f"{int(1.1 * one)}B").run
    assert short is not None
    assert math.isclose(short["oom_probability"], 0.1)  # 100 of 1000 samples are drawn, one of them is too long
