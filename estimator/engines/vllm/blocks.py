"""The memory that vLLM measures at its start, and the blocks of its paged KV cache.

The releases are 0.6 to 0.11, whose sampler is PyTorch's operators. Later ones may sample with FlashInfer or Triton, and
count the memory of CUDA graphs.

Sources: ``vllm/v1/worker/gpu_worker.py: determine_available_memory``, ``vllm/v1/worker/gpu_model_runner.py:
profile_run``, ``vllm/v1/sample/ops/topk_topp_sampler.py: apply_top_k_top_p``, PyTorch's
``aten/src/ATen/native/cuda/SortStable.cu``, ``vllm/engine/arg_utils.py: _set_default_args_v1``,
``vllm/v1/core/kv_cache_utils.py`` (groups of layers, blocks, ``get_max_concurrency_for_kv_cache_config``),
``vllm/v1/kv_cache_interface.py`` (``SlidingWindowSpec``), ``vllm/model_executor/models/llama.py``.
"""

from __future__ import annotations

from ...ledger import ITEMSIZE
from ...operators.cuda.cublas import workspace_bytes
from ...programs import Config
from .options import ServingOptions

NON_TORCH_BYTES = round(0.35 * 2**30)
"""GPU memory that a process takes outside PyTorch's allocator, from vLLM's logs: 0.35 GiB on an RTX 3090
(github.com/vllm-project/vllm/issues/10517), 0.20 GiB on another (pull/14447), 1.79 GiB on a card of 80 GB
(pull/10511)."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose layers are as the rules here have them."""


def activation_bytes(config: Config, options: ServingOptions, capability: tuple[int, int]) -> int:
    """The peak in bytes of the profiling run: a forward pass over ``max_num_batched_tokens``, then the sampler.

    cuBLAS's workspace is allocated in it. While the sampler runs, the forward pass's result is live, [tokens, hidden],
    and of it the requests' last tokens.
    """
    itemsize = ITEMSIZE[options.dtype]
    kept = (options.tokens + options.rows) * config.hidden_size * itemsize
    workspace = workspace_bytes(capability)
    return workspace + max(_forward_bytes(config, options), kept + _sampler_bytes(config.vocab_size, options))


def _forward_bytes(config: Config, options: ServingOptions) -> int:
    """The peak of a layer, in its MLP or its attention.

    Three hidden states are live: the layer's input, the residual, the normed sum. The MLP adds the merged gate and up
    projection and their product; attention adds the merged query, key and value projection and its result.
    """
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    per_token = 3 * config.hidden_size + max(3 * config.intermediate_size, 2 * query + 2 * kv)
    return options.tokens * per_token * ITEMSIZE[options.dtype]


def _sampler_bytes(vocab: int, options: ServingOptions) -> int:
    """The peak of sampling with top-k and top-p, which the profiling run asks for: while the logits are sorted.

    Live are the logits in the model's dtype (the vocabulary is padded to a multiple of 64), a float32 copy, the sorted
    values and their int64 indices; in the sort, unsorted indices, and another copy of values and indices for cub's
    radix sort. From 2 to 127 rows are sorted as one, with two arrays of (row, index), int32 each, and sorted keys.
    """
    itemsize = ITEMSIZE[options.dtype]
    logits = options.rows * -(-vocab // 64) * 64 * itemsize
    copy = 0 if itemsize == 4 else 4
    within = 8 + 8 + 4 + (4 + 8) if 1 < options.rows < 128 else 8 + (4 + 8)
    return logits + options.rows * vocab * (copy + (4 + 8) + within)


def page_bytes(config: Config, options: ServingOptions) -> int:
    """Bytes of the keys and values of one layer in one block."""
    itemsize = 1 if options.kv_cache_dtype == "fp8" else ITEMSIZE[options.dtype]
    return 2 * options.block_size * config.num_key_value_heads * config.head_dim * itemsize


def layer_groups(config: Config) -> tuple[list[int | None], int]:
    """The window of each group of layers that share blocks (``None``: all tokens), and the layers in a group.

    All groups have one size. It is the number of layers with a window or of those without, whichever is smaller; but
    the larger number where it is less than 1.25 times the smaller.
    """
    windowed = sum(config.windowed_layers)
    kinds = [(None, config.num_hidden_layers - windowed), (config.sliding_window, windowed)]
    counts = {window: count for window, count in kinds if count}
    smallest, largest = min(counts.values()), max(counts.values())
    size = largest if 4 * largest < 5 * smallest else smallest
    groups = [window for window, count in counts.items() for _ in range(-(-count // size))]
    return groups, size


def blocks_of(tokens: int, window: int | None, options: ServingOptions) -> int:
    """Blocks of one group for a request of ``tokens``; a window's also hold the tokens that one step adds."""
    if window is None:
        return -(-tokens // options.block_size)
    seen = min(window - 1 + options.tokens, tokens)
    return -(-seen // options.block_size) + 1
