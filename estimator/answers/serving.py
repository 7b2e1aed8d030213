"""How many requests a GPU holds at once with vLLM's paged KV cache.

vLLM takes a share of the GPU, runs the most tokens it would ever batch once, and gives what is left to
blocks of the cache. Sources: ``vllm/v1/worker/gpu_worker.py: determine_available_memory``,
``vllm/v1/core/kv_cache_utils.py`` (groups of layers, blocks, ``get_max_concurrency_for_kv_cache_config``),
``vllm/v1/kv_cache_interface.py`` (``SlidingWindowSpec``), ``vllm/model_executor/models/llama.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import InputError
from ..fields import Whole, parse_size
from ..ledger import ITEMSIZE
from ..plans.devices import assumptions, find
from ..plans.models import load
from ..plans.plan import is_gguf
from ..programs.config import Config
from .estimate import estimate

SCHEMA = 1

NON_TORCH_BYTES = round(0.35 * 2**30)
"""What a process takes of the GPU outside PyTorch's allocator, as vLLM's logs have it: 0.35 GiB on an RTX 3090
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
    """What ``vllm serve`` is asked for, by its names, on one GPU; sizes that its log prints may be given."""

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


@dataclass(frozen=True)
class Context:
    """Requests of one length: the blocks that each takes, and how many there are room for at once."""

    tokens: int
    blocks: int
    requests: float


@dataclass(frozen=True)
class Serving:
    """Where the GPU's memory goes, in bytes, and what fits into the cache."""

    model: str
    device: str
    options: ServingOptions
    bytes: dict[str, int]
    """total (what CUDA reports of an idle GPU), requested (the share of it), weights, activation, non_torch, kv_cache
    (what is left), block."""
    blocks: int
    contexts: tuple[Context, ...]
    trained: int | None
    """Positions that the model was made for, where its config says."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema": SCHEMA,
            "question": "serving",
            "model": self.model,
            "device": self.device,
            "options": self.options.model_dump(),
            "bytes": self.bytes,
            "blocks": self.blocks,
            "contexts": [vars(one) for one in self.contexts],
            "trained_context": self.trained,
            "assumptions": [asdict(one) for one in assumptions(find(self.device))],
        }


def serving(model: str, device: str, contexts: Sequence[int], options: ServingOptions) -> Serving:
    """The blocks that vLLM has for a model on a GPU, and the requests of each length that they hold.

    Raises ``InputError`` for a device that is no GPU, a model without rules or one that leaves no memory.
    """
    gpu = find(device)
    if gpu.capability is None:
        raise InputError(f"device {device} runs no CUDA; name a GPU that `estimator devices` lists, such as a100-80gb")
    if gpu.capability < (7, 0):
        raise InputError(f"vLLM needs compute capability 7.0, and {gpu.label} has {'{}.{}'.format(*gpu.capability)}")
    if options.dtype == "bfloat16" and gpu.capability < (8, 0):
        raise InputError(
            f"vLLM refuses bfloat16 below compute capability 8.0, which {gpu.label} is; set dtype to float16"
        )
    if is_gguf(model):
        raise InputError(f"'{model}' is llama.cpp's file; give a config.json, a built-in name or a hub id")
    spec = load(model)
    config, trained = spec.config, spec.raw.get("max_position_embeddings")
    weights = estimate(model=model, task="infer", dtype=options.dtype, seq=1)
    sizes = {
        "total": gpu.usable_bytes,
        "requested": int(gpu.usable_bytes * options.gpu_memory_utilization),
        "weights": _given(options.weights, weights.bytes["parameters"] + weights.bytes["buffers"]),
        "activation": _given(options.activation, activation_bytes(config, options)),
        "non_torch": _given(options.non_torch, NON_TORCH_BYTES),
    }
    left = sizes["requested"] - sizes["weights"] - sizes["activation"] - sizes["non_torch"]
    groups, layers = layer_groups(config)
    sizes["kv_cache"] = max(left, 0)
    sizes["block"] = page_bytes(config, options) * layers
    blocks = sizes["kv_cache"] // sizes["block"]
    found = []
    for tokens in contexts:
        needed = sum(blocks_of(tokens, window, options) for window in groups)
        found.append(Context(tokens, needed, blocks / needed))
    return Serving(model, device, options, sizes, blocks, tuple(found), trained if isinstance(trained, int) else None)


def _given(size: str | None, default: int) -> int:
    return default if size is None else parse_size(size)


def activation_bytes(config: Config, options: ServingOptions) -> int:
    """The peak of one step of ``max_num_batched_tokens``: of a layer's MLP or its attention.

    Three hidden states are alive (the layer's input, the residual, the normed sum), and in the MLP gate and up
    projection in one, then their product; in attention the merged projection and the result. Sampling's copies
    of the logits are not in it: they are more where few tokens are batched of a model with a large vocabulary.
    """
    query, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    per_token = 3 * config.hidden_size + max(3 * config.intermediate_size, 2 * query + 2 * kv)
    return options.max_num_batched_tokens * per_token * ITEMSIZE[options.dtype]


def page_bytes(config: Config, options: ServingOptions) -> int:
    """Keys and values of one layer in one block."""
    itemsize = 1 if options.kv_cache_dtype == "fp8" else ITEMSIZE[options.dtype]
    return 2 * options.block_size * config.num_key_value_heads * config.head_dim * itemsize


def layer_groups(config: Config) -> tuple[list[int | None], int]:
    """The window of each group of layers that share blocks (``None``: all tokens), and layers in a group.

    Groups are of one size: that of the smaller kind, or of the larger where it is less than a quarter more.
    """
    windowed = sum(config.windowed_layers)
    kinds = [(None, config.num_hidden_layers - windowed), (config.sliding_window, windowed)]
    counts = {window: count for window, count in kinds if count}
    smallest, largest = min(counts.values()), max(counts.values())
    size = largest if 4 * largest < 5 * smallest else smallest
    groups = [window for window, count in counts.items() for _ in range(-(-count // size))]
    return groups, size


def blocks_of(tokens: int, window: int | None, options: ServingOptions) -> int:
    """Blocks of a group that a request of a length takes; of a window those of the tokens that a step adds, too."""
    if window is None:
        return -(-tokens // options.block_size)
    seen = min(window - 1 + options.max_num_batched_tokens, tokens)
    return -(-seen // options.block_size) + 1
