"""The cache of one rank: what each layer keeps, groups of layers that share blocks, and the blocks of a request.

Sources of release 0.33: ``vllm/v1/kv_cache_interface.py``, ``vllm/v1/core/kv_cache_planning.py``,
``vllm/v1/core/kv_cache_utils.py: get_max_concurrency_for_kv_cache_config``, ``vllm/platforms/interface.py:
_align_hybrid_block_size``, ``vllm/model_executor/layers/mamba/mamba_utils.py``. Of 0.11: ``vllm/v1/core/
kv_cache_utils.py`` and ``vllm/model_executor/models/config.py: HybridAttentionMambaModelConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import Any

from ...errors import InputError
from ...ledger import ITEMSIZE
from ...programs import Config
from ..served.layers import ATTENTION, INDEX_SCALE, STATES, Kind, having, heads_of, seen_of, state_of
from ..served.weights import kv_heads_of
from .serving_options import ServingOptions


@dataclass(frozen=True)
class Layer:
    """What a layer keeps in a block. Equal layers can share a group."""

    kind: Kind
    block: int
    """Tokens of a block."""
    page: int
    """Bytes of a block."""
    seen: int | None = None
    """Tokens that the layer sees, where not all."""
    states: int = 1
    """Blocks of a request, of a layer with states."""
    index: int = field(default=0, compare=False)
    """The layer's index in the model."""

    def blocks(self, tokens: int, options: ServingOptions) -> int:
        """Blocks of a request of so many tokens."""
        if self.kind == "state":
            return self.states
        if self.kind == "window":
            assert self.seen is not None
            held = min(self.seen - 1 + options.in_flight, tokens)
            return -(-held // self.block) + 1
        if self.kind == "chunk":
            assert self.seen is not None
            tokens = min(self.seen + options.in_flight, tokens)
        return -(-tokens // (self.block * options.decode_context_parallel_size))


@dataclass(frozen=True)
class Group:
    """Layers that share a table of blocks."""

    layers: tuple[Layer, ...]

    @property
    def page(self) -> int:
        """Bytes of a block of all layers."""
        return sum(layer.page for layer in self.layers)

    def blocks(self, tokens: int, options: ServingOptions) -> int:
        """Blocks of a request of so many tokens."""
        return max((layer.blocks(tokens, options) for layer in self.layers), default=0)


@dataclass(frozen=True)
class Cache:
    """The groups of a rank."""

    groups: tuple[Group, ...]

    @property
    def block(self) -> int:
        """Bytes of a block: of the widest group."""
        return max((group.page for group in self.groups), default=0)

    def needed(self, tokens: int, options: ServingOptions) -> int:
        """Blocks of a request of so many tokens."""
        return sum(group.blocks(tokens, options) for group in self.groups)


def layers(config: Config, raw: Mapping[str, Any], options: ServingOptions) -> list[Layer]:
    """What each layer of the whole model keeps on a rank, before groups are made."""
    itemsize = ITEMSIZE[options.dtype] if options.kv_cache_dtype == "auto" else options.cache_itemsize
    attending, stateful = having(ATTENTION, config), having(STATES, config)
    block = options.tokens_of_block(bool(raw.get("kv_lora_rank")), bool(raw.get("index_head_dim")))
    found: dict[int, list[Layer]] = {}
    token = 0
    for i in attending:
        if rank := raw.get("kv_lora_rank"):
            token = (rank + raw["qk_rope_head_dim"]) * itemsize
            if options.kv_cache_dtype.startswith("fp8") and "index_head_dim" in raw:
                token = 656  # flashmla_sparse.py: fp8_ds_mla
            found[i] = [Layer("latent", block, block * token)]
            if "index_head_dim" in raw:
                found[i].insert(0, Layer("latent", block, block * (raw["index_head_dim"] + INDEX_SCALE)))
            continue
        heads, size = heads_of(i, config, raw)
        token = 2 * kv_heads_of(heads, options.tensor_parallel_size) * size * itemsize
        kind, seen = seen_of(i, config, raw)
        found[i] = [Layer(kind, block, block * token, seen)]
    if stateful:
        state = state_bytes(config, raw, options)
        block = _aligned(block, token, state, raw, options) if attending else block
        page = max(state, block * token)
        found = {i: [replace(one, block=block, page=block * token) for one in own] for i, own in found.items()}
        count = options.states_of_request(raw)
        found.update({i: [Layer("state", block, page, states=count)] for i in stateful})
    return [replace(layer, index=i) for i in sorted(found) for layer in found[i]]


def state_bytes(config: Config, raw: Mapping[str, Any], options: ServingOptions) -> int:
    """Bytes of a layer's state of one request."""
    convolved, recurrent = state_of(raw, options.tensor_parallel_size, options.drafted)
    default = "float32" if config.family == "nemotron_h" and not options.is_old else options.dtype
    kept = raw.get("mamba_ssm_dtype" if "linear_num_value_heads" in raw else "mamba_ssm_cache_dtype")
    return int(convolved * ITEMSIZE[options.dtype] + recurrent * ITEMSIZE[kept or default])


def _aligned(block: int, token: int, state: int, raw: Mapping[str, Any], options: ServingOptions) -> int:
    """Tokens of a block whose keys and values take at least a state's bytes."""
    step = 16 if options.is_old else lcm(max(16, block), options.checkpoint_alignment(raw))
    return max(block, step * -(-state // (step * token)))


def grouped(found: Sequence[Layer], options: ServingOptions) -> Cache:
    """The groups of layers that share blocks.

    All groups have one number of layers, so that their blocks are equal. It is the number of layers of the rarest kind;
    but of the commonest where that is less than 1.5 times as many (0.11: never). Pages are made equal before: a smaller
    one takes more tokens where it divides the largest, and is padded where not.
    """
    if not found:
        return Cache(())
    chunked = options.is_old and any(one.kind == "chunk" for one in found)
    if (chunked or options.disable_hybrid_kv_cache_manager) and any(one.kind == "full" for one in found):
        found = [replace(one, kind="full", seen=None) if one.kind in ("window", "chunk") else one for one in found]
    if len({(one.kind, one.block, one.seen) for one in found}) == 1:
        return Cache((Group(tuple(found)),))
    largest = max(one.page for one in found)
    if options.is_old and len({one.page for one in found}) > 1:
        raise InputError("vLLM 0.11 stops: NotImplementedError, since this model's layers have pages of several sizes")
    found = [_paged(one, largest) for one in found]
    kinds: dict[Layer, list[Layer]] = {}
    for one in found:
        kinds.setdefault(one, []).append(one)
    counts = [len(kind) for kind in kinds.values()]
    size = min(counts)
    if not options.is_old and 2 * max(counts) < 3 * size:
        size = max(counts)
    groups = []
    for kind in kinds.values():
        number = -(-len(kind) // size)
        groups += [Group(tuple(kind[i::number])) for i in range(number)]
    return Cache(tuple(groups))


def _paged(layer: Layer, page: int) -> Layer:
    """A layer with pages of another size, at least its own."""
    if layer.kind == "state" or page % layer.page:
        return replace(layer, page=page)
    return replace(layer, page=page, block=layer.block * (page // layer.page))
