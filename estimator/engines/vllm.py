"""vLLM on one GPU: the memory that it measures at its start, and the blocks of its paged KV cache.

Sources: ``vllm/v1/worker/gpu_worker.py: determine_available_memory``, ``vllm/v1/core/kv_cache_utils.py`` (groups of
layers, blocks, ``get_max_concurrency_for_kv_cache_config``), ``vllm/v1/kv_cache_interface.py``
(``SlidingWindowSpec``), ``vllm/model_executor/models/llama.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..fields import Whole
from ..ledger import ITEMSIZE
from ..programs import Config

NON_TORCH_BYTES = round(0.35 * 2**30)
"""GPU memory that a process takes outside PyTorch's allocator, from vLLM's logs: 0.35 GiB on an RTX 3090
(github.com/vllm-project/vllm/issues/10517), 0.20 GiB on another (pull/14447), 1.79 GiB on a card of 80 GB
(pull/10511)."""

BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256)
"""``vllm/config/cache.py: BlockSize``."""


def _block_size(size: int) -> int:
    if size not in BLOCK_SIZES:
        raise ValueError(f"must be one of {', '.join(map(str, BLOCK_SIZES))}")
    return size


BlockSize = Annotated[Whole, AfterValidator(_block_size)]


class ServingOptions(BaseModel):
    """Options of ``vllm serve`` on one GPU, under its names, and sizes from its log in place of derived ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="dtype of weights and activations")
    kv_cache_dtype: Literal["auto", "fp8"] = Field("auto", description="dtype of the KV cache; auto: as dtype")
    block_size: BlockSize = Field(16, description="tokens in a block")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU that vLLM takes")
    max_num_batched_tokens: Whole = Field(
        8192, ge=1, le=10**7, description="tokens of one step, of all requests; profiled at the start"
    )
    weights: str | None = Field(
        None, description="'Model loading took', as in 5.2GiB, of a quantised checkpoint; by default of all weights"
    )
    activation: str | None = Field(None, description="'PyTorch activation peak memory', if known; derived by default")
    non_torch: str | None = Field(None, description="'non_torch_memory', if known; by default 0.35GiB, an RTX 3090's")


FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose layers are as the rules here have them."""


def activation_bytes(config: Config, options: ServingOptions) -> int:
    """The peak in bytes of one step of ``max_num_batched_tokens``, which a layer's MLP or its attention reaches.

    Three hidden states are live: the layer's input, the residual, the normed sum. The MLP adds the merged gate and up
    projection and their product; attention adds the merged query, key and value projection and its result. Sampling's
    copies of the logits are not counted. They are larger where few tokens are batched and the vocabulary is large.
    """
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    per_token = 3 * config.hidden_size + max(3 * config.intermediate_size, 2 * query + 2 * kv)
    return options.max_num_batched_tokens * per_token * ITEMSIZE[options.dtype]


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
    seen = min(window - 1 + options.max_num_batched_tokens, tokens)
    return -(-seen // options.block_size) + 1
