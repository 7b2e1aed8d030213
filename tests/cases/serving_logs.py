"""What logs of vLLM said, that people published: the command's options, and the log's figures.

Figures have two decimals in the logs. What lies outside PyTorch's allocator is assumed where a log does not say it.
``loading``, ``activation`` and ``available`` are GiB. ``stops``: words of the error, where vLLM stopped.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Log(NamedTuple):
    """A run: where it was published, its model, card and options, and what was logged."""

    source: str
    model: str
    device: str
    options: dict[str, Any]
    loading: float | None = None
    activation: float | None = None
    available: float | None = None
    tokens: int | None = None
    stops: str = ""


PLANNER = "github.com/llm-d-incubation/llm-d-planner, docs/empirical-vllm-memory-results.md"
LLMD: dict[str, Any] = {"release": "0.11", "max_model_len": 16000, "block_size": 128}
ALONE, PAIR = {**LLMD, "non_torch": "0.13GiB"}, {**LLMD, "tensor_parallel_size": 2}
FP8 = "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"
OLD = {"release": "0.11", "gpu_memory_utilization": 0.9}
ISSUE = "github.com/vllm-project/vllm/issues/10517"
CLUB = "github.com/noonghunna/club-3090/issues"
LOGS = (
    Log(PLANNER, "openai/gpt-oss-20b", "h100-80gb", ALONE, 13.47, 7.38, 50.28),
    Log(PLANNER, FP8, "h100-80gb", {**PAIR, "non_torch": "0.55GiB"}, 33.88, 4.84, 32.0),
    Log(PLANNER, FP8, "h100-80gb", {**LLMD, "non_torch": "0.14GiB"}, 67.72, 4.84, -1.44, None, "No available memory"),
    Log(PLANNER, "meta-llama/Llama-3.1-8B-Instruct", "h100-80gb", ALONE, 14.99, 4.76, 51.38),
    Log(PLANNER, "Qwen/Qwen3-0.6B", "h100-80gb", ALONE, 1.12, 5.56, 64.45),
    Log(PLANNER, "Qwen/Qwen3-0.6B", "h100-80gb", {**ALONE, "max_model_len": 32000}, 1.12, 5.56, 64.45),
    Log(PLANNER, "Qwen/Qwen3-32B", "h100-80gb", {**LLMD, "non_torch": "0.14GiB"}, 61.03, 5.64, 4.45),
    Log(
        *(PLANNER, "Qwen/Qwen3-32B", "h100-80gb", {**LLMD, "non_torch": "0.14GiB", "max_model_len": 32000}),
        *(61.03, 5.64, None, None, "seq len (32000)"),
    ),
    Log(PLANNER, "Qwen/Qwen3-32B", "h100-80gb", {**PAIR, "non_torch": "0.54GiB"}, 30.59, 5.64, 34.49),
    Log(
        *("github.com/vllm-project/vllm/pull/10511", "meta-llama/Meta-Llama-3-8B", "h100-80gb"),
        *({**OLD, "non_torch": "1.79GiB", "max_num_seqs": 256}, 14.96, 1.26, 53.29),
    ),
    Log(
        *("github.com/vllm-project/vllm/pull/10511", "meta-llama/Meta-Llama-3-8B", "h100-80gb"),
        *({**OLD, "non_torch": "3.58GiB", "max_num_seqs": 256, "tensor_parallel_size": 2}, 7.48, 1.26),
    ),
    Log(
        *("a log of vLLM 0.7 in a public repository: Qwen2.5-Math-1.5B on 44.39 GiB", "qwen2.5-1.5b", "l40s"),
        {**OLD, "max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.85, "non_torch": "0.08GiB"},
        *(None, 1.40, 33.37, 78115 * 16),
    ),
    *(
        Log(
            *(ISSUE, "llama-3.1-8b", "rtx-3090"),
            {**OLD, "max_num_batched_tokens": tokens, "max_model_len": 16384, "non_torch": "0.35GiB"},
            *(None, activation, available, blocks * 16),
        )
        for tokens, activation, available, blocks in ((20000, 2.04, 3.81, 1952), (29000, 2.96, 2.89, 1478))
    ),
    Log(
        *("a log of vLLM 0.10.2 in a public repository", "Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "l40s"),
        {
            **OLD,
            "tensor_parallel_size": 2,
            "enable_expert_parallel": True,
            "gpu_memory_utilization": 0.95,
            "max_model_len": 32768,
        },
        *(None, None, 25.91, 566016),
    ),
)
"""Runs whose settings are whole."""

RATES = (
    ("Qwen/Qwen3-235B-A22B-FP8", {**OLD, "tensor_parallel_size": 4}, 8.11, 178880, "vllm-project/vllm/issues/21348"),
    (
        "sakamakismile/Qwen3.5-35B-A3B-nvfp4",
        {"kv_cache_dtype": "fp8", "max_model_len": 131072, "max_num_batched_tokens": 8192, "max_num_seqs": 1},
        *(6.01, 569878, f"{CLUB}/652: Qwen3.6-35B-A3B, which has the same text model"),
    ),
    ("Qwen/Qwen3-1.7B", {"max_model_len": 1024, "max_num_seqs": 1}, 18.78, 175856, "vllm-project/vllm/issues/33263"),
    ("openai/gpt-oss-120b", {"release": "0.11"}, 5.38, 78384, "a thread about hf-mem of May 2026"),
)
"""Runs whose card or share is not said: model, options, GiB of the cache, its tokens, source. They tell the rate."""
