"""The pools of a rank: keys and values of tokens, those of layers with a window, and states of requests.

Sources of release 0.5.23: ``srt/model_executor/pool_configurator.py`` (``DefaultPoolConfigurator``,
``HybridSWAPoolConfigurator``, ``SWARequestCapPoolConfigurator``), ``srt/mem_cache/kv_cache_configurator.py``
(``_handle_max_mamba_cache``, ``resolve_max_num_reqs``), ``srt/configs/model_config.py`` and ``mamba_utils.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...ledger import ITEMSIZE
from ...programs import Config
from ..served.layers import ATTENTION, INDEX_SCALE, STATES, having, heads_of, seen_of, state_of
from ..served.weights import kv_heads_of
from .serving_options import ServingOptions

WINDOWS = ("gpt_oss", "llama4_text", "gemma4_text")
"""Families of which layers with a window have a pool of their own (``model_config.py: is_hybrid_swa_model``). The
others' keep all tokens."""
CONVOLVED = 2
"""Bytes of a number that a convolution keeps (``SGLANG_MAMBA_CONV_DTYPE``)."""
INDEX_BLOCK = 128
"""Numbers of a sparse attention's key that share a scale of float32."""
EVICTION = 128
"""Tokens after which a window's are let go of (``SGLANG_SWA_EVICTION_INTERVAL``)."""


@dataclass(frozen=True)
class Tokens:
    """Bytes of a token on a rank."""

    full: int
    """Of the layers that keep all tokens."""
    windows: int = 0
    """Of those with a pool for a window."""
    seen: int = 0
    """Tokens of the window."""
    drafted: int = 0
    """Of a model that drafts."""
    values: float = 0.5
    """The values' share of the layers that keep all tokens; 0 where keys and values are one."""


def tokens_of(config: Config, raw: Mapping[str, Any], options: ServingOptions, own: range) -> Tokens:
    """Bytes of a token of some layers."""
    itemsize = cache_itemsize(options)
    ranks = options.attention_ranks
    attending = [i for i in _attending(config, raw) if i in own]
    if rank := raw.get("kv_lora_rank"):
        token = (rank + raw["qk_rope_head_dim"]) * itemsize
        if size := raw.get("index_head_dim"):
            if itemsize == 1:  # a scale of float32 for 128 numbers, and positions in bfloat16
                token = rank + rank // INDEX_BLOCK * 4 + raw["qk_rope_head_dim"] * 2
            token += size + size // INDEX_BLOCK * INDEX_SCALE
        return Tokens(token * len(attending), values=0)
    found = Tokens(0)
    for i in attending:
        heads, size = heads_of(i, config, raw)
        token = 2 * kv_heads_of(heads, ranks) * size * itemsize
        _, seen = seen_of(i, config, raw)
        if seen is None or config.family not in WINDOWS or options.disable_hybrid_swa_memory:
            found = replace(found, full=found.full + token)
        else:
            found = replace(found, windows=found.windows + token, seen=seen)
    return found


def _attending(config: Config, raw: Mapping[str, Any]) -> list[int]:
    """The layers with a place in the pool. Those that use another layer's have one, too."""
    found = having(ATTENTION, config)
    if raw.get("num_kv_shared_layers"):
        return list(range(config.num_hidden_layers))
    return found


def cache_itemsize(options: ServingOptions) -> int:
    """Bytes of a number in the cache."""
    if options.kv_cache_dtype == "auto":
        return ITEMSIZE[options.dtype]
    return 1 if options.kv_cache_dtype.startswith("fp8") else 2


def state_bytes(config: Config, raw: Mapping[str, Any], options: ServingOptions, own: range) -> tuple[int, int]:
    """Bytes of the states of a request in some layers: of convolutions, and recurrent ones."""
    count = sum(i in own for i in having(STATES, config))
    if not count:
        return 0, 0
    convolved, recurrent = state_of(raw, options.attention_ranks)
    kept = options.mamba_ssm_dtype or raw.get("mamba_ssm_dtype") or "float32"
    return count * convolved * CONVOLVED, count * recurrent * ITEMSIZE[kept]


def slots_of_request(config: Config, options: ServingOptions) -> int:
    """States that a running request may need: with a cache of prefixes also those where a prefix ends."""
    if options.disable_radix_cache:
        return 1
    if config.family.startswith("lfm2"):  # no_buffer
        return 3
    return 4 if options.disable_overlap_schedule else 5


@dataclass(frozen=True)
class Pool:
    """The pools of a rank."""

    tokens: int
    """Of the layers that keep all; of the windows' where there are no others."""
    windows: int = 0
    seen: int = 0
    page: int = 1

    def needed(self, tokens: int, options: Any = None) -> int:
        """Pages of a request of so many tokens; as many as its share of the windows' pool, if that is more."""
        pages = -(-tokens // self.page)
        if not self.windows:
            return pages
        share = min(tokens, self.seen) * self.tokens / self.windows
        return max(pages, -int(-share // self.page))


def pool_of(tokens: Tokens, available: int, options: ServingOptions) -> Pool:
    """The pools that so many bytes have room for."""
    page = options.page_size or 1
    limit = options.max_total_tokens or 10**18

    def paged(count: float) -> int:
        return int(min(count, limit)) // page * page

    full, available = tokens.full + tokens.drafted, max(available, 0)
    if not tokens.windows:
        return Pool(paged(available // full) if full else 0, page=page)
    chunks = (options.chunked_prefill_size or 0) > 0
    if options.disable_radix_cache and options.max_running_requests and chunks and tokens.full:
        windows = -(-_windows_of(tokens.seen, options) // page) * page
        return Pool(paged((available - windows * tokens.windows) // full), windows, tokens.seen, page)
    if not tokens.full:
        return Pool(paged(available // tokens.windows), page=page)
    count = paged(available // (full + options.swa_full_tokens_ratio * tokens.windows))
    return Pool(count, int(count * options.swa_full_tokens_ratio) // page * page, tokens.seen, page)


def _windows_of(seen: int, options: ServingOptions) -> int:
    """Tokens in windows of as many requests as may run (``compute_swa_request_cap``)."""
    assert options.max_running_requests is not None
    assert options.chunked_prefill_size is not None
    page = options.page_size or 1
    request = seen + EVICTION * max(options.drafted, 1) + page + page
    steps = 1 if options.disable_overlap_schedule else 2
    count = max(1, options.max_running_requests // options.attention_groups)
    return request * count + steps * options.chunked_prefill_size + page


def most_requests(tokens: int, states: int | None, slots: int, options: ServingOptions) -> int:
    """``max_running_requests`` of a group of ranks; 0 where there is no room for a state."""
    assert options.context_length is not None
    most = max(min(int(tokens / options.context_length * 512), 4096), 2048)
    if options.max_running_requests is not None:
        most = max(1, options.max_running_requests // options.attention_groups)
    most = min(most, tokens // 2)
    return most if states is None else min(most, states // slots)
