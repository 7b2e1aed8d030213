"""What vLLM's profiling run takes: a forward pass over the most tokens of a step, then the sampler.

Sources: ``vllm/v1/worker/gpu_worker.py: determine_available_memory``, ``vllm/v1/worker/gpu_model_runner.py:
profile_run``, ``vllm/model_executor/layers/fused_moe/fused_moe.py``, ``vllm/v1/attention/backends/mla/common.py``. Of
0.11 also ``vllm/v1/sample/ops/topk_topp_sampler.py: apply_top_k_top_p`` and PyTorch's
``aten/src/ATen/native/cuda/SortStable.cu``. Of 0.33: ``vllm/v1/worker/gpu/sample/sampler.py``, ``penalties.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...ledger import ITEMSIZE
from ...operators.cuda.cublas import workspace_bytes
from ...programs import Config
from ..served.weights import VOCABULARY, kv_heads_of, shapes_of
from .serving_options import ServingOptions

CHUNK = 32 * 1024
"""Tokens that experts compute at once (``VLLM_FUSED_MOE_CHUNK_SIZE``)."""
WORKSPACE = 64 * 1024
"""The most tokens of the cache whose keys and values are computed at once from what latent attention keeps."""
FUSED = 4 + 4 + 4
"""Bytes a logit while a fused kernel samples: float32 logits, those that top-k leaves, and their probabilities."""
COUNTED = 4
"""Bytes of a count of each token of the vocabulary in each request's output, and a bit of its prompt beside it."""


def activation_bytes(config: Config, raw: Mapping[str, Any], options: ServingOptions, capability: Any) -> int:
    """The peak in bytes. cuBLAS's workspace is allocated in it.

    While the sampler runs, the forward pass's result is live, [tokens, hidden], and of it the requests' last tokens.
    """
    itemsize = ITEMSIZE[options.dtype]
    kept = (options.tokens + options.rows) * config.hidden_size * itemsize
    sampled = _sorting_bytes if options.is_old else _fused_bytes
    workspace = workspace_bytes(capability)
    return workspace + max(_forward_bytes(config, raw, options), kept + sampled(config.vocab_size, options))


def _forward_bytes(config: Config, raw: Mapping[str, Any], options: ServingOptions) -> int:
    """The peak of a layer, in its attention, its MLP or its experts.

    Three hidden states are live: the layer's input, the residual, the normed sum. An MLP adds the merged gate and up
    projection and their product; attention the merged query, key and value projection and its result; experts the same
    for each of a token's experts, and their outputs, which share a buffer with the first.
    """
    itemsize, tp, hidden = ITEMSIZE[options.dtype], options.tensor_parallel_size, config.hidden_size
    shapes = {re.sub(r"\.\d+\.", ".N.", name): shape for name, shape in shapes_of(config).items()}
    widths, experts = [0], 0
    for name, shape in shapes.items():
        if name.endswith("experts.gate_up_proj"):
            width = shape[1] if options.enable_expert_parallel else shape[1] // options.parallel.moe
            chosen = next((raw[key] for key in _CHOSEN if isinstance(raw.get(key), int)), 1)
            experts = min(options.tokens, CHUNK) * (chosen * (max(width, hidden) + width // 2) + hidden) * itemsize
        elif name.endswith(("gate_proj.weight", "gate_up_proj.weight", "fc1.weight", "dense_h_to_4h.weight")):
            merged = name.endswith("gate_proj.weight")
            widths.append((3 * shape[0] if merged else 3 * shape[0] // 2) // tp)
    if rank := raw.get("kv_lora_rank"):
        heads = config.num_attention_heads // tp
        query = heads * (raw["qk_nope_head_dim"] + raw["qk_rope_head_dim"])
        upper = heads * (raw["qk_nope_head_dim"] + raw["v_head_dim"])
        widths.append(2 * query + upper + rank + raw["qk_rope_head_dim"])
        workspace = min(max(8 * (options.max_model_len or WORKSPACE), 64 * options.rows), WORKSPACE) * upper * itemsize
    else:
        workspace = 0
        query, kv = (config.heads.get(name) for name in ("num_attention_heads", "num_key_value_heads"))
        if query and kv and config.heads.get("head_dim"):
            widths.append((2 * query // tp + 2 * kv_heads_of(kv, tp)) * config.head_dim)
    largest = max(options.tokens * max(widths) * itemsize, experts, workspace)
    return int(options.tokens * 3 * hidden * itemsize + largest)


_CHOSEN = ("num_experts_per_tok", "moe_k", "top_k_experts", "moe_topk")
"""Keys of a config for the experts of a token."""


def _fused_bytes(vocab: int, options: ServingOptions) -> int:
    """The peak of a fused sampler, with the logits in the model's dtype and what is counted for penalties."""
    itemsize = ITEMSIZE[options.dtype]
    assert options.max_num_seqs is not None
    counted = options.max_num_seqs * (COUNTED * vocab + -(-vocab // 32) * 4)
    return options.rows * (-(-vocab // VOCABULARY) * VOCABULARY * itemsize + vocab * FUSED) + counted


def _sorting_bytes(vocab: int, options: ServingOptions) -> int:
    """The peak of sampling with top-k and top-p, which the profiling run asks for: while the logits are sorted.

    Live are the logits in the model's dtype (the vocabulary is padded), a float32 copy, the sorted values and their
    int64 indices; in the sort, unsorted indices, and another copy of values and indices for cub's radix sort. From 2 to
    127 rows are sorted as one, with two arrays of (row, index), int32 each, and sorted keys.
    """
    itemsize = ITEMSIZE[options.dtype]
    logits = options.rows * -(-vocab // VOCABULARY) * VOCABULARY * itemsize
    copy = 0 if itemsize == 4 else 4
    within = 8 + 8 + 4 + (4 + 8) if 1 < options.rows < 128 else 8 + (4 + 8)
    return logits + options.rows * vocab * (copy + (4 + 8) + within)
