"""vLLM on one GPU: the memory that it measures at its start, and the blocks of its paged KV cache.

The releases are 0.6 to 0.11, whose sampler is PyTorch's operators. Later ones may sample with FlashInfer or Triton, and
count the memory of CUDA graphs.

Sources: ``vllm/v1/worker/gpu_worker.py: determine_available_memory``, ``vllm/v1/worker/gpu_model_runner.py:
profile_run``, ``vllm/v1/sample/ops/topk_topp_sampler.py: apply_top_k_top_p``, PyTorch's
``aten/src/ATen/native/cuda/SortStable.cu``, ``vllm/engine/arg_utils.py: _set_default_args_v1``,
``vllm/v1/core/kv_cache_utils.py`` (groups of layers, blocks, ``get_max_concurrency_for_kv_cache_config``),
``vllm/v1/kv_cache_interface.py`` (``SlidingWindowSpec``), ``vllm/model_executor/models/llama.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..fields import Whole
from ..ledger import ITEMSIZE
from ..operators.cuda.cublas import workspace_bytes
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
    max_num_batched_tokens: Whole | None = Field(
        None,
        ge=1,
        le=10**7,
        description="tokens of one step, of all requests; by default 8192 on GPUs of 70 GiB and more but the A100, "
        "else 2048",
    )
    max_num_seqs: Whole | None = Field(
        None, ge=1, le=10**6, description="requests of one step; by default 1024 on the same GPUs, else 256"
    )
    weights: str | None = Field(
        None, description="'Model loading took', as in 5.2GiB, of a quantised checkpoint; by default of all weights"
    )
    activation: str | None = Field(None, description="'PyTorch activation peak memory', if known; derived by default")
    non_torch: str | None = Field(None, description="'non_torch_memory', if known; by default 0.35GiB, an RTX 3090's")

    def on(self, name: str, total: int) -> ServingOptions:
        """The options with the defaults of ``vllm serve`` on a GPU, by its name and its bytes of memory."""
        large = total >= 70 * 2**30 and not name.startswith("a100")
        tokens = self.max_num_batched_tokens or (8192 if large else 2048)
        rows = self.max_num_seqs or min(1024 if large else 256, tokens)
        return self.model_copy(update={"max_num_batched_tokens": tokens, "max_num_seqs": rows})

    @property
    def tokens(self) -> int:
        """``max_num_batched_tokens``, once the GPU is known."""
        assert self.max_num_batched_tokens is not None
        return self.max_num_batched_tokens

    @property
    def rows(self) -> int:
        """The requests of a step of the most tokens, once the GPU is known."""
        assert self.max_num_seqs is not None
        return min(self.max_num_seqs, self.tokens)


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
