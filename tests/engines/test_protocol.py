"""What engines say of a plan beside its bytes: what is held against a limit, where formulas hold, lines for people."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from estimator import estimate
from estimator.engines.devices import find
from estimator.engines.llama_cpp.options import LlamaCppOptions
from estimator.engines.replay import Timeline
from estimator.engines.snapshot import BlockState, Segment, Snapshot, pickled
from estimator.engines.torch_cpu.mappings import PAGE, Mappings, replay
from estimator.errors import InputError
from estimator.ledger import Origin
from estimator.plans.models import load
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve


def asked(runtime: str, **keys: Any) -> Plan:
    return parse_plan({"model": "qwen3-0.6b", "runtime": runtime, "seq": 64, **keys})


INFER = {"task": "infer"}


@pytest.mark.parametrize(
    ("plan", "device", "against"),
    [
        (asked("torch-cpu"), None, ("process", "process")),
        (asked("torch-cuda"), "rtx-3090", ("process_at_least", "process_at_most")),
        (asked("mlx", mlx={"default_device": "cpu"}), None, ("process", "process")),
        (asked("mlx"), None, ("peak", "peak")),
        (asked("mlx"), "apple-16gb", ("peak", "peak")),
        (asked("llama.cpp"), None, ("process", "process")),
        (asked("llama.cpp"), "iphone-15", ("dirty", "dirty")),
        (asked("llama.cpp"), "pixel-8", ("used", "used")),
        (asked("llama.cpp"), "apple-16gb", ("process", "process")),
        (asked("llama.cpp", llama_cpp={"backend": "cuda"}), None, ("device", "device")),
        (asked("llama.cpp", llama_cpp={"backend": "vulkan"}), None, ("device", "device")),
        (asked("llama.cpp", llama_cpp={"backend": "metal"}), None, ("process", "process")),
        (asked("executorch"), None, ("process", "process")),
        (asked("executorch"), "iphone-15", ("dirty", "dirty")),
    ],
    ids=str,
)
def test_what_a_limit_is_held_against(plan: Plan, device: str | None, against: tuple[str, str]) -> None:
    """A card's memory, or what a phone's system counts (``devices.json``); else the process."""
    assert plan.engine.against(plan, None if device is None else find(device)) == against


@pytest.mark.parametrize(
    ("plan", "alike", "other"),
    [
        (asked("torch-cuda", device="rtx-3090"), ["rtx-3090", "rtx-3080-10gb"], ["rtx-4090", "a100-80gb", "iphone-15"]),
        (asked("torch-cpu"), ["raspberry-pi-5-8gb"], ["rtx-3090", "iphone-15"]),
        (asked("mlx", mlx={"default_device": "cpu"}), ["raspberry-pi-5-8gb", "rtx-3090"], ["apple-16gb"]),
        (asked("mlx", device="apple-16gb"), ["apple-8gb"], ["raspberry-pi-5-8gb"]),
        (asked("llama.cpp", device="pixel-8"), ["raspberry-pi-5-8gb"], ["rtx-3090", "apple-16gb"]),
        (asked("llama.cpp", device="rtx-3090"), ["rtx-4090"], ["raspberry-pi-5-8gb"]),
        (asked("vllm", device="rtx-3090"), ["rtx-4090"], ["raspberry-pi-5-8gb", "apple-16gb"]),
    ],
    ids=str,
)
def test_formulas_hold_on_devices_with_the_same_kernels(plan: Plan, alike: list[str], other: list[str]) -> None:
    """Of one compute capability, of one backend of llama.cpp, on Apple's GPU or not."""
    assert [name for name in alike if not plan.engine.runs_alike(plan, find(name))] == []
    assert [name for name in other if plan.engine.runs_alike(plan, find(name))] == []


SIZES = {"resident": 100, "kv_cache": 30, "recurrent_state": 5, "output": 7, "peak_above_resident": 50}
SIZES |= {"parameters": 60, "buffers": 4, "optimizer": 36, "gradients": 20, "saved": 15, "weights": 70}


@pytest.mark.parametrize(
    ("plan", "keys", "parts"),
    [
        (asked("llama.cpp"), {}, {"weights": 58, "KV cache and states": 42, "compute": 50}),
        (asked("executorch"), {}, {"weights": 70, "KV cache and states": 30, "compute": 50}),
        (asked("litert"), {}, {"weights": 100, "compute": 50}),
        (asked("mlx"), {}, {"parameters": 64, "optimizer states": 36, "compute": 50}),
        (
            asked("torch-cpu"),
            {"peak_at": "loss backward"},
            {"parameters": 64, "optimizer states": 36, "saved activations": 15, "temporaries and logits": 35},
        ),
        (
            asked("torch-cpu"),
            {"peak_at": "loss backward", "gradients_alive": True},
            {
                "parameters": 64,
                "optimizer states": 36,
                "gradients": 20,
                "saved activations": 15,
                "temporaries and logits": 15,
            },
        ),
        (
            asked("torch-cpu"),
            {"peak_at": "optimizer step"},
            {"parameters": 64, "optimizer states": 36, "gradients": 20, "temporaries and logits": 30},
        ),
        (
            asked("torch-cpu"),
            {"peak_at": "backward of layers"},
            {"parameters": 64, "optimizer states": 36, "activations, gradients and temporaries": 50},
        ),
    ],
    ids=str,
)
def test_the_parts_of_a_peak(plan: Plan, keys: dict[str, Any], parts: dict[str, int]) -> None:
    """They add up to the peak, where the engine's figures do. Gradients that are views of buckets are no part."""
    assert plan.engine.parts(SIZES, **{"peak_at": "", **keys}) == parts
    if plan.engine.runs_steps:
        sharded = plan.engine.parts({**SIZES, "communication": 9}, "optimizer step", True)
        assert sharded["communication"] == 9
        assert sharded["activations, gradients and temporaries"] == 50
        assert "gradients" not in sharded


@pytest.mark.parametrize(
    ("plan", "release", "heading"),
    [
        (asked("mlx"), "mlx 0.32, mlx-lm 0.32", "qwen3-0.6b, bfloat16, full, 1 x 64, MLX"),
        (
            asked("mlx", **INFER, mlx={"max_tokens": 9}),
            "mlx 0.32, mlx-lm 0.32",
            "qwen3-0.6b, bfloat16, 9 new tokens, 1 x 64, MLX",
        ),
        (
            asked("executorch", executorch={"max_context_length": 2048, "quantize_kv_cache": True}),
            "ExecuTorch 1.5",
            "qwen3-0.6b, 8da4w, context 2,048, cache int8, ExecuTorch (XNNPACK)",
        ),
        (
            asked("executorch", dtype="float32", executorch={"delegate": "none"}),
            "ExecuTorch 1.5",
            "qwen3-0.6b, float32, context 64, ExecuTorch (portable kernels)",
        ),
        (asked("litert"), "LiteRT-LM", "qwen3-0.6b, LiteRT-LM, as published"),
        (
            asked("vllm", device="rtx-3090", batch=2000, vllm={"release": "0.11"}),
            "vLLM 0.11",
            "qwen3-0.6b, 2,000 requests of 64 tokens, vLLM 0.11, rtx-3090",
        ),
    ],
    ids=str,
)
def test_lines_for_people(plan: Plan, release: str, heading: str) -> None:
    assert plan.engine.release(plan) == release
    assert plan.engine.heading(plan) == heading
    assert plan.engine.knows("llama") == (plan.runtime != "litert")


def test_contexts_of_a_plan() -> None:
    """The plan's own, the least, the most, and the step: MLX goes to the model's positions, one at a time."""
    plan = asked("mlx")
    assert plan.engine.contexts(plan, plan.engine.model(plan, load)) == (64, 1, 40960, 1)
    block = {"n_ctx": 1024, "n_ubatch": 128, "n_seq_max": 4}
    for unified, step in ((True, 256), (False, 1024)):  # cells for 256 tokens, of each sequence or of all
        plan = asked("llama.cpp", llama_cpp={**block, "kv_unified": unified})
        assert plan.engine.contexts(plan, plan.engine.model(plan, load)) == (1024, 128, 4 * 40960, step)
    plan = asked("torch-cpu")
    with pytest.raises(InputError, match="no rule with runtime: torch-cpu"):
        plan.engine.contexts(plan, None)
    assert LlamaCppOptions.model_construct(tensor_split=[3, 0.5]).split == "3,0.5"
    assert LlamaCppOptions.model_construct().split == ""


def test_each_place_has_its_limit() -> None:
    """A card its own, a worker on a CPU the one that is named, and the host the budget, if there is one."""
    devices = {"devices": ["rtx-3090=8GiB", "rpc"], "llama_cpp": {"tensor_split": [1, 1], "n_ctx": 512}}
    plan = asked("llama.cpp", dtype="q8_0", **devices)
    model = plan.engine.model(plan, load)
    assert [(one.against, one.budget) for one in plan.engine.limits(plan, model)] == [("CUDA0", 8 << 30)]
    assert plan.engine.shared_out(plan, 29) == (15, 14)
    plan = asked("llama.cpp", dtype="q8_0", budget="4GiB", **devices)
    assert [(one.against, one.budget) for one in plan.engine.limits(plan, model)] == [
        ("CUDA0", 8 << 30),
        ("cpu", 4 << 30),
    ]


def test_what_is_compared() -> None:
    """Each recipe with each pair of cache types; a file has its own."""
    engine, pairs = asked("llama.cpp").engine, [("f16", "f16"), ("q8_0", "q4_0")]
    found = engine.compared({"model": "qwen3-0.6b", "llama_cpp": {"n_ctx": 512}}, ["q8_0", "q4_k_m"], pairs)
    assert [(one["dtype"], one["llama_cpp"]["type_k"], one["llama_cpp"]["type_v"]) for one in found] == [
        (recipe, *pair) for recipe in ("q8_0", "q4_k_m") for pair in pairs
    ]
    assert all(one["llama_cpp"]["n_ctx"] == 512 for one in found)
    assert len(engine.compared({"model": "qwen3-0.6b", "dtype": "q8_0"}, [], pairs)) == 2
    of_file = engine.compared({"model": "a.gguf"}, ["q8_0", "q4_k_m"], pairs)
    assert [("dtype" in one, one["llama_cpp"]["type_v"]) for one in of_file] == [(False, "f16"), (False, "q4_0")]


def test_each_tensor_of_a_cpu_has_its_own_mapping() -> None:
    """Witness: by hand. Mappings begin at multiples of a page, none at zero, and go when their tensor is freed."""
    snapshot, origin = Snapshot(), Origin("forward", "model.norm", "aten.mul")
    snapshot.step, snapshot.part = 2, "forward"
    mappings = Mappings(snapshot)
    first = mappings.malloc(PAGE + 1, 0, origin)
    second = mappings.malloc(PAGE, 3, origin)
    third = mappings.malloc(8, 4, origin)
    assert [first, second, third] == [PAGE, 3 * PAGE, 4 * PAGE]
    assert mappings.peak == mappings.allocated == 2 * PAGE + 9
    mappings.free(second)
    mappings.malloc(16, 2, origin)
    assert (mappings.allocated, mappings.peak) == (PAGE + 25, 2 * PAGE + 9)
    assert mappings.segments() == [
        Segment(at, size, (BlockState(0, size, True),), small=False)
        for at, size in ((PAGE, PAGE + 1), (4 * PAGE, 8), (5 * PAGE, 16))
    ]
    actions = [(entry["action"], entry["addr"], entry["size"], entry["category"]) for entry in snapshot.trace]
    assert actions[:4] == [
        ("segment_alloc", PAGE, PAGE + 1, "unknown"),
        ("alloc", PAGE, PAGE + 1, "parameter"),
        ("segment_alloc", 3 * PAGE, PAGE, "unknown"),
        ("alloc", 3 * PAGE, PAGE, "activation"),
    ]
    assert actions[6:9] == [
        ("free_requested", 3 * PAGE, PAGE, "unknown"),
        ("free_completed", 3 * PAGE, PAGE, "unknown"),
        ("segment_free", 3 * PAGE, PAGE, "unknown"),
    ]


def test_a_step_on_a_cpu_is_replayed() -> None:
    """Asks the ledger's own figures: the peak, what is there before the first pass, and what each part leaves."""
    plan = asked("torch-cpu", model="smollm2-135m", method="lora")
    timeline, snapshot, figures = Timeline(), Snapshot(), estimate(plan).bytes
    assert replay(resolve(plan), timeline, snapshot) == figures["peak"]
    assert [part for _, part in timeline.parts] == ["load", "forward", "backward", "update", "zero_grad", "end"]
    held = figures["parameters"] + figures["buffers"], figures["optimizer"]
    starts = [timeline.live[at - 1] for at, _ in timeline.parts]
    assert starts[1] == (*held, 0, 0, 0)
    assert starts[2][:4] == (*held, 0, figures["saved"])
    assert starts[3][:4] == starts[4][:4] == (*held, figures["gradients"], 0)
    assert timeline.live[-1] == (*held, 0, 0, 0)
    assert timeline.reserved == [sum(kinds) for kinds in timeline.live]
    assert timeline.parts[0] == (0, "load")
    assert sum(segment.size for segment in snapshot.segments) == sum(held)
    of_state = [entry for entry in snapshot.trace if entry["category"] == "optimizer_state"]
    assert sum(entry["size"] for entry in of_state) == figures["optimizer"]
    assert {(entry["frames"][-1]["line"], entry["frames"][-1]["name"]) for entry in of_state} == {(1, "load")}


def test_a_snapshot_as_pytorch_writes_it() -> None:
    """Sizes of blocks are the allocator's, those that were asked for beside them (``THCPModule_memorySnapshot``)."""
    snapshot = Snapshot()
    snapshot.allocated(1024, 700, 0, Origin("load", "lm_head", "weight"))
    snapshot.segments = [Segment(512, 2048, (BlockState(0, 512, False), BlockState(512, 1024, True)), small=True)]
    found = pickle.loads(pickled(snapshot.to_dict(expandable_segments=True)))
    (segment,) = found["segments"]
    sizes = {"total_size": 2048, "allocated_size": 1024, "active_size": 1024, "requested_size": 700}
    assert {key: segment[key] for key in sizes} == sizes
    assert (segment["address"], segment["segment_type"], segment["is_expandable"]) == (512, "small", True)
    blocks = [(block["address"], block["size"], block["requested_size"], block["state"]) for block in segment["blocks"]]
    assert blocks == [(512, 512, 0, "inactive"), (1024, 1024, 700, "active_allocated")]
    assert segment["blocks"][0]["frames"] == []
    assert [frame["name"] for frame in segment["blocks"][1]["frames"]] == ["weight", "lm_head", "load"]
    assert found["device_traces"][0][0]["size"] == 700
    assert found["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    plain = snapshot.to_dict()
    assert plain["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] == ""
    assert not plain["segments"][0]["is_expandable"]
