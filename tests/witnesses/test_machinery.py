"""What measurements do around the real thing, where no GPU or library is: readings, options, batches, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")

from estimator.engines.llama_cpp.context import Parameters  # noqa: E402
from estimator.engines.llama_cpp.header import Header, TensorInfo  # noqa: E402
from estimator.errors import InputError  # noqa: E402
from estimator.plans.plan import parse_plan  # noqa: E402
from estimator.plans.resolve import Resolved, resolve  # noqa: E402
from estimator.witnesses import llama_cpp, loading, machine, measure  # noqa: E402
from estimator.witnesses.reference import model as reference_model  # noqa: E402
from estimator.witnesses.reference import offloading, quantised, zero  # noqa: E402
from tests.cases.small_models import write_config  # noqa: E402

MIB = 2**20


def resolved_plan(folder: Path, config: dict[str, Any] | None = None, **more: Any) -> Resolved:
    model = write_config(folder / "model", {"num_hidden_layers": 1, "vocab_size": 97, **(config or {})})
    keys = {"model": model, "batch": 3, "seq": 8, "dtype": "float32", "method": "full", **more}
    return resolve(parse_plan({key: value for key, value in keys.items() if value is not None}))


# -- GPUs --------------------------------------------------------------------------------------------------------------


class Parts:
    """A step of which only the order of its runs is noted."""

    micro_steps = 0

    def __init__(self) -> None:
        self.asked: list[str] = []

    def run(self) -> None:
        self.asked.append(f"run of {self.micro_steps}")

    def peaks_of_parts(self) -> dict[str, int]:
        self.asked.append("peaks")
        return {"forward": 1}


def test_what_a_gpu_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: the context is what the driver counts beyond the allocator and beyond other processes."""
    resolved = resolved_plan(tmp_path, gradient_accumulation_steps=3, runtime="torch-cuda", device="rtx-4090")
    with pytest.raises(InputError, match=r"needs a CUDA GPU, and PyTorch .* finds none"):
        measure.run_cuda_step(resolved)
    step, moved = Parts(), []
    monkeypatch.setattr(measure, "_used_by_others", lambda: 30 * MIB)
    monkeypatch.setattr(measure, "_step", lambda resolved, model, device: moved.append(device) or step)
    monkeypatch.setattr(reference_model, "build_model", lambda _: SimpleNamespace(to=lambda to: moved.append(to)))
    shown = {
        "is_available": True, "memory_allocated": 5 * MIB, "max_memory_allocated": 7 * MIB, "synchronize": None,
        "memory_reserved": 9 * MIB, "max_memory_reserved": 11 * MIB, "mem_get_info": (1000 * MIB, 1400 * MIB),
        "get_device_properties": SimpleNamespace(name="card", major=8, minor=9, total_memory=1400 * MIB),
    }  # fmt: skip
    for name, value in shown.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    found = measure.run_cuda_step(resolved)
    assert moved == ["cuda", "cuda"]
    assert step.asked == ["run of 3", "run of 3", "peaks"]
    assert {key: value for key, value in found.items() if type(value) is int} == {
        "allocated_after_load": 5 * MIB, "allocated_after_step": 5 * MIB, "allocated_peak": 7 * MIB,
        "reserved_peak": 11 * MIB, "context": (400 - 9 - 30) * MIB, "process": (11 + 361) * MIB,
    }  # fmt: skip
    assert found["allocated_peaks"] == {"forward": 1}
    assert found["machine"]["capability"] == [8, 9]
    assert found["machine"]["total_bytes"] == 1400 * MIB
    assert found["machine"]["allocator"] == "expandable_segments:True"
    assert {"cuda", "python", "torch"} <= found["versions"].keys()


def test_what_other_processes_take_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="31\n"))
    assert measure._used_by_others() == 31 * MIB
    for stdout in ("", "N/A"):
        monkeypatch.setattr(subprocess, "run", lambda *_, stdout=stdout, **__: SimpleNamespace(stdout=stdout))
        assert measure._used_by_others() == 0


def test_the_peak_of_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statistics are read and reset at the end of each part of one step."""
    step = measure._step(resolved_plan(tmp_path), reference_model.build_model(resolved_plan(tmp_path)))
    step.micro_steps, readings = 2, iter(range(1, 9))
    resets: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(readings))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    assert step.peaks_of_parts() == {"forward": 3, "backward": 4, "update": 5}
    assert len(resets) == 6
    step.run()
    assert next(readings) == 6


# -- batches -----------------------------------------------------------------------------------------------------------


def batch_of(folder: Path, config: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    resolved = resolved_plan(folder, config, **keys)
    step = measure._step(resolved, reference_model.build_model(resolved))
    return step._batch()


def test_a_plain_batch(tmp_path: Path) -> None:
    found = batch_of(tmp_path, attention_mask=True)
    assert list(found) == ["input_ids", "attention_mask", "labels"]
    assert {(tuple(x.shape), x.dtype) for x in found.values()} == {((3, 8), torch.int64)}
    assert found["labels"] is found["input_ids"]
    assert found["attention_mask"].sum() == 23
    assert found["attention_mask"][0, -1] == 0
    assert 0 <= found["input_ids"].min() <= found["input_ids"].max() < 97


def test_labels_of_their_own(tmp_path: Path) -> None:
    """Of the seven next tokens of three rows half have a label, the last eleven."""
    found = batch_of(tmp_path, data_collator=True, label_share=0.5)
    labels = found["labels"][:, 1:].reshape(-1)
    missing = int((labels == -100).sum())
    assert missing == 10
    assert labels[:missing].eq(-100).all()
    assert labels[missing:].eq(found["input_ids"][:, 1:].reshape(-1)[missing:]).all()
    assert found["labels"][:, 0].eq(found["input_ids"][:, 0]).all()


def test_a_packed_batch(tmp_path: Path) -> None:
    """One row of all sequences, whose positions start again, and the number of each token's sequence."""
    found = batch_of(tmp_path, packing=True, return_seq_idx=True)
    assert found["position_ids"].tolist() == [[*range(8)] * 3]
    assert found["seq_idx"].tolist() == [[i for i in range(3) for _ in range(8)]]
    assert found["seq_idx"].dtype == torch.int32
    assert found["input_ids"].shape == found["labels"].shape == (1, 24)
    assert batch_of(tmp_path, packing=True, batch=1)["position_ids"].tolist() == [[*range(7), 0]]


def test_ids_that_are_special(tmp_path: Path) -> None:
    """The blank of CTC is in no label; images have their tokens, and no other token is one."""
    from tests.cases.images_and_audio import ALONE, WITH_IMAGES

    config, keys = ALONE["wav2vec2"]
    found = batch_of(tmp_path, config, **keys, seq=None)
    assert found["labels"].shape == (3, 7)
    assert not found["labels"].eq(config.get("pad_token_id", 0)).any()
    config, keys = WITH_IMAGES["llava"]
    found = batch_of(tmp_path, config, **keys, images=1, batch=2)
    rows = found["input_ids"].eq(config["image_token_index"]).sum(1).tolist()
    assert rows[0] == rows[1] == 16
    assert found["pixel_values"].dtype == torch.float32


# -- the host, loading, ZeRO -------------------------------------------------------------------------------------------


def test_what_the_process_takes() -> None:
    """Witness: the system's own page. Kilobytes are of 1,024 bytes."""
    rows = [line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.endswith(" kB")]
    found = machine.status()
    assert found.keys() == {row[0].rstrip(":") for row in rows}
    assert found["VmHWM"] >= found["VmRSS"] > 50 * MIB
    assert found["VmHWM"] % 1024 == 0
    machine.reset_peak_rss()
    assert abs(machine.peak_rss() - machine.status()["VmRSS"]) < 64 * MIB


def test_the_peak_where_the_system_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ru_maxrss`` is in kilobytes, and on a Mac in bytes."""
    import resource

    monkeypatch.setattr(machine, "status", dict)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=77))
    assert machine.peak_rss() == 77 * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.peak_rss() == 77


def test_loading_in_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: what was there before is taken away, and the largest of all readings counts."""
    readings = iter([{"VmRSS": 100, "VmHWM": 0, "RssAnon": 40}])
    asked: list[tuple[str, dict[str, Any]]] = []

    def status() -> dict[str, int]:
        return next(readings, {"VmRSS": 130, "VmHWM": 190, "RssAnon": 66})

    def load(folder: str, **keys: Any) -> None:
        asked.append((folder, keys))
        if folder == "large":
            import time

            time.sleep(0.05)

    monkeypatch.setattr(loading, "status", status)
    monkeypatch.setattr(loading, "reset_peak_rss", lambda: None)
    monkeypatch.setattr(loading, "_load", load)
    found = loading._measure("large", dtype="bfloat16", base="", disable_mmap=False)
    assert found == {"peak": 90, "peak_anonymous": 26, "after": 30}
    assert [keys for _, keys in asked] == [{"dtype": "bfloat16", "base": "", "disable_mmap": False}] * 2


@pytest.mark.parametrize("base", ["", "int8", "nf4", "fp4"])
def test_how_a_model_is_loaded(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    asked: dict[str, Any] = {}
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda folder, **keys: asked.update(keys))
    loading._load("folder", "float16", base, True)
    config = asked.pop("quantization_config", None)
    assert asked == {
        "dtype": torch.float16, "disable_mmap": True, **({"device_map": {"": "cpu"}} if base else {})
    }  # fmt: skip
    assert (config is None) == (base == "")
    if base:
        assert (config.load_in_8bit, config.load_in_4bit) == (base == "int8", base != "int8")
        assert base == "int8" or config.bnb_4bit_quant_type == base


ZERO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero2": ({"world_size": 2, "reduce_bucket_size": 1000, "overlap_comm": True}, {"stage": 2, "overlap_comm": True}),
    "zero3": ({"world_size": 4, "offload_optimizer": "cpu", "stage3_prefetch_bucket_size": 64}, {"stage": 3}),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", ZERO)
def test_a_plan_as_a_config_of_deepspeed(name: str, dtype: str, tmp_path: Path) -> None:
    own, expected = ZERO[name]
    keys = {"gradient_accumulation_steps": 5, "gradient_clipping": True, "dtype": dtype}
    found = zero.config_of(resolved_plan(tmp_path, sharding={"name": name, **own}, **keys))
    assert {key: value for key, value in found.items() if key != "zero_optimization"} == {
        "train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 5, "gradient_clipping": 1.0,
        "bf16": {"enabled": dtype == "bfloat16"}, "fp16": {"enabled": dtype == "float16", "initial_scale_power": 4},
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip
    rest = {key: value for key, value in own.items() if key not in ("world_size", "offload_optimizer")}
    offloaded = {"offload_optimizer": {"device": "cpu"}} if "offload_optimizer" in own else {}
    assert found["zero_optimization"] == {**rest, **offloaded, **expected}


def tensor(count: int) -> Any:
    return torch.zeros(count)


@pytest.mark.parametrize("offloads", [False, True])
@pytest.mark.parametrize("gathers", [False, True])
def test_what_an_engine_of_zero_holds(gathers: bool, offloads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, with an engine of numbers: which tensors are states, parts, gradients and buffers, and when it steps."""
    copies = [torch.nn.Parameter(tensor(5)), torch.nn.Parameter(tensor(6))]
    copies[0].grad = tensor(5)
    if offloads:
        copies[1].grad = tensor(6)
    own = torch.nn.Parameter(tensor(3))
    shared = tensor(10)
    buffers = {f"temp_grad_buffer_for_{where}_offload": tensor(n) for where, n in (("cpu", 21), ("gpu", 22))}
    inner = SimpleNamespace(
        fp32_partitioned_groups_flat=copies, single_partition_of_fp32_groups=copies,
        state={own: {"exp_avg": tensor(7), "step": tensor(1)}}, averaged_gradients={0: [shared[:4], shared[4:]]},
        param_buffer_of_bit16_for_cpu_offload_groups=[tensor(23)], accumulated_grads_in_cpu={0: tensor(24)},
        ipg_buckets={0: SimpleNamespace(buffer=tensor(25)), 1: SimpleNamespace(buffer=None)},
        grad_partitions_flat_buffer=tensor(26), **buffers,
    )  # fmt: skip
    ran: list[str] = []
    ends = [False]
    own.ds_tensor = tensor(2)
    engine = SimpleNamespace(
        optimizer=inner, zero_optimization_partition_weights=lambda: gathers, parameters=lambda: [own],
        is_gradient_accumulation_boundary=lambda: ends[0], backward=lambda loss: ran.append(f"backward {loss}"),
        step=lambda: ran.append("step"),
    )  # fmt: skip
    given: dict[str, Any] = {}
    deepspeed = ModuleType("deepspeed")
    deepspeed.initialize = lambda **keys: (given.update(keys) or engine, None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setattr(zero, "config_of", lambda resolved: {"stage": 7})
    resolved: Any = SimpleNamespace(step=SimpleNamespace(sharding=SimpleNamespace(has_cpu_adam=offloads)))
    frozen = torch.nn.Parameter(tensor(1), requires_grad=False)
    model = SimpleNamespace(parameters=lambda: [own, frozen])
    made = zero.Engine(resolved, model, "the plan's")
    assert (given["config"], given["model"], given["dist_init_required"]) == ({"stage": 7}, model, False)
    if offloads:
        assert [group["params"] for group in given["optimizer"].param_groups] == [[own]]
        assert given["optimizer"].defaults["fused"] is True
    else:
        assert given["optimizer"] == "the plan's"
    made.backward(torch.tensor(1))
    assert (ran, made.gradient_bytes) == (["backward 1", "step"], 0)
    with pytest.raises(AssertionError):
        made.step()
    ends[0] = True
    made.backward(torch.tensor(2))
    made.step()
    made.zero_grad(True)
    assert ran[2:] == ["backward 2", "step"]
    assert made.gradient_bytes == 4 * (11 if offloads else 10)
    states = made.state
    assert [x.numel() for x in states[own].values()] == ([7] if offloads else [7, 1])
    assert [x.numel() for x in states["fp32"].values()] == [5, 6]
    assert [x.numel() for x in made.parts] == ([2] if gathers else [])
    held = [26, 5, *([6] if offloads else []), 25] if gathers else [21, 22, 5, 6, 23, 24] if offloads else []
    assert [x.numel() for x in made.communication] == held


def test_where_deepspeed_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    for name in ("DS_ACCELERATOR", "DS_BUILD_OPS", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "as it was")
    with pytest.raises(InputError, match="ZeRO is measured where DeepSpeed is installed"):
        zero.prepare(4, 2)
    import os

    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DS_ACCELERATOR", "DS_BUILD_OPS")] == [
        "2", "2", "4", "cpu", "0"
    ]  # fmt: skip


def test_saved_tensors_on_the_host() -> None:
    """A tensor comes back as it was, also a view, and its block is pinned as long as it is held."""
    before = offloading.pinned.nbytes
    for x in (torch.randn(40, 30), torch.randn(40, 30).t(), torch.randn(9).bfloat16(), torch.arange(5)):
        held = offloading._Held(x)
        back = torch.empty_like(held.tensor).copy_(held.tensor)
        assert torch.equal(back, x)
        assert held.tensor.dtype == x.dtype
        assert offloading.pinned.nbytes >= before + x.nbytes
        del held
    x = torch.randn(4, 4, requires_grad=True)
    with offloading.saved_on_host():
        y = (x.sin() * x).sum()
    assert offloading.pinned.nbytes > before
    y.backward()
    plain = torch.cos(x) * x + torch.sin(x)
    torch.testing.assert_close(x.grad, plain.detach())


# -- quantised bases ---------------------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "nf4": ({"dtype": "nf4", "double_quant": True, "quant_storage": "uint8"}, "Linear4bit", {"quant_type": "nf4"}),
    "fp4": ({"dtype": "fp4", "compute_dtype": "float16", "quant_storage": "bfloat16"}, "Linear4bit",
            {"quant_type": "fp4"}),
    "int8": ({"dtype": "int8"}, "Linear8bitLt", {}),
    "gptq": ({"dtype": "gptq", "rest_dtype": "float16"}, "GptqLinear", {}),
    "awq": ({"dtype": "awq", "rest_dtype": "float16"}, "AwqLinear", {}),
    "float8": ({"dtype": "float8"}, "Linear", {}),
    "int8-weight-only": ({"dtype": "int8-weight-only"}, "Linear", {}),
}  # fmt: skip


@pytest.mark.extra("quantised")
@pytest.mark.parametrize("name", FORMATS)
def test_quantised_layers(name: str, tmp_path: Path, one_thread: None) -> None:
    """All linear layers but the head have the format's own class, and hold bytes as the format says."""
    keys, kind, weight_has = FORMATS[name]
    lora = {"name": "lora", "r": 2, "target_modules": ["q_proj"]}
    config = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2}
    resolved = resolved_plan(tmp_path, config, method=lora, **keys)
    model = reference_model.build_model(resolved)
    base = model.get_base_model()
    within = {path: getattr(m, "base_layer", m) for path, m in base.named_modules() if path.endswith("_proj")}
    assert {type(m).__name__ for m in within.values()} == {kind}
    assert type(base.lm_head) is torch.nn.Linear
    size = 0.5 if name in ("nf4", "fp4", "gptq", "awq") else 1
    held, others = quantised.resident_tensors(base)
    packed = [x for x in held if x.dtype in (torch.uint8, torch.int8, torch.int32, torch.float8_e4m3fn)]
    numbers = sum(m.in_features * m.out_features for m in within.values())
    if name != "fp4":  # stored as bfloat16
        assert sum(x.nbytes for x in packed) == numbers * size
    assert sum(x.nbytes for x in others) > 0
    for layer in within.values():
        for key, value in weight_has.items():
            assert getattr(layer.weight, key) == value
        if kind == "Linear4bit":
            assert layer.weight.compress_statistics == resolved.plan.double_quant
            assert layer.compute_dtype == getattr(torch, resolved.plan.compute_dtype)
            assert layer.weight.quant_storage == getattr(torch, resolved.plan.quant_storage)
            assert (layer.weight.quant_state.nested, layer.weight.requires_grad) == (resolved.plan.double_quant, False)
    assert getattr(base, "is_loaded_in_4bit", False) == (kind == "Linear4bit")
    assert getattr(base, "is_loaded_in_8bit", False) == (name == "int8")
    if kind in ("GptqLinear", "AwqLinear") or kind == "Linear":
        assert base.quantization_method == (name if kind != "Linear" else "torchao")


@pytest.mark.parametrize("targets", ["all-linear", "q_proj"])
@pytest.mark.parametrize(("dtype", "name"), [("gptq", "GPTQLoraLinear"), ("awq", "AwqLoraLinear"), ("nf4", "")])
def test_adapters_of_packed_layers(dtype: str, name: str, targets: str) -> None:
    seen: dict[Any, Any] = {}
    config = SimpleNamespace(_register_custom_module=seen.update, target_modules=targets)
    known = SimpleNamespace(config=SimpleNamespace(modules=SimpleNamespace(all_linear=("up", "down"))))
    resolved: Any = SimpleNamespace(plan=SimpleNamespace(dtype=dtype), spec=known)
    quantised.prepare_adapter(config, resolved)
    assert [(own, adapter.__name__) for own, adapter in seen.items()] == (
        [(quantised.PACKED[dtype][0], name)] if name else []
    )
    assert config.target_modules == ({"up", "down"} if name and targets == "all-linear" else targets)


# -- llama.cpp ---------------------------------------------------------------------------------------------------------

TENSORS = {
    "token_embd.weight": TensorInfo("f16", (64, 40)),
    "blk.0.attn_q.weight": TensorInfo("q8_0", (64, 64)),
    "output_norm.weight": TensorInfo("f32", (64,)),
    "output.weight": TensorInfo("q4_0", (64, 40)),
}
KEYS: dict[str, Any] = {
    "block_count": 1, "rope.freq_base": 1000.5, "flag": True, "list": [1, 2, 3], "vocab_size": 40,
    "attention.layer_norm_rms_epsilon": 0.5,
}  # fmt: skip


@pytest.mark.extra("engine")
@pytest.mark.parametrize("split", [0, 3])
def test_a_sparse_file(split: int, tmp_path: Path) -> None:
    """Witness: the reader of the package gguf."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    llama_cpp.write_sparse(Header("llama", KEYS, TENSORS, 40), path, split)
    files = sorted(tmp_path.iterdir())
    assert len(files) == (2 if split else 1)
    found: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for file in files:
        reader = gguf.GGUFReader(file)
        for one in reader.tensors:
            found[one.name] = one.tensor_type.name.lower(), tuple(map(int, one.shape)), int(one.n_bytes)
        assert file.stat().st_blocks * 512 < 64 * 1024
        end = max(int(one.data_offset) + int(one.n_bytes) for one in reader.tensors)
        assert end <= file.stat().st_size < end + 32
    assert found == {name: (one.kind, one.shape, one.nbytes) for name, one in TENSORS.items()}
    fields = {name: part.contents() for name, part in gguf.GGUFReader(files[0]).fields.items()}
    assert {key: fields[f"llama.{key}"] for key in KEYS} == KEYS
    assert fields["tokenizer.ggml.model"] == "no_vocab"


@pytest.mark.extra("engine")
def test_the_engine_beside_what_is_predicted(tmp_path: Path) -> None:
    """Witness: the installed engine, whose buffers are those predicted, of its own build."""
    pytest.importorskip("llama_cpp_py_sync")
    plan = {
        "model": "smollm2-135m", "runtime": "llama.cpp", "task": "infer", "seq": 300, "batch": 2, "dtype": "q8_0",
        "llama_cpp": {"n_ubatch": 64, "type_k": "q8_0", "repack": False},
    }  # fmt: skip
    found = llama_cpp.measured(parse_plan(plan))
    assert found.engine == llama_cpp.version() == found.build
    assert [name for name, *_ in found.rows] == ["weights", "KV cache and recurrent state", "compute"]
    for name, real, predicted in found.rows:
        assert real == predicted > 0, name
    with pytest.raises(InputError, match="asks the engine on this machine's CPU"):
        llama_cpp.measured(parse_plan({**plan, "device": "rtx-4090"}))


@pytest.mark.extra("engine")
def test_what_the_engine_refuses(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp_py_sync")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(llama_cpp.EngineError):
        llama_cpp.ask(tmp_path / "x.gguf", Parameters(n_ctx=64))


def test_buffers_are_added_up() -> None:
    report = llama_cpp.Report({
        "CPU": {"model": 1, "context": 20, "compute": 300}, "CPU_REPACK": {"model": 4, "context": 0, "compute": 5000}
    })  # fmt: skip
    assert [report.total(part) for part in ("model", "context", "compute")] == [5, 20, 5300]


def test_a_measured_process_says_what_was_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit status 2; the result is one line of JSON."""
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"model": "nothing-of-the-sort"}'))
    assert measure._main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("estimator: ")
    monkeypatch.setattr(measure, "run_step", lambda resolved: {"model": resolved.plan.model})
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"model": "llama-3.2-1b"}'))
    assert measure._main() == 0
    assert json.loads(capsys.readouterr().out) == {"model": "llama-3.2-1b"}
