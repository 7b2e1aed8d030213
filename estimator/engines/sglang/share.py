"""The share of a GPU's free memory that SGLang keeps for weights and pools, where none is given.

What steps are estimated to need is left out: 1.5 MiB for each token of a prompt's chunk, and 2 MiB for each request of
the largest CUDA graph. Source of release 0.5.23: ``srt/arg_groups/memory_hook.py: handle_gpu_memory_settings``,
``cuda_graph_hook.py: generate_prefill_cuda_graph_batch_sizes``, ``apply_cuda_graph_compatibility``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .serving_options import ServingOptions

MIB = 2**20
CAPACITIES = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (90 * 1024, 8192, 256, 512),
    (160 * 1024, 8192, 256, 512),
    (None, 16384, 512, 512),
)
"""For GPUs of less memory (MiB): tokens of a chunk, and requests of the largest CUDA graph below four ranks and from
four on."""
LARGE, FLOOR = 60 * 1024, 10 * 1024
"""On a GPU of more memory at least so much is left out, in MiB."""
MULTIMODAL = 100 * MIB
"""Bytes that a model with images leaves for their embeddings (``SGLANG_VLM_CACHE_SIZE_MB``)."""


def chunk_and_graph(options: ServingOptions, total: int) -> tuple[int, int]:
    """Tokens of a chunk and requests of the largest CUDA graph, on a GPU of so many bytes as ``nvidia-smi`` says."""
    row = next(row for row in CAPACITIES if row[0] is None or total < row[0] * MIB)
    graph = options.cuda_graph_max_bs_decode
    if graph is None:
        graph = min(row[2] if options.tp_size < 4 else row[3], options.max_running_requests or 10**9)
    return options.chunked_prefill_size or row[1], graph


def static_share(options: ServingOptions, raw: Mapping[str, Any], total: int) -> float:
    """``mem_fraction_static`` on a GPU of so many bytes, as ``nvidia-smi`` says."""
    chunk, graph = chunk_and_graph(options, total)
    left = 512 + 1.5 * max(chunk if chunk > 0 else options.max_prefill_tokens, 2048)
    left += options.tp_size * options.pp_size / 8 * 1024 + _graphs(options, chunk, graph, bool(raw.get("kv_lora_rank")))
    memory = total / MIB
    if memory > LARGE:
        left = max(left, FLOOR)
    share = round((memory - left) / memory, 3)
    return share if raw.get("vision_config") is None else share * _with_images(raw["vision_config"])


def _graphs(options: ServingOptions, chunk: int, graph: int, latent: bool) -> float:
    """MiB for CUDA graphs, and for groups of ranks with requests of their own."""
    found = 0.0 if options.disable_decode_cuda_graph else 2.0 * graph
    if options.enable_dp_attention:
        found += graph * options.dp_size * (3 if graph <= 300 else 4.5)
    if options.disable_prefill_cuda_graph or options.pp_size > 1:
        return found
    if latent:
        return found + 1.5 * 1024
    largest = min(chunk, options.max_total_tokens or chunk)
    return found + 8 * sum(1 for size in _prefill_graphs(largest) if size <= largest)


def _prefill_graphs(largest: int) -> list[int]:
    """Tokens of the CUDA graphs of prompts."""
    return [
        *(*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)),
        *(*range(1280, 4097, 256), *range(4608, largest + 1, 512)),
    ]


def _with_images(vision: Mapping[str, Any]) -> float:
    """The factor for a model with images: 0.95, less a tenth for each time that its encoder is larger than ViT-L."""
    score = vision.get("num_hidden_layers", 24) * vision.get("hidden_size", 1024) ** 2
    factor: float = 1 - 0.1 * (score / (24 * 1024**2) - 1)
    return 0.95 * max(0.8, min(1.05, factor))
