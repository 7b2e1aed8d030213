"""Command lines of llama.cpp's programs, as people paste them."""

from __future__ import annotations

from typing import Any

import pytest

from estimator import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan

SERVER = {"n_seq_max": 4, "kv_unified": True}
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "-m model.gguf -ngl 30 -c 16384": ("model.gguf", {"n_gpu_layers": 30, "n_ctx": 16384, **SERVER}),
    "-m model.gguf -c 0 -fa -np 2 --temp 0.7 --host ::": ("model.gguf", {"flash_attn": True, "n_seq_max": 2}),
    "-m model.gguf -fa off -nkvo --no-mmap -nr -no-kvu -np 1": (
        "model.gguf",
        {"flash_attn": False, "no_kv_offload": True, "use_mmap": False, "repack": False, "kv_unified": False}
        | {"n_seq_max": 1},
    ),
    "-m m.gguf -ngl all -ncmoe 4 -ot a=CPU -cmoe -b 512 -ub 64 -ctk q8_0 -ctv q8_0 -np 1": (
        "m.gguf",
        {"n_gpu_layers": None, "n_cpu_moe": 4, "n_batch": 512, "n_ubatch": 64, "type_k": "q8_0", "type_v": "q8_0"}
        | {"override_tensor": r"a=CPU,\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU", "n_seq_max": 1},
    ),
    "-hf ggml-org/Qwen3-0.6B-GGUF:Q8_0 --jinja -np 1 -sm none": (
        "ggml-org/Qwen3-0.6B",
        {"n_seq_max": 1, "split_mode": "none"},
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_a_plan(line: str) -> None:
    """By hand, from ``common/arg.cpp``."""
    model, block = LINES[line]
    for program in ("llama-server", "CUDA_VISIBLE_DEVICES=0 ./build/bin/llama-server"):
        plan = parse_plan({"model": f"{program} {line}"})
        assert (plan.model, plan.runtime) == (model, "llama.cpp")
        assert plan.llama_cpp.model_dump(exclude_unset=True) == block
    assert plan.dtype == ("q8_0" if "-hf" in line else "q4_k_m")


@pytest.mark.parametrize("key", ["n_gpu_layers", "n_gpu_layers_draft", "n_cpu_moe", "n_ctx", "n_ubatch"])
def test_numbers_are_c_s(key: str) -> None:
    """By hand: ``int32_t`` in ``llama.h``."""
    largest = {"model": "llama-3.2-1b", "runtime": "llama.cpp", "llama_cpp": {key: 2**31 - 1}}
    assert getattr(parse_plan(largest).llama_cpp, key) == 2**31 - 1
    with pytest.raises(InputError, match=key):
        parse_plan({**largest, "llama_cpp": {key: 2**31}})


def test_workers_and_what_stands_beside() -> None:
    line = "llama-cli -m model.gguf --rpc 10.0.0.1:50052,10.0.0.2:50052 -ts 3,1 -c 512"
    plan = parse_plan({"model": line, "llama_cpp": {"n_ctx": 1024}})
    assert (plan.devices, plan.llama_cpp.tensor_split, plan.llama_cpp.n_ctx) == (("rpc", "rpc"), (3, 1), 1024)
    with_device = parse_plan({"model": "llama-cli -hf x/llama-3.2-1b-GGUF -ngl 3", "device": "rtx-3090"})
    assert (with_device.device, with_device.llama_cpp.n_gpu_layers) == ("rtx-3090", 3)


def test_layers_without_a_device_are_on_a_gpu() -> None:
    """A command line does not say which GPU it has."""
    result = estimate("llama-cli -hf meta-llama/llama-3.2-1b-GGUF:Q8_0 -ngl 5 -c 512")
    assert [device["name"] for device in result.devices] == ["CUDA0", "cpu"]
    assert result.against == "device"


RUNNERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ollama run llama3.1:8b": ("llama-3.1-8b", "q4_k_m", {"preset": "ollama"}),
    "OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_NUM_PARALLEL=2 OLLAMA_KV_CACHE_TYPE=q8_0 ollama run qwen2.5:7b-chat-q8_0 Hi": (
        "qwen2.5-7b",
        "q8_0",
        {"n_ctx": 16384, "n_seq_max": 2, "type_k": "q8_0", "type_v": "q8_0", "preset": "ollama"},
    ),
    "OLLAMA_FLASH_ATTENTION=0 ollama run --verbose --keepalive=5m hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q6_K": (
        "bartowski/Llama-3.2-3B-Instruct",
        "q6_k",
        {"flash_attn": False, "preset": "ollama"},
    ),
    "lms load qwen2.5-7b-instruct@q8_0 --gpu max --context-length 8192 -y --ttl 60": (
        "qwen2.5-7b",
        "q8_0",
        {"n_ctx": 8192},
    ),
    "lms load lmstudio-community/Qwen3-4B-GGUF --gpu=off -c 4096 --parallel 2": (
        "lmstudio-community/Qwen3-4B",
        "q4_k_m",
        {"n_gpu_layers": 0, "n_ctx": 8192, "n_seq_max": 2},
    ),
}


@pytest.mark.parametrize("line", RUNNERS)
def test_a_command_line_of_ollama_or_lm_studio_is_a_plan(line: str) -> None:
    """By hand, from Ollama's ``envconfig/config.go`` and LM Studio's documentation. A context is each sequence's."""
    model, dtype, block = RUNNERS[line]
    plan = parse_plan({"model": line})
    assert (plan.model, plan.dtype) == (model, dtype)
    assert plan.llama_cpp.model_dump(exclude_unset=True) == block


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ollama run", "names no model; write it like ollama run llama3.1:8b"),
        ("OLLAMA_GPU_OVERHEAD=9 ollama run qwen3:4b --fast", "without a rule here: --fast, OLLAMA_GPU_OVERHEAD; leave"),
        ("ollama run --fast qwen3:4b --slow 3 --odd", "without a rule here: --fast, --slow, --odd; leave"),
        ("OLLAMA_CONTEXT_LENGTH=long ollama run qwen3:4b", "OLLAMA_CONTEXT_LENGTH 'long' is no whole number"),
        ("lms load qwen3-4b --gpu 0.5", "--gpu '0.5' is a share of the layers; give n_gpu_layers in its place"),
        ("llama-server -ngl 5", "the command line names no model"),
        ("llama-server -m 'model.gguf", "cannot be read: no closing quotation"),
        ("llama-server -m a.gguf --ctx-sizze 9 -x", "has options without a rule here: --ctx-sizze, -x; leave them out"),
        ("llama-server -m a.gguf -c many", "-c 'many' is no whole number"),
        ("llama-server -m a.gguf -c", "-c needs a value"),
        ("llama-server -m a.gguf -ts 3,1", "tensor_split does not go with a plan without devices"),
    ],
)
def test_wrong_lines_are_refused(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_plan({"model": line})


@pytest.mark.parametrize(
    ("line", "gib"),
    [
        ("ollama run gpt-oss:20b", 11.27),
        ("lms load openai/gpt-oss-20b", 11.27),
        ("llama-server -hf ggml-org/gpt-oss-20b-GGUF", 11.27),
        ("llama-server -hf ggml-org/gpt-oss-120b-GGUF -c 8192", 59.02),
    ],
)
def test_a_model_with_one_released_format_has_it(line: str, gib: float) -> None:
    """Witness: "file size" of published logs of ggml-org's files, whose experts are MXFP4."""
    result = estimate(line)
    assert result.bytes["weights"] / 2**30 == pytest.approx(gib, abs=0.006)


def test_a_recipe_takes_the_place_of_the_released_format() -> None:
    line = "llama-server -hf unsloth/gpt-oss-20b-GGUF:Q8_0"
    assert parse_plan({"model": line}).dtype == "q8_0"
    assert parse_plan({"model": "gpt-oss-20b", "runtime": "llama.cpp"}).dtype == "mxfp4_moe"
    assert parse_plan({"model": "qwen3-0.6b", "runtime": "llama.cpp"}).dtype == "q4_k_m"
