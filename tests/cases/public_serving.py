"""Every published run of vLLM and SGLang that we know of: its settings and figures, or why it cannot be asked.

``options`` are what was printed. ``missing`` are settings that were not, each with what it could be; then an answer is
a range. Figures are GiB, and tokens. ``python -m tests.cases.public_serving`` prints the score of each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from estimator.answers.serving import Serving, serving
from estimator.engines.registry import SERVERS, engine_of
from tests.cases.public_runs import Score, chosen, write

GIB = 2**30
ROOT = Path(__file__).parent.parent.parent
SPECS = ROOT / "model_specs"
TABLE = ROOT / "docs" / "measured" / "public_serving.tsv"


def _of(model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SPECS / f"{model}.json").read_text(encoding="utf-8"))["config"]
    return found


QWEN35: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "layer_types": [*["linear_attention"] * 3, "full_attention"] * 8,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mamba_ssm_dtype": "float32",
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 248320,
}
PHI: dict[str, Any] = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "vocab_size": 32064,
    "torch_dtype": "bfloat16",
}
GLM: dict[str, Any] = {
    "model_type": "glm4_moe",
    "first_k_dense_replace": 3,
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "max_position_embeddings": 202752,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "n_shared_experts": 1,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 92,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.5,
    "use_qk_norm": True,
    "attention_bias": True,
    "vocab_size": 151552,
    "torch_dtype": "bfloat16",
}
FP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["*self_attn*", "lm_head"]}
"""NVIDIA's checkpoints of DeepSeek leave attention in 16 bits."""
CONFIGS = {
    "qwen3.5-9b": QWEN35,
    "phi-3-mini-128k": PHI,
    "glm-4.7": GLM,
    "deepseek-v3-nvfp4": {**_of("deepseek-v3"), "quantization_config": FP4},
}
"""Models that are not built in, by the keys that sizes follow from."""


@dataclass(frozen=True)
class Run:
    """A run. ``said``: loading, activation, available, tokens, after (free memory after the pools), stops (words of the
    error, empty where it starts).
    """

    id: str
    model: str
    device: str
    options: Mapping[str, Any]
    said: Mapping[str, Any]
    missing: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """``device`` and ``model`` may be among them."""
    runtime: str = SERVERS[0]


OLD = {"release": "0.11", "gpu_memory_utilization": 0.9}
LLMD = {**OLD, "max_model_len": 16000, "block_size": 128}
SG = SERVERS[1]
CLUB = {"gpu_memory_utilization": 0.92, "max_num_batched_tokens": 8192}
WITH_24 = ("rtx-3090", "rtx-4090", "a10", "l4")
WITH_48 = ("l40s", "rtx-a6000", "a40", "l40")


def run(
    id: str, model: str, device: str, options: dict[str, Any], missing: Any = (), runtime: str = "", **said: Any
) -> Run:
    """A run with its figures."""
    return Run(id, model, device, options, said, dict(missing), runtime or SERVERS[0])


FP8 = "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"
RUNS: tuple[Run, ...] = (
    run(
        "vllm-llmd-gptoss20b",
        "openai/gpt-oss-20b",
        "h100-80gb",
        {**LLMD, "non_torch": "0.13GiB"},
        loading=13.47,
        activation=7.38,
        available=50.28,
    ),
    run(
        "vllm-llmd-gptoss120b",
        "openai/gpt-oss-120b",
        "h100-80gb",
        {**LLMD, "non_torch": "0.13GiB", "gpu_memory_utilization": 0.95},
        loading=64.38,
        activation=7.38,
    ),
    run(
        "vllm-llmd-gptoss120b",
        "openai/gpt-oss-120b",
        "h100-80gb",
        {**LLMD, "non_torch": "0.13GiB", "gpu_memory_utilization": 0.95, "weights": "64.38GiB"},
        available=3.33,
    ),
    run(
        "vllm-llmd-llama33-70b-fp8-tp2",
        FP8,
        "h100-80gb",
        {**LLMD, "tensor_parallel_size": 2, "non_torch": "0.55GiB"},
        loading=33.88,
        activation=4.84,
        available=32.0,
    ),
    run(
        "vllm-llmd-llama33-70b-fp8-tp1-fail",
        FP8,
        "h100-80gb",
        {**LLMD, "non_torch": "0.14GiB"},
        loading=67.72,
        activation=4.84,
        available=-1.44,
        stops="No available memory",
    ),
    run(
        "vllm-llmd-llama31-8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        "h100-80gb",
        {**LLMD, "non_torch": "0.13GiB"},
        loading=14.99,
        activation=4.76,
        available=51.38,
        stops="",
    ),
    run(
        "vllm-llmd-qwen3-06b-16k",
        "Qwen/Qwen3-0.6B",
        "h100-80gb",
        {**LLMD, "non_torch": "0.13GiB"},
        loading=1.12,
        activation=5.56,
        available=64.45,
        stops="",
    ),
    run(
        "vllm-llmd-qwen3-06b-32k",
        "Qwen/Qwen3-0.6B",
        "h100-80gb",
        {**LLMD, "max_model_len": 32000, "non_torch": "0.13GiB"},
        loading=1.12,
        activation=5.56,
        available=64.45,
        stops="",
    ),
    run(
        "vllm-llmd-qwen3-32b-tp1-16k",
        "Qwen/Qwen3-32B",
        "h100-80gb",
        {**LLMD, "non_torch": "0.14GiB"},
        loading=61.03,
        activation=5.64,
        available=4.45,
        stops="",
    ),
    run(
        "vllm-llmd-qwen3-32b-tp1-32k-fail",
        "Qwen/Qwen3-32B",
        "h100-80gb",
        {**LLMD, "max_model_len": 32000, "non_torch": "0.14GiB"},
        loading=61.03,
        activation=5.64,
        stops="seq len (32000)",
    ),
    run(
        "vllm-llmd-qwen3-32b-tp2",
        "Qwen/Qwen3-32B",
        "h100-80gb",
        {**LLMD, "tensor_parallel_size": 2, "non_torch": "0.54GiB"},
        loading=30.59,
        activation=5.64,
        available=34.49,
    ),
    run(
        "vllm-llmd-mistral-small-32",
        "mistral-small-24b-2501",
        "h100-80gb",
        {
            **LLMD,
            "gpu_memory_utilization": 0.95,
            "non_torch": "0.14GiB",
            "weights": "44.76GiB",
            "activation": "2.12GiB",
        },
        available=28.2,
        tokens=184832,
    ),
    run(
        "vllm-rtx6k-glm51-dcp1-mtp0",
        "glm-5",
        "b200",
        {
            "tensor_parallel_size": 8,
            "max_model_len": 202752,
            "max_num_batched_tokens": 8192,
            "max_num_seqs": 64,
            "kv_cache_dtype": "fp8",
            "block_size": 64,
            "kv_cache_memory_bytes": "19.55GiB",
        },
        tokens=341504,
    ),
    run(
        "vllm-rtx6k-glm51-dcp2-mtp1",
        "glm-5",
        "b200",
        {
            "tensor_parallel_size": 8,
            "max_model_len": 202752,
            "max_num_batched_tokens": 8192,
            "max_num_seqs": 64,
            "kv_cache_dtype": "fp8",
            "block_size": 64,
            "kv_cache_memory_bytes": "18.42GiB",
            "decode_context_parallel_size": 2,
            "num_speculative_tokens": 3,
        },
        tokens=635520,
    ),
    run(
        "vllm-10511-llama3-8b-tp1",
        "meta-llama/Meta-Llama-3-8B",
        "h100-80gb",
        {**OLD, "non_torch": "1.79GiB"},
        {"max_num_seqs": (256,)},
        loading=14.96,
        activation=1.26,
        available=53.29,
    ),
    run(
        "vllm-10511-llama3-8b-tp2",
        "meta-llama/Meta-Llama-3-8B",
        "h100-80gb",
        {**OLD, "non_torch": "3.58GiB", "tensor_parallel_size": 2},
        {"max_num_seqs": (256,)},
        loading=7.48,
        activation=1.26,
    ),
    run(
        "vllm-2031-llama2-7b-tp1",
        "llama-2-7b",
        "a100-80gb",
        OLD,
        {"max_num_batched_tokens": (2560, 4096)},
        tokens=7449 * 16,
    ),
    run(
        "vllm-2031-llama2-70b-tp4",
        "llama-2-70b",
        "a100-80gb",
        {**OLD, "tensor_parallel_size": 4},
        {"max_num_batched_tokens": (2560, 4096)},
        tokens=31615 * 16,
    ),
    run(
        "vllm-13074-deepseek-r1-tp8-pp2",
        "deepseek-ai/DeepSeek-R1",
        "h200",
        {
            "release": "0.11",
            "tensor_parallel_size": 8,
            "pipeline_parallel_size": 2,
            "gpu_memory_utilization": 1.0,
            "non_torch": "2.53GiB",
        },
        {"max_num_batched_tokens": (512, 2048), "max_num_seqs": (8, 256)},
        loading=39.66,
        activation=0.24,
        available=97.29,
    ),
    run(
        "vllm-13061-r1-distill-14b-tp2",
        "qwen2.5-14b",
        "rtx-4090",
        {"release": "0.11", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.98, "non_torch": "0.25GiB"},
        {"max_num_batched_tokens": (512, 2048), "max_num_seqs": (16, 256)},
        loading=13.9476,
        available=8.69,
    ),
    run(
        "vllm-12865-r1-distill-32b-tp2", "qwen2.5-32b", "h100-80gb", {**OLD, "tensor_parallel_size": 2}, loading=30.7293
    ),
    run(
        "vllm-21348-qwen3-235b-fp8-tp4",
        "Qwen/Qwen3-235B-A22B-FP8",
        "h100-80gb",
        {**OLD, "tensor_parallel_size": 4, "kv_cache_memory_bytes": "8.11GiB"},
        tokens=178880,
    ),
    run("vllm-33155-gptoss120b", "openai/gpt-oss-120b", "h100-80gb", {"release": "0.11"}, loading=64.38),
    run(
        "vllm-hfmem60-gptoss120b",
        "openai/gpt-oss-120b",
        "h200",
        {"release": "0.11", "kv_cache_memory_bytes": "5.38GiB"},
        tokens=78384,
    ),
    run(
        "vllm-club642",
        "qwen3.5-27b",
        "rtx-3090",
        {"tensor_parallel_size": 2, "dtype": "float16", "max_model_len": 262144, "kv_cache_memory_bytes": "11.05GiB"},
        {"kv_cache_dtype": ("auto", "fp8"), "num_speculative_tokens": (0, 3), "max_num_batched_tokens": (2048, 8192)},
        tokens=623873,
    ),
    run(
        "vllm-32105-glm47-fp8-pp8",
        "glm-4.7",
        "a100-80gb",
        {
            "release": "0.11",
            "pipeline_parallel_size": 8,
            "max_model_len": 202752,
            "max_num_seqs": 128,
            "quantization": "fp8",
            "kv_cache_memory_bytes": "28.57GiB",
        },
        stops="larger than the available KV cache memory",
    ),
    run(
        "vllm-club594",
        "qwen3.5-27b",
        "rtx-3090",
        {
            **CLUB,
            "tensor_parallel_size": 2,
            "kv_cache_dtype": "fp8",
            "max_num_seqs": 2,
            "max_model_len": 262144,
            "kv_cache_memory_bytes": "5.33GiB",
        },
        {"num_speculative_tokens": (0, 3)},
        tokens=300220,
    ),
    run(
        "vllm-club652",
        "qwen3.5-35b-a3b",
        "rtx-5090",
        {
            **CLUB,
            "kv_cache_dtype": "fp8",
            "max_num_seqs": 1,
            "max_model_len": 131072,
            "kv_cache_memory_bytes": "6.01GiB",
        },
        tokens=569878,
    ),
    run(
        "vllm-club612",
        "qwen3.5-35b-a3b",
        "rtx-5090",
        {
            **CLUB,
            "kv_cache_dtype": "fp8",
            "max_num_seqs": 1,
            "max_model_len": 131072,
            "kv_cache_memory_bytes": "5.98GiB",
        },
        tokens=567978,
    ),
    run(
        "vllm-33263-qwen3-17b",
        "Qwen/Qwen3-1.7B",
        "rtx-3090",
        {"max_model_len": 1024, "max_num_seqs": 1, "kv_cache_memory_bytes": "18.78GiB"},
        tokens=175856,
    ),
    run(
        "vllm-33263-qwen3-17b",
        "Qwen/Qwen3-1.7B",
        "",
        {"release": "0.11", "max_model_len": 1024, "max_num_seqs": 1},
        {"device": WITH_24},
        available=18.78,
    ),
    run(
        "vllm-17469-qwen3-tp4",
        "",
        "h100-80gb",
        {**OLD, "tensor_parallel_size": 4},
        {"model": ("qwen3-30b-a3b",)},
        loading=14.2474,
    ),
    run(
        "vllm-idx-qwen3-30b-fp8-l40s",
        "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8",
        "l40s",
        {
            "release": "0.11",
            "tensor_parallel_size": 2,
            "enable_expert_parallel": True,
            "gpu_memory_utilization": 0.95,
            "max_model_len": 32768,
        },
        available=25.91,
        tokens=566016,
    ),
    run(
        "vllm-idx-qwen3vl-235b-fp8-tp8ep8",
        "qwen3-235b-a22b",
        "h200",
        {
            "release": "0.11",
            "tensor_parallel_size": 8,
            "enable_expert_parallel": True,
            "kv_cache_memory_bytes": "9.71GiB",
        },
        tokens=217104,
    ),
    run(
        "vllm-idx-exaone40-32b-fp8",
        "LGAI-EXAONE/EXAONE-4.0-32B-FP8",
        "l40s",
        {"release": "0.11", "max_model_len": 4096, "enforce_eager": True, "kv_cache_memory_bytes": "10.31GiB"},
        loading=30.9891,
        tokens=42224,
    ),
    run(
        "vllm-17462-qwen3-32b-tp2",
        "Qwen/Qwen3-32B",
        "",
        {**OLD, "tensor_parallel_size": 2, "max_model_len": 16384},
        {"device": (*WITH_48, "a100-40gb")},
        tokens=67856,
    ),
    run(
        "vllm-idx-qwen25math15b-44g",
        "qwen2.5-1.5b",
        "l40s",
        {**OLD, "gpu_memory_utilization": 0.85, "max_num_batched_tokens": 4096, "non_torch": "0.08GiB"},
        loading=2.8797,
        activation=1.40,
        available=33.37,
        tokens=78115 * 16,
    ),
    run(
        "vllm-idx-r1-0528-qwen3-8b-tp4",
        "qwen3-8b",
        "rtx-3090",
        {
            "release": "0.11",
            "tensor_parallel_size": 4,
            "dtype": "float16",
            "max_model_len": 40960,
            "kv_cache_memory_bytes": "14.49GiB",
        },
        loading=3.85,
        tokens=round(6.44 * 65536),
    ),
    run(
        "vllm-idx-qwen25-7b-v1",
        "Qwen/Qwen2.5-7B",
        "",
        {**OLD, "max_model_len": 4096},
        {"device": WITH_24},
        loading=14.2717,
        tokens=97680,
    ),
    run(
        "vllm-idx-phi3mini-tp4-a40",
        "phi-3-mini-128k",
        "a40",
        {**OLD, "tensor_parallel_size": 4, "max_num_batched_tokens": 200000},
        {"max_num_seqs": (256, 1024)},
        tokens=19941 * 16,
    ),
    run(
        "vllm-idx-awq-a10g-16k",
        "qwen2.5-14b",
        "a10",
        {
            "gpu_memory_utilization": 0.5,
            "max_model_len": 16384,
            "quantization": "awq",
            "kv_cache_memory_bytes": "0.18GiB",
        },
        loading=9.38,
        stops="larger than the available KV cache memory",
    ),
    *(
        run(
            *("vllm-10517-llama31-8b", "llama-3.1-8b", "rtx-3090"),
            {**OLD, "max_num_batched_tokens": batched, "max_model_len": 16384, "non_torch": "0.35GiB"},
            activation=activation,
            available=available,
            tokens=blocks * 16,
        )
        for batched, activation, available, blocks in ((20000, 2.04, 3.81, 1952), (29000, 2.96, 2.89, 1478))
    ),
    run(
        "sgl-21348-qwen3-235b-fp8-tp4",
        "Qwen/Qwen3-235B-A22B-FP8",
        "h100-80gb",
        {"tp_size": 4, "mem_fraction_static": 0.93},
        runtime=SG,
        tokens=367404,
    ),
    run(
        "sgl-11830-b200",
        "",
        "b200",
        {"cuda_graph_max_bs_decode": 512},
        {"model": ("qwen2.5-7b",), "mem_fraction_static": (0.77, 0.9)},
        runtime=SG,
        tokens=2243474,
    ),
    run(
        "sgl-infx2128-dsv4pro",
        "deepseek-v3",
        "h200",
        {"tp_size": 8, "mem_fraction_static": 0.88, "weights": "125.65GiB", "free": "137.90GiB"},
        runtime=SG,
        stops="minimum viable = 1 - available/pre = 0.911",
    ),
    run(
        "sgl-infx2128-dsv4pro-mtp",
        "deepseek-v3",
        "h200",
        {"tp_size": 8, "mem_fraction_static": 0.88, "weights": "128.72GiB", "free": "137.90GiB"},
        runtime=SG,
        stops="minimum viable = 1 - available/pre = 0.933",
    ),
    run(
        "sgl-4760-llama31-8b",
        "llama-3.1-8b",
        "h100-80gb",
        {"free": "78.59GiB"},
        {"mem_fraction_static": (0.85, 0.9)},
        runtime=SG,
        loading=15.11,
        tokens=442750,
    ),
    run(
        "sgl-idx-kimi-k25-tp8",
        "deepseek-v3",
        "",
        {"tp_size": 8, "kv_cache_dtype": "bfloat16", "weights": "73.58GiB", "free": "283.56GiB"},
        {"device": ("b200",), "mem_fraction_static": (0.8, 0.88)},
        runtime=SG,
        tokens=2454421,
    ),
    run(
        "sgl-idx-qwen35-tp2",
        "qwen3.5-9b",
        "rtx-3090",
        {"tp_size": 2, "free": "22.93GiB", "max_mamba_cache_size": 186},
        {"mem_fraction_static": (0.75, 0.85)},
        runtime=SG,
        tokens=327310,
        after=4.49,
    ),
    run(
        "sgl-idx-granite-hybrid",
        "granite-4.0-h-micro",
        "rtx-4080",
        {"free": "15.24GiB"},
        {"mem_fraction_static": (0.75, 0.8)},
        runtime=SG,
        loading=5.98,
        tokens=399740,
        after=3.42,
    ),
    run(
        "sgl-idx-qwen35-4b",
        "qwen3.5-9b",
        "rtx-3090",
        {"mem_fraction_static": 0.85, "context_length": 4096, "weights": "8.62GiB", "free": "23.09GiB"},
        runtime=SG,
        after=3.4,
    ),
    run(
        "sgl-idx-gemma4-26b",
        "google/gemma-4-26B-A4B-it",
        "h200",
        {"free": "113.28GiB"},
        {"mem_fraction_static": (0.7, 0.8)},
        runtime=SG,
        loading=47.23,
        tokens=213761,
    ),
    run(
        "sgl-idx-llama-8b-mi300",
        "llama-3.1-8b",
        "h200",
        {"free": "191.3GiB", "weights": "15GiB"},
        {"mem_fraction_static": (0.85, 0.9)},
        runtime=SG,
        tokens=1256440,
    ),
    run("sgl-idx-dsv3-fp4-tp4", "deepseek-v3-nvfp4", "b200", {"tp_size": 4}, runtime=SG, loading=94.51),
)
"""Runs that can be asked."""

CUT = "the model's name is cut off"
UNRULED = "this model has no rule here"
NOT_ASKED = {
    "vllm-14447-r1-wna16": CUT,
    "vllm-15340-r1-gguf": "a GGUF file in vLLM",
    "vllm-14286-llama31-8b-int8": "no card, and the concurrency alone",
    "vllm-club104": "what the quantised checkpoint leaves in 16 bits is not said",
    "vllm-idx-qwen35-35b-awq-tp2ep": "what the quantised checkpoint leaves in 16 bits is not said",
    "vllm-bench-qwen38-27b-fp8-tp2-gfx1201": UNRULED,
    "vllm-2418-alpaca2": "neither the card nor the model's size",
    "vllm-4650-dscoder-v2": "neither the card nor the share",
    "vllm-kaito2132-mistral-small4": UNRULED,
    "vllm-runpod35-mistral7b": "no card",
    "vllm-44376-dsv4flash-gh200": UNRULED,
    "vllm-28228-kimi-linear": UNRULED,
    "vllm-club-bench-qwen36-int8": "a cache of 8 bits with a scale for each head has no rule",
    "vllm-club-bench-gemma4-31b-int8": "a cache of 8 bits with a scale for each head has no rule",
    "vllm-54458-qwen38flashnext-8k": UNRULED,
    "vllm-54458-qwen38flashnext-262k": UNRULED,
    "vllm-54458-qwen38flashnext-262k-fp8": UNRULED,
    "vllm-25350-fp8kv-100k": CUT,
    "vllm-25350-fp8kv-221k": CUT,
    "vllm-omni1434": CUT,
    "vllm-dsv4flash-spark-mnbt8224": UNRULED,
    "vllm-dsv4flash-spark-mnbt2048": UNRULED,
    "vllm-dsv4flash-b200-tp8": UNRULED,
    "vllm-dsv4flash-b200-dp8": UNRULED,
    "vllm-51041-dsv4flash-h20": UNRULED,
    "vllm-tanguille4670": "neither the card nor the settings",
    "vllm-turbomind14-awq": CUT,
    "vllm-turbomind14-tm": CUT,
    "vllm-idx-phi35moe-tp8-a100": "no rule for Phi-3.5-MoE",
    "vllm-idx-dsv3-2node": "no card, and no sizes of ranks",
    "vllm-idx-cosmos-reason2-2b": "its config is not public, and one layer more than Qwen3-VL-2B's explains it",
    "sgl-36583-before": CUT,
    "sgl-36583-after": CUT,
    "sgl-8008-kimivl": "the share alone, of a model without a rule",
    "sgl-18039-mimo-v2-flash": UNRULED,
    "sgl-idx-ornith-bf16": "another server shares the memory",
}
"""Runs that cannot be asked, and why."""
MISSED = {
    (
        "vllm-13074-deepseek-r1-tp8-pp2",
        "loading",
    ): "0.7 keeps the absorbed products of latent attention in 8 bits, 71 MB "
    "a layer, in place of 4, and counts the peak of making them",
    ("vllm-13074-deepseek-r1-tp8-pp2", "activation"): "0.7 had no workspace for the keys of latent attention, 0.5 GiB",
    ("vllm-13061-r1-distill-14b-tp2", "loading"): "1.2 %: 0.16 GiB more, as on the other pair of cards of 0.7",
    ("vllm-33263-qwen3-17b", "available"): "on no card of 24 GB is so much left with the default share; 0.94 would do",
    ("vllm-idx-phi3mini-tp4-a40", "tokens"): "a fork of 0.6, whose step of 200,000 tokens takes 3 GiB more",
    ("vllm-32105-glm47-fp8-pp8", "stops"): "a defect of that build: it held the whole model's need against one rank",
}
"""Figures that are missed, and why."""


def _answers(one: Run, folder: Path) -> Iterator[Serving]:
    engine = engine_of(one.runtime)
    for choice in chosen(one.missing):
        options = {**one.options, **choice}
        model, device = options.pop("model", one.model), options.pop("device", one.device)
        if model in CONFIGS:
            path = folder / f"{model}.json"
            path.write_text(json.dumps(CONFIGS[model]))
            model = str(path)
        yield serving(model, device, [4096], engine.options(**options), False)  # type: ignore[attr-defined]


def scores(one: Run) -> list[Score]:
    """The figures of a run."""
    with TemporaryDirectory() as folder:
        found = list(_answers(one, Path(folder)))
    known = {"non_torch", "free", "kv_cache_memory_bytes"} & one.options.keys()
    result = []
    for what, said in one.said.items():
        if what == "stops":
            right = all((said in (a.refusal or "")) and bool(said) == (a.refusal is not None) for a in found)
            result.append(Score(one.id, what, said, right, right, 0))
            continue
        values = [_figure(a, what) for a in found]
        bar = 0.01 if what == "loading" else 0.02 if known or what == "activation" else 0.05
        result.append(Score(one.id, what, said, min(values), max(values), bar))
    return result


def _figure(answer: Serving, what: str) -> float:
    if what == "tokens":
        return answer.kv_tokens
    if what == "after":
        line = next(line for line in answer.log if line.startswith("Memory pool end"))
        return float(line.split("=")[1].split()[0])
    return answer.bytes[{"loading": "weights"}.get(what, what)] / GIB


def main(words: Sequence[str]) -> None:
    """Print the score of each figure, of runs whose id has one of the words; of all write the table."""
    asked = (one for one in RUNS if not words or any(word in one.id for word in words))
    write(words, (score for one in asked for score in scores(one)), MISSED, NOT_ASKED, TABLE)


if __name__ == "__main__":
    main(sys.argv[1:])
