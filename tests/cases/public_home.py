"""Every published run of llama.cpp and its kin, of MLX and of phones' engines that we know of, but those in
``docs/measured/llama_cpp/logs.json``: its settings and figures, or why it cannot be asked.

``plan`` has what was printed. ``missing`` are settings that were not, each with what it could be, and ``PARTS`` says
what a meter may have counted or not; then an answer is a range. ``CUDA0.weights`` is one device's figure,
``CUDA0+CUDA1.weights`` the sum of two. ``python -m tests.cases.public_home`` prints the score of each.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from estimator import estimate
from estimator.engines.llama_cpp import convert
from estimator.plans.models import load
from estimator.witnesses import llama_cpp as engine
from tests.cases.llama_cpp_runs import PADDED, device_logs, legacy
from tests.cases.public_runs import Score, chosen, write

MIB, GIB, GB = 2**20, 2**30, 10**9
TABLE = Path(__file__).parents[2] / "docs" / "measured" / "public_home.tsv"
LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 4096}
CONFIGS = {
    "trilm-3.9b": {
        **LLAMA,
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 24,
        "vocab_size": 50688,
        "tie_word_embeddings": False,
    },
    "granite-8b-code": {
        **LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}
"""Models that are not built in, by the keys that sizes follow from."""
OLD_DEEPSEEK = "deepseek-v3, as older converters wrote it"


PARTS: Mapping[str, tuple[str, ...]] = {
    "peak, warmed up": ("peak", "kv_cache"),
    "peak of a process": ("peak", "libraries"),
    "parameters of a process": ("parameters", "libraries"),
    "process that packs": ("process", "packed"),
}
"""What a figure is at least, and what may be beside it: the cache of the prompt before, what MLX's libraries hold, what
is there twice while XNNPACK packs it.
"""


@dataclass(frozen=True)
class Run:
    """A run. A figure is a key of the answer's ``bytes``, of a device's, or one of ``PARTS``."""

    id: str
    plan: Mapping[str, Any]
    said: Mapping[str, float]
    missing: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """By the key of a plan; ``llama_cpp.n_ctx`` is one of a block."""
    unit: int = MIB
    bar: float = 0.0
    digits: float = 0.005


def gguf(id: str, model: str, dtype: str, said: dict[str, float], missing: Any = (), **keys: Any) -> Run:
    """A run of llama.cpp, on one GPU if no ``devices`` say otherwise, by a build of 2025."""
    own = {key: keys.pop(key) for key in ("unit", "bar", "digits") if key in keys}
    devices = keys.pop("devices", ["rtx-4090"])
    plan = {"model": model, "dtype": dtype, "runtime": "llama.cpp", "llama_cpp": {"build": "2025", **keys}}
    return Run(id, {**plan, "devices": devices} if devices else plan, said, dict(missing), **own)


def ollama(id: str, model: str, dtype: str, said: dict[str, float], missing: Any = (), **keys: Any) -> Run:
    """Ollama's own words, GiB with a digit after the point."""
    return gguf(id, model, dtype, said, missing, **{"unit": GIB, "digits": 0.05, **keys})


def latent(id: str, n_ctx: int, type_k: str, mib: float) -> Run:
    """A run of ik_llama.cpp with DeepSeek V3 or R1, which keeps what is latent alone, as llama.cpp does since 2026."""
    options = {"n_ctx": n_ctx, "type_k": type_k, "type_v": type_k, "build": "b11739"}
    return gguf(id, "deepseek-v3", "q4_k_m", {"kv_cache": mib}, digits=PADDED, **options)


def _of_log(log: Mapping[str, Any]) -> Run:
    """A log of several devices. Where the split is by free memory and that was not printed, sums are said."""
    sizes, said = log["mib"], {}
    for part in ("kv_cache", "weights"):
        printed = {name: one[part] for name, one in sizes.items() if part in one}
        if printed and "split" in log:
            printed = {"+".join(printed): sum(printed.values())}
        said |= {f"{name}.{part}": round(size, 2) for name, size in printed.items()}
    plan = {"model": log["model"], "dtype": log["dtype"], "devices": ["rtx-4090"] * log["devices"]}
    return Run(log["id"], {**plan, "llama_cpp": log["llama_cpp"]}, said, digits=2 * PADDED)


def mlx(id: str, model: str, dtype: str, gb: float, seq: int = 2048, warm: bool = True, **options: Any) -> Run:
    """Peaks of mlx-lm. Its benchmark runs the same prompt before, whose cache may not be free yet."""
    plan = {"runtime": "mlx", "task": "infer", "model": model, "dtype": dtype, "seq": seq, "device": "apple-64gb"}
    said = {"peak, warmed up" if warm else "peak": gb}
    return Run(id, {**plan, "mlx": {"max_tokens": 128, **options}}, said, unit=GB, bar=0.03)


def mlx_train(id: str, model: str, gb: float, longest: int, **keys: Any) -> Run:
    """A run of mlx-lm's trainer, of which the lengths of the samples are not known, but the longest allowed."""
    plan = {"runtime": "mlx", "model": model, "dtype": "bfloat16", "device": "apple-192gb", **keys}
    return Run(id, plan, {"peak": gb}, {"seq": (32, longest)}, unit=GB, bar=0.03)


def swift(id: str, model: str, bits: int, seq: int, tokens: int, loaded: float, peak: float) -> Run:
    """A process that runs mlx-swift: what it had once the model was loaded, less what it had before, and its peak."""
    plan = {"runtime": "mlx", "task": "infer", "model": model, "dtype": f"mlx-{bits}bit", "seq": seq}
    said = {"parameters of a process": loaded, "peak of a process": peak}
    said = {what: size for what, size in said.items() if size}
    options = {"max_tokens": tokens, "prefill_step_size": 512}
    return Run(id, {**plan, "device": "apple-64gb", "mlx": options}, said, bar=0.05)


def pte(id: str, model: str, dtype: str, mib: float) -> Run:
    """A row of ExecuTorch's, of which neither the context nor the longest call is known."""
    lengths = [{"max_context_length": context, "max_seq_length": call} for context, call in ((128, 128), (2048, 2048))]
    plan = {"runtime": "executorch", "model": model, "dtype": dtype}
    return Run(id, plan, {"process that packs": mib}, {"executorch": lengths}, bar=0.02)


QWEN_235B = "qwen3-235b-a22b"
EXPERTS = "exps=CPU"
WHOLE = {"num_layers": -1}
IK = ("ik-deepseek-r1-0528-iq3-k-r4-00001-of-00007", "ik-deepseek-r1-0528-iq4-ks-r4-00001-of-0000")
ON_CPU = r"blk\.1[3-9]\.ffn.*=CPU,blk\.[2-8][0-9]\.ffn.*=CPU,blk\.9[0-3]\.ffn.*=CPU"
RUNS: tuple[Run, ...] = (
    *map(_of_log, device_logs()),
    *(
        latent(f"{IK[0]}-{n}", n_ctx, "q8_0", mib)
        for n, n_ctx, mib in (
            ("005", 32768, 1166.62),
            ("006", 32768, 1166.62),
            ("007", 61440, 2187.42),
            ("008", 61440, 2187.42),
            ("013", 40960, 1458.28),
        )
    ),
    *(
        latent(f"{IK[1]}-{n}", n_ctx, "q8_0", mib)
        for n, n_ctx, mib in (
            ("014", 40960, 1458.28),
            ("015", 32768, 1166.62),
            ("016", 65536, 2333.25),
            ("017", 32768, 1166.62),
        )
    ),
    latent("ik-deepseek-v3-0324-q4-k-m-v2-gguf-020", 131072, "q8_0", 4666.5),
    latent("ik-deepseek-r1-0528-iq2-k-r4-00001-of-00005-023", 32768, "q8_0", 1166.62),
    latent("ik-deepseek-v3-0324-iq2-k-r4-bartowski-imat-056", 2048, "q8_0", 72.91),
    latent("ik-deepseek-r1-11446-q2-k-00001-of-00030-gg-072", 163840, "f16", 10980.0),
    latent("ik-deepseek-r1-gguf-iq4-k-iq3-k-gguf-078", 2048, "f16", 137.25),
    latent("ik-deepseek-v2-5-1210-iq3-xxs-00001-of-0000-088", 32768, "q8_0", 1166.62),
    latent("ik-deepseek-v3-0324-ud-q2-k-xl-00001-of-000-092", 16384, "f16", 1098.0),
    latent("ik-deepseek-r1-0528-iq1-s-r4-00001-of-00003-093", 16384, "f16", 1098.0),
    latent("ik-kimi-k2-thinking-thireus-bf16-special-te-102", 4096, "f16", 274.5),
    latent("ik-kimi-k2-thinking-thireus-bf16-special-te-103", 512, "f16", 34.31),
    latent("ik-kimi-k2-5-thireus-q8-0-special-tensor-00-104", 512, "f16", 34.31),
    gguf(
        *("ik-deepseek-r1-f16-gguf-036", OLD_DEEPSEEK, "f16"),
        {"cpu.kv_cache": 2320, **{f"CUDA{i}.kv_cache": 40 for i in range(3)}, "CUDA0.weights": 21983.94},
        devices=["rtx-3090"] * 3,
        n_ctx=512,
        n_batch=32,
        n_ubatch=31,
        flash_attn=False,
        n_gpu_layers=3,
        tensor_split=(1, 1, 1),
    ),
    gguf("ik-qwen3-235b-a22b-059", QWEN_235B, "q8_0", {"CUDA0.kv_cache": 6016}, n_ctx=32768),
    gguf(
        *("lcpp-qwen3-235b-a22b-060", QWEN_235B, "q8_0"),
        {"CUDA0.kv_cache": 6016, "CUDA0.compute": 1024, "cpu.compute": 72.01},
        n_ctx=32768,
        override_tensor=ON_CPU,
        use_mmap=False,
        bar=0.05,
    ),
    *(
        gguf(f"ik-qwen3-vl-235b-a22b-{name}", QWEN_235B, "q8_0", {"CUDA0.kv_cache": 752}, n_ctx=4096)
        for name in ("instruct-thireus-bf16-106", "instruct-thireus-bf16-107", "thinking-thireus-bf16-108")
    ),
    gguf(
        *("lcpp-meta-llama-3-1-8b-instruct-069", "llama-3.1-8b", "q4_0"),
        {"Vulkan0.weights": 4155.99, "Vulkan0.kv_cache": 2048, "Vulkan0.compute": 613.01},
        n_ctx=16384,
        n_ubatch=1024,
        backend="vulkan",
        bar=0.05,
    ),
    gguf("lcpp-idx-r1distill32b-cpu", "qwen2.5-32b", "q4_k_m", {"weights": 18926.01}, devices=None),
    gguf(
        *("llamafile-552-trilm", "trilm-3.9b", "f16"),
        {"cpu.weights": 297, "CUDA0.weights": 7317.71, "CUDA0.kv_cache": 180, "cpu.output": 0.19, "CUDA0.compute": 105},
        n_ctx=512,
        n_batch=512,
        flash_attn=False,
    ),
    gguf(
        *("ollama-8447-dsv3", OLD_DEEPSEEK, ""),
        {"cpu.kv_cache": 9600, "CUDA0.kv_cache": 160, "cpu.weights": 378582.96, "CUDA0.weights": 7106.67},
        {"dtype": ("q4_0", "q4_k_m", "q4_1")},
        n_ctx=2048,
        n_batch=512,
        flash_attn=False,
        n_gpu_layers=1,
    ),
    ollama("ollama-11090-mistral3-q8", "mistral-small-24b-2501", "q8_0", {"cpu.weights": 680 / 1024}, digits=1e-4),
    ollama(
        *("ollama-idx-qwen-1b-29l", "qwen2.5-1.5b", "q4_k_m"),
        {"CUDA0.weights": 934.7, "CUDA0.kv_cache": 224},
        {"llama_cpp.n_ctx": (4096, 8192)},
        unit=MIB,
    ),
    ollama("ollama-idx-gemma3-27b-rocm", "gemma-3-27b", "q4_k_m", {"CUDA0.weights": 15.4}),
    ollama(
        *("ollama-idx-qwen2-7b-metal", "qwen2-7b", "q4_0"),
        {"MTL0.weights": 3.9, "MTL0.kv_cache": 448 / 1024},
        devices=["apple-m1-max-32gb"],
        n_ctx=8192,
    ),
    ollama(
        *("ollama-idx-33l-cpu-1", "mistral-7b-v0.3", "q5_k_m"),
        {"CUDA0.kv_cache": 1.0, "CUDA0.weights": 4.7},
        n_ctx=8192,
    ),
    ollama("ollama-idx-37l-metal", "granite-8b-code", "q4_k_m", {"kv_cache": 1.1}, {"llama_cpp.n_ctx": (4096, 16384)}),
    ollama("ollama-idx-25l-cpu", "smollm2-1.7b", "q8_0", {"kv_cache": 1.5}, {"llama_cpp.n_ctx": (4096, 16384)}),
    *(
        mlx(f"mlx:bench-Qwen3-4B-Instruct-2507{name}", "qwen3-4b", dtype, gb, **options)
        for name, dtype, gb, options in (
            ("", "bfloat16", 9.02, {}),
            ("-8bit", "mlx-8bit", 5.254, {}),
            ("-6bit", "mlx-6bit", 4.25, {}),
            ("-5bit", "mlx-5bit", 3.86, {}),
            ("-4bit", "mlx-4bit", 3.35, {}),
            ("-5bit-g32", "mlx-5bit", 4.0, {"q_group_size": 32}),
            ("-4bit-g32", "mlx-4bit", 3.603, {"q_group_size": 32}),
        )
    ),
    *(
        mlx(f"mlx:bench-Qwen3-30B-A3B-Instruct-2507-{bits}bit", "qwen3-30b-a3b", f"mlx-{bits}bit", gb)
        for bits, gb in ((8, 33.46), (6, 25.82), (5, 22.01), (4, 18.2))
    ),
    mlx("mlx:gen-pr40-post", "mistral-7b-v0.1", "mlx-4bit", 9.111, 33898, False, max_tokens=1),
    *(
        mlx_train(
            f"mlx:issue236-qwen3-8b-full, step {step}",
            "qwen3-8b",
            gb,
            4992,
            method="full",
            checkpointing="layer",
            batch=1,
        )
        for step, gb in ((10, 31.753), (50, 34.108))
    ),
    *(
        mlx_train(f"mlx-lora-724-{step}", "llama-3-8b", gb, 8096, method={"name": "lora", "r": 128}, mlx=WHOLE, batch=1)
        for step, gb in ((10, 28.349), (20, 29.992))
    ),
    mlx_train(
        "mlx:issue1076-llama31-8b", "llama-3.1-8b", 121.504, 8192, method={"name": "lora", "r": 32}, mlx=WHOLE, batch=4
    ),
    *(
        swift(f"yardstick:{name}", model, 4, seq, tokens, loaded, peak)
        for name, model, seq, tokens, loaded, peak in (
            ("iPhone18,1:mlx-swift:Qwen3-0.6B-4bit:short-chat", "qwen3-0.6b", 19, 128, 459.8, 469.9),
            ("iPhone18,1:mlx-swift:Qwen3-1.7B-4bit:quality", "qwen3-1.7b", 128, 256, 1001.7, 1215.1),
            ("iPhone18,1:mlx-swift:Qwen3-1.7B-4bit:short-chat", "qwen3-1.7b", 19, 128, 1001.4, 1079.3),
            ("iPhone18,1:mlx-swift:Llama-3.2-3B-Instruct-4bit:energy", "llama-3.2-3b", 848, 512, 1839.6, 3205.3),
            ("arm64:mlx-swift:Qwen3-0.6B-4bit:long-context", "qwen3-0.6b", 2681, 128, 399.3, 2378.4),
            ("arm64:mlx-swift:Qwen3-4B-4bit:sustained-generation", "qwen3-4b", 23, 512, 2234.0, 2733.2),
            ("arm64:mlx-swift:Qwen3-8B-4bit:long-context", "qwen3-8b", 2681, 128, 4469.5, 6851.1),
            ("arm64:mlx-swift:Qwen3-8B-4bit:sustained-generation", "qwen3-8b", 23, 512, 4477.4, 4971.9),
        )
    ),
    *(
        swift(f"iosboard:{name}", model, bits, seq, tokens, 0, peak)
        for name, model, bits, seq, tokens, peak in (
            ("2026-07-12T23-22-34Z", "qwen3-1.7b", 4, 70, 128, 1107.2),
            ("2026-07-13T12-16-23Z", "qwen3-1.7b", 4, 235, 512, 1757.1),
            ("2026-07-13T12-32-28Z", "qwen3-4b", 3, 70, 128, 2370.6),
            ("2026-07-15T15-25-48Z", "qwen3-0.6b", 4, 70, 128, 473.7),
            ("2026-07-15T15-30-51Z", "qwen3-0.6b", 4, 235, 512, 803.8),
            ("2026-07-15T15-41-21Z", "qwen3-1.7b", 4, 70, 128, 1098.2),
            ("2026-07-15T15-44-46Z", "qwen3-1.7b", 4, 235, 512, 1475.7),
            ("2026-07-15T15-48-56Z", "qwen3-4b", 3, 70, 128, 1883.5),
            ("2026-07-15T15-56-24Z", "qwen3-4b", 3, 235, 512, 2374.3),
        )
    ),
    swift("yardstick-readme:qwen3-0.6b:mlx", "qwen3-0.6b", 4, 19, 128, 0, 539),
    pte("executorch:llama3.2-1B SpinQuant", "llama-3.2-1b", "8da4w", 1921),
    pte("executorch:llama3.2-1B QAT+LoRA", "llama-3.2-1b", "8da4w", 2255),
    pte("executorch:llama3.2-3B SpinQuant", "llama-3.2-3b", "8da4w", 3726),
    pte("executorch:llama3.2-3B QAT+LoRA", "llama-3.2-3b", "8da4w", 4060),
    pte("executorch:llama3.2-1B BF16", "llama-3.2-1b", "bfloat16", 3185),
    pte("executorch:llama3.2-3B BF16", "llama-3.2-3b", "bfloat16", 7419),
)
"""Runs that can be asked."""


def _answers(one: Run, folder: Path) -> Iterator[dict[str, dict[str, int]]]:
    """The bytes of the whole run and of each device, for every choice of what is missing."""
    for choice in chosen(one.missing):
        plan = copy.deepcopy(dict(one.plan))
        for key, value in choice.items():
            block, _, name = key.rpartition(".")
            (plan[block] if block else plan)[name] = value
        if plan["model"] in CONFIGS:
            path = folder / "config.json"
            path.write_text(json.dumps(CONFIGS[plan["model"]]))
            plan["model"] = str(path)
        elif plan["model"] == OLD_DEEPSEEK:
            path = folder / f"{plan['dtype']}.gguf"
            raw = load("deepseek-v3").raw
            engine.write_sparse(legacy(convert.header(raw, "deepseek-v3", plan.pop("dtype"))), path)
            plan["model"] = str(path)
        found = estimate(plan)
        yield {"": dict(found.bytes)} | {device["name"]: device["bytes"] for device in found.devices}


def _figure(answer: Mapping[str, Mapping[str, int]], what: str) -> list[int]:
    """The least and the most that a figure is in an answer."""
    if what not in PARTS:
        devices, _, key = what.rpartition(".")
        return [sum(answer[device][key] for device in devices.split("+"))]
    sizes = answer[""]
    sizes = {**sizes, "libraries": sizes["process"] - sizes["peak"]}
    least, *beside = (sizes[key] for key in PARTS[what])
    return [least, least + sum(beside)]


def scores(one: Run) -> list[Score]:
    """The figures of a run."""
    with TemporaryDirectory() as folder:
        answers = list(_answers(one, Path(folder)))
    found = []
    for what, said in one.said.items():
        values = [size / one.unit for answer in answers for size in _figure(answer, what)]
        found.append(Score(one.id, what, said, min(values), max(values), one.bar, one.digits))
    return found


UNRULED = "this architecture has no rule in llama.cpp here"
UNRULED_MLX = "this family has no rule in MLX here"
CUT = "the model's name is cut off, and no size says which it is"
STATED = "no rule: an engine whose files cannot be had here, answered by published figures alone"
TOWERS = "towers and per-layer embeddings, which export_llm has not"
OWN = "an engine of its own, which is not one of those here"
NOT_ASKED = {
    "ollama-idx-gptoss120b-rocm": "Ollama's own engine, with a file that llama-quantize does not make",
    "lcpp-6122-cmdr-2gpu": UNRULED,
    "lcpp-idx-qwen35-9b": UNRULED,
    "lcpp-idx-qwen27b-3090": UNRULED,
    "lcpp-idx-glmdsa-4x6000": UNRULED,
    "lcpp-20490-cpu": CUT,
    "lcpp-falcon-h1-15b": UNRULED,
    "kobold-2030-2gpu": CUT,
    "lcpp-kt1417-r1-dq4": "no cache, and weights of a recipe that is not llama-quantize's",
    "ik-glm-z1-rumination-32b-0414-bf16-00001-of-079": UNRULED,
    "ik-llama-3-1-nemotron-ultra-253b-v1-ud-q3-k-087": UNRULED,
    "ik-glm-4-5-thireus-bf16-special-tensor-0000-097": UNRULED,
    "ik-glm-4-6-thireus-bf16-special-tensor-0000-098": UNRULED,
    "ik-glm-5-1-thireus-iq3-kt-special-tensor-00-100": UNRULED,
    "ik-glm-5-1-thireus-bf16-special-tensor-0000-101": UNRULED,
    "ik-qwen3-5-0-8b-thireus-bf16-special-tensor-109": UNRULED,
    "ik-qwen3-5-2b-thireus-bf16-special-tensor-0-113": UNRULED,
    "ik-qwen3-5-35b-a3b-thireus-bf16-special-ten-114": UNRULED,
    "ik-qwen3-5-397b-a17b-thireus-q8-0-special-t-116": UNRULED,
    "ik-qwen3-5-4b-thireus-bf16-special-tensor-0-118": UNRULED,
    "ik-gemma-4-31b-it-thireus-bf16-special-tens-120": UNRULED,
    "yardstick:iPhone18,1:llama.cpp:Q4_K_M:short-chat": UNRULED,
    "mlx:issue1185-qwen35-27b": UNRULED_MLX,
    "mlx:issue828-48gb": "neither the model nor a setting",
    "mlx:vlm-pr795-orpo": "mlx-vlm, and no model",
    "mlx:vlm-pr499-full": "mlx-vlm, and no model",
    "mlx:tune-ijepa-lora": UNRULED_MLX,
    "mlx:tune-vjepa2-lora": UNRULED_MLX,
    **{
        f"mlx:gen-pr839-dsv3-{context}-{when}": UNRULED_MLX
        for context in (4096, 8192, 16384)
        for when in ("pre", "post")
    },
    "mlx:gen-pr40-pre": "a release that made a mask of the whole prompt",
    "mlx:gen-pr396-default": "the model is not said",
    "mlx:gen-rapid-phi4mini": "a server that keeps caches of prompts, and a counter that is not said",
    **{
        f"yardstick:{name}": UNRULED_MLX
        for name in (
            "iPhone18,1:mlx-swift:gemma-4-e2b-it-4bit:short-chat",
            "arm64:mlx-swift:gemma-4-e2b-it-4bit:short-chat",
            "arm64:mlx-swift:gemma-4-e2b-it-4bit:sustained-generation",
            "arm64:mlx-swift:LFM2-350M-4bit:quality",
            "arm64:mlx-swift:MiniCPM5-1B-4bit:short-chat",
            "arm64:mlx-swift:Qwen3.5-2B-MLX-4bit:short-chat",
            "arm64:mlx-swift:Qwen3.5-9B-MLX-4bit:short-chat",
        )
    },
    **{
        f"yardstick:arm64:mlx-swift:{name}": "mlx-swift's own loop, whose peak grows faster than the prompt"
        for name in (
            "Qwen3-0.6B-4bit:long-context-8k",
            "Qwen3-0.6B-4bit:long-context-32k",
            "Qwen3-8B-4bit:long-context-8k",
        )
    },
    **{
        f"yardstick:{name}": STATED
        for name in (
            "iPhone18,1:core-ai:deepseek-r1-1.5b-gpu:energy",
            "iPhone18,1:core-ai:qwen3-4b-ane:energy",
            "iPhone18,1:core-ai:qwen3-4b-gpu:energy",
            "iPhone18,1:core-ai:qwen3-1.7b-gpu:quality",
            "iPhone18,1:core-ai:qwen3-1.7b-gpu:short-chat",
            "iPhone18,1:coreml-llm:gemma4-e2b:energy",
            "iPhone18,1:coreml-llm:gemma4-e2b:short-chat",
            "iPhone18,1:coreml-llm:qwen3.5-2b:short-chat",
            "iPhone18,1:litert-lm:DeepSeek-R1-Distill-Qwen-1.5B:energy",
            "iPhone18,1:litert-lm:Qwen3-4B:energy",
            "iPhone18,1:litert-lm:gemma-4-E2B-it-litert-lm:short-chat",
            "iPhone18,1:litert-lm:Qwen3-0.6B:short-chat",
            "iPhone18,1:litert-lm:qwen3-1.7b:short-chat",
            "arm64:coreml-llm:gemma4-e2b:short-chat",
            "arm64:coreml-llm:lfm2.5-350m:short-chat",
            "arm64:coreml-llm:qwen2.5-0.5b:short-chat",
            "arm64:coreml-llm:qwen3.5-0.8b:short-chat",
            "arm64:litert-lm:gemma-4-E2B-it-litert-lm:quality",
            "arm64:litert-lm:Qwen3-0.6B:short-chat",
            "arm64:litert-lm:Qwen3-4B:sustained-generation",
        )
    },
    **{f"yardstick-readme:qwen3-0.6b:{name}": STATED for name in ("coreai-gpu-pipelined", "coreai-ane-static")},
    "yardstick-readme:qwen3-0.6b:coreml-llm-ane": STATED,
    "flutter385:s24": STATED,
    "litert1931:termux": STATED,
    **{f"mlc3270:{name}": STATED for name in ("q06", "init", "chat1")},
    **{f"mvp-gemma3-1b-{name}": STATED for name in ("FP16", "Q8_0", "Q4_K_M")},
    **{
        f"executorch-gemma4-{name}": TOWERS
        for name in (
            *("E2B-gemma4.pte-text-load", "E2B-gemma4.pte-text-peak", "E2B-gemma4.pte 4-bit-audio-peak"),
            *("E2B-gemma4_vision.pte-audio-load", "E2B-tied_emb4-audio-peak", "E4B-gemma4.pte-audio-load"),
            *("E4B-gemma4.pte-audio-peak", "E4B-gemma4_vision.pte-audio-load", "E4B-tied_emb4-audio-load"),
            *("E2B-gemma4_vision.pte-vision-load", "E2B-gemma4_vision.pte-vision-peak"),
            "E4B-gemma4_vision.pte-vision-peak",
        )
    },
    **{f"executorch-llava-{name}": TOWERS for name in ("no sharing", "shared XN", "max_seq 2")},
    **{
        f"mft-{name}-{how}": OWN
        for name in ("GPT-2-Small", "GPT-2-Medium", "Gemma-3-270M")
        for how in ("base", "shard")
    },
}
"""Runs that cannot be asked, and why."""
_PEAK, _LOADED = "peak of a process", "parameters of a process"
_SWIFT = "mlx-swift's own loop, which keeps freed buffers; what is live is less"
_MASK = "mlx-swift's own loop, whose peak grows faster than the prompt"
MISSED = {
    ("ik-deepseek-r1-f16-gguf-036", "CUDA0.weights"): "the fork's file has k_b and v_b beside kv_b, 32 MiB a layer",
    ("ollama-idx-qwen2-7b-metal", "MTL0.weights"): "what Ollama's estimate adds up; a file of this recipe has 3.84",
    **{
        (f"yardstick:arm64:mlx-swift:{name}", _PEAK): _MASK
        for name in (
            "Qwen3-0.6B-4bit:long-context",
            "Qwen3-8B-4bit:long-context",
        )
    },
    **{
        (f"yardstick:arm64:mlx-swift:{name}:sustained-generation", _PEAK): _SWIFT
        for name in (
            "Qwen3-4B-4bit",
            "Qwen3-8B-4bit",
        )
    },
    ("yardstick:iPhone18,1:mlx-swift:Llama-3.2-3B-Instruct-4bit:energy", _PEAK): _SWIFT,
    (
        "yardstick:iPhone18,1:mlx-swift:Qwen3-0.6B-4bit:short-chat",
        _LOADED,
    ): "another run had loaded the same model at 393",
    **{
        (f"iosboard:{name}", _PEAK): _SWIFT
        for name in (
            "2026-07-13T12-16-23Z",
            "2026-07-13T12-32-28Z",
            "2026-07-15T15-30-51Z",
            "2026-07-15T15-44-46Z",
            "2026-07-15T15-56-24Z",
        )
    },
    ("yardstick-readme:qwen3-0.6b:mlx", _PEAK): "with what the process had before, 69 MiB in the run behind it",
    ("executorch:llama3.2-1B QAT+LoRA", "process that packs"): "its adapter of 44 MiB has no rule",
    ("executorch:llama3.2-1B BF16", "process that packs"): (
        "549 MiB more; the output matrix a second time would be 501. The delegate is not said"
    ),
    ("executorch:llama3.2-3B BF16", "process that packs"): (
        "843 MiB more; the output matrix a second time would be 751. The delegate is not said"
    ),
}
"""Figures that are missed, and why."""


def main(words: Sequence[str]) -> None:
    """Print the score of each figure, of runs whose id has one of the words; of all write the table."""
    asked = (one for one in RUNS if not words or any(word in one.id for word in words))
    write(words, (score for one in asked for score in scores(one)), MISSED, NOT_ASKED, TABLE)


if __name__ == "__main__":
    main(sys.argv[1:])
