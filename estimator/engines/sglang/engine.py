"""The engine: what is free before weights are loaded, the share of it that stays, and the pools that fill what is left.

Sources of release 0.5.23: ``srt/model_executor/model_runner.py``, ``srt/mem_cache/kv_cache_configurator.py:
_profile_available_bytes``, ``srt/mem_cache/memory_pool.py``, ``srt/configs/model_config.py: _derive_context_length``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ...errors import InputError
from ...io.fields import parse_size, torch_dtype
from ...ledger import ITEMSIZE
from ..devices import Device
from ..engine import Spec
from ..served.checkpoint import (
    Checkpoint,
    absorbed_bytes,
    adapter_bytes,
    bytes_of,
    drafting_layer,
    given,
    is_on,
    layers_of,
    rope_bytes,
)
from ..served.engine import GIB, Served, Start
from ..served.formats import Format, Known, format_of
from ..served.layers import ATTENTION, STATES, having
from ..served.weights import parts
from .command_line import GRAMMAR
from .pools import Pool, Tokens, most_requests, pool_of, slots_of_request, state_bytes, tokens_of
from .serving_options import ServingOptions
from .share import MULTIMODAL, chunk_and_graph, static_share

BEFORE = {1: 0.55, 2: 0.6, 4: 1.8, 8: 1.7}
"""GiB that a process takes before weights are loaded, by ranks: the CUDA context and NCCL's buffers. From SGLang's
logs: an H100 (sgl-project/sglang/pull/4760), cards of 24 GB alone and in pairs, eight H200 (SemiAnalysisAI/InferenceX/
issues/2128). Four B200 took 3.0 (a pull request of August 2025); for four ranks it is the mean of that and of a
pair's."""
METHODS = (
    "awq fp8 mxfp8 gptq gptq_marlin awq_marlin bitsandbytes gguf modelopt modelopt_fp8 modelopt_fp4 nvfp4_online "
    "modelopt_mixed petit_nvfp4 w8a8_int8 w8a8_fp8 moe_wna16 w4afp8 mxfp4 auto-round auto-round-int8 "
    "compressed-tensors modelslim mxfp_w4a8 quark quark_int4fp8_moe quark_mxfp4 mlx_q4 mlx_q8 unquant humming"
)
"""``srt/arg_groups/choices.py: QUANTIZATION_CHOICES``."""
LENGTHS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
    "n_positions",
)
"""Keys of a config for the longest request (``hf_transformers/common.py: CONTEXT_LENGTH_KEYS``)."""
SPARSE = ("deepseek_v32", "glm_moe_dsa")
"""Families with sparse attention, whose pages have 64 tokens."""
EXTRA = 4
"""Places of a request in the table of tokens beyond its longest length."""
ENTRY = 4
"""Bytes of a place."""
DRAFTED = {"llama": 8}
"""Drafted tokens of a step, by the family, where not 4 (``speculative_hook.py: _auto_choose_speculative_params``)."""


@dataclass(frozen=True)
class Rank:
    """What a rank of a pipeline holds. Sizes are bytes."""

    weights: int
    tokens: Tokens
    states: tuple[int, int]
    """Of a request: of convolutions, and recurrent ones."""


class Sglang(Served):
    """SGLang on GPUs."""

    title = "SGLang"
    block = "sglang"
    grammar = GRAMMAR
    options = ServingOptions
    length, share, ranks_key = "context_length", "mem_fraction_static", "tp_size"
    stages_key, rows_key, draft = "pp_size", "max_running_requests", "speculative_draft_model_path"
    labels = MappingProxyType(
        {
            "requested": "the GPU",
            "non_torch": "before weights are loaded",
            "weights": "weights",
            "reserve": "left for steps and CUDA graphs",
            "states": "states of requests",
            "kv_cache": "left for the KV cache",
        }
    )
    resident = ("weights", "states")
    working = ("reserve",)
    moment = "the largest steps"
    often = ()
    rows = (
        ("weights", "weights"),
        ("states", "states of requests"),
        ("reserve", "steps and CUDA graphs"),
        ("non_torch", "before weights are loaded"),
        ("kv_cache", "KV cache of the requests"),
        ("available", "KV cache that there is"),
        ("requested", "the GPU"),
        ("process", "process with the requests"),
    )
    meanings = MappingProxyType(
        {
            "seq": "tokens of a request",
            "weights": "the weights of a rank",
            "parameters": "the weights of a rank",
            **dict.fromkeys(("adapters", "gradients", "optimizer", "saved"), "of training, and 0"),
            "buffers": "counted with the weights",
            "resident": "weights, states and the requests' cache",
            "peak_above_resident": "left for steps and CUDA graphs",
            "peak": "what PyTorch's allocator may hold",
            "states": "the pool of states",
            "reserve": "left for steps and CUDA graphs",
            "non_torch": "memory of a process before weights are loaded, as published logs have it",
            "kv_cache": "tokens of the requests",
            "available": "what is left for the cache",
            "host_weights": "weights of all ranks on the hosts (cpu_offload_gb)",
            "host": "the hosts' memory of these",
            "requested": "the GPU",
            "process": "weights, work and the requests' cache on one GPU",
        }
    )
    uncertainty = 0.05
    uncertainty_of = "assumed: published logs of SGLang that say all settings are few"
    exactness = "pools are the engine's own; memory of a process before weights are loaded is that of published logs"

    def release(self, plan: Any) -> str:
        return f"{self.title} {plan.sglang.release}"

    def resolved(self, options: ServingOptions, spec: Spec, gpu: Device) -> ServingOptions:
        """The options with SGLang's defaults. Raises ``InputError`` for a longer request than the model's positions."""
        trained = longest_of(spec.raw)
        length = options.context_length or trained
        if length > trained:
            raise InputError(
                f"SGLang stops: ValueError: Warning: User-specified context_length ({length}) is greater than the "
                f"derived context_length ({trained}).; take at most --context-length {trained}"
            )
        update: dict[str, Any] = {"context_length": length}
        if options.dtype == "auto":
            kept = torch_dtype(spec.raw.get("dtype") or spec.raw.get("torch_dtype") or "float32")
            instead = "bfloat16" if spec.config.family.startswith("gemma") else "float16"
            update["dtype"] = instead if kept == "float32" else kept
        chunk, graph = chunk_and_graph(options, gpu.total_bytes)
        blackwell = gpu.capability is not None and gpu.capability[0] == 10
        if options.page_size is None:
            update["page_size"] = 64 if blackwell or spec.config.family in SPARSE else 1
        if options.kv_cache_dtype == "auto" and spec.config.family in SPARSE and blackwell:
            update["kv_cache_dtype"] = "fp8_e4m3"
        if options.mem_fraction_static is None:
            update["mem_fraction_static"] = static_share(options, whole_of(spec), gpu.total_bytes)
        if options.speculative_algorithm is not None:
            usual = 12 if options.speculative_algorithm == "NGRAM" else DRAFTED.get(spec.config.family, 4)
            update["speculative_num_draft_tokens"] = options.speculative_num_draft_tokens or usual
            update["max_running_requests"] = options.max_running_requests or 48
        update["cuda_graph_max_bs_decode"] = graph
        update["chunked_prefill_size"] = chunk // options.attention_groups if chunk > 0 else chunk
        return options.model_copy(update=update)

    def check(self, options: ServingOptions, gpu: Device) -> None:
        self.check_capability(options, gpu, (7, 5))
        if options.enable_dp_attention and options.tp_size % options.dp_size:
            raise InputError(
                "SGLang stops: AssertionError: tp_size must be divisible by attn_dp_size * attn_cp_size; take a "
                f"dp_size that divides {options.tp_size}"
            )
        if options.tp_size % options.ep_size:
            raise InputError(
                f"SGLang stops: AssertionError, since ep_size {options.ep_size} does not divide tp_size "
                f"{options.tp_size}; take one that does"
            )
        if options.mem_fraction_static is not None and options.mem_fraction_static <= 0:
            raise InputError(
                f"SGLang leaves no memory for weights on {gpu.label}, since steps are estimated to need more than it "
                "has; give --mem-fraction-static, or a smaller --chunked-prefill-size"
            )

    def start(self, model: Checkpoint, options: ServingOptions, gpu: Device) -> Start:
        config = model.spec.config
        known = Known(f"SGLang {options.release}", tuple(METHODS.split()))
        form = format_of(model.quantization, options.quantization, known, model.spec.name)
        found = [self.pools(model, rank, options, gpu) for rank in self.ranks(model, options, form)]
        sizes, pool, states, refusal = min(found, key=lambda one: (one[3] is None, one[1].tokens))
        assert options.context_length is not None
        slots = slots_of_request(config, options)
        rows = most_requests(pool.tokens, states, slots, options)
        table = (rows + 1) * (options.context_length + EXTRA + options.drafted) * ENTRY
        used = pool.tokens // pool.page * sizes["block"] if sizes["block"] else 0
        left = sizes["free"] - sizes["weights"] - sizes["states"] - used - table
        if refusal is None and states is not None and rows <= 0:
            refusal = (
                "RuntimeError: Hybrid (mamba/linear-attention) state cache is too small to serve any requests. "
                f"max_mamba_cache_size={states}, mamba_ratio={slots}, resulting max_num_reqs={rows}."
            )
        if refusal is None and left < 0:
            refusal = (
                f"torch.OutOfMemoryError: CUDA out of memory. The table of {rows:,} requests of "
                f"{options.context_length:,} tokens needs {table / GIB:.2f} GiB."
            )
        options = options.model_copy(
            update={"max_running_requests": rows} | ({} if states is None else {"max_mamba_cache_size": states})
        )
        concurrency = pool.tokens // pool.page / max(pool.needed(options.context_length or 1), 1)
        log = self.log(model, options, sizes, pool, states, left, refusal)
        blocks = pool.tokens // pool.page
        warnings: tuple[str, ...] = ()
        if refusal is None and concurrency < 1:
            warnings = (
                f"SGLang starts, and refuses requests of more than {pool.tokens:,} tokens; --context-length says so "
                "beforehand",
            )
        return Start(options, sizes, pool, blocks, pool.tokens, concurrency, refusal, log, pool.page, warnings)

    def log(
        self,
        model: Checkpoint,
        options: ServingOptions,
        sizes: Mapping[str, int],
        pool: Pool,
        states: int | None,
        left: int,
        refusal: str | None,
    ) -> tuple[str, ...]:
        """What SGLang's log says, whose GB are GiB."""
        free = sizes["free"] - sizes["weights"]
        usage = f"avail mem={free / GIB:.2f} GB, mem usage={sizes['weights'] / GIB:.2f} GB"
        found = [f"Load weight end. dtype={options.dtype}, {usage}."]
        if states is not None and states > 0:
            conv, ssm = sizes["convolved"] * (states + 1), sizes["recurrent"] * (states + 1)
            found.append(
                f"Mamba Cache is allocated. max_mamba_cache_size: {states}, conv_state size: {conv / GIB:.2f}GB, "
                f"ssm_state size: {ssm / GIB:.2f}GB"
            )
        if refusal is not None:
            return (*found, refusal)
        cached = sizes["token"] * pool.tokens + sizes["window"] * pool.windows
        if pool.windows:
            found.append(
                f"SWAKVPool mem usage: {cached / GIB:.2f} GB, swa size: {pool.windows}, full size: {pool.tokens}"
            )
        elif model.spec.raw.get("kv_lora_rank"):
            found.append(f"KV Cache is allocated. #tokens: {pool.tokens}, KV size: {cached / GIB:.2f} GB")
        else:
            half = f"{cached / 2 / GIB:.2f} GB"
            found.append(f"KV Cache is allocated. #tokens: {pool.tokens}, K size: {half}, V size: {half}")
        return (
            *found,
            f"Memory pool end. avail mem={left / GIB:.2f} GB",
            f"max_total_num_tokens={pool.tokens}, chunked_prefill_size={options.chunked_prefill_size}, "
            f"max_prefill_tokens={options.max_prefill_tokens}, max_running_requests={options.max_running_requests}, "
            f"context_len={options.context_length}",
        )

    def remedies(self, options: ServingOptions) -> Mapping[str, Sequence[Any]]:
        return {
            "kv_cache_dtype": ["fp8_e4m3"] if options.kv_cache_dtype == "auto" else [],
            "max_running_requests": [rows for rows in (256, 64, 16) if rows < (options.rows or 10**9)],
            "tp_size": [n for n in (2, 4, 8, 16) if n > options.tp_size and n % options.tp_size == 0],
        }

    def notes(self, options: ServingOptions) -> tuple[str, ...]:
        found = []
        if options.non_torch is None and options.free is None:
            found.append(
                "what a process takes before weights are loaded is assumed from logs; --free takes your own log's."
            )
        if not options.disable_radix_cache:
            found.append("caching prefixes costs no tokens: its pages are those that no request has.")
        return tuple(found)

    def ranks(self, model: Checkpoint, options: ServingOptions, format: Format | None = None) -> list[Rank]:
        """The ranks of a pipeline, each of which has some layers. Raises ``InputError`` in SGLang's words."""
        config, raw, draft = model.spec.config, model.spec.raw, model.draft
        heads = raw.get("num_attention_heads") or raw.get("n_head") or config.heads.get("num_attention_heads")
        if isinstance(heads, int) and heads % options.attention_ranks:
            raise InputError(
                f"SGLang stops: AssertionError, since {options.attention_ranks} ranks do not divide {heads} attention "
                "heads; take another tp_size"
            )
        total, count = config.num_hidden_layers, options.pp_size
        if count > total:
            raise InputError(f"pp_size: {count} ranks have no layer each of {total}; take fewer")
        held = list(parts(config, raw, options.parallel))
        layers = 0
        if draft is not None:
            theirs = parts(draft.spec.config, draft.spec.raw, options.parallel)
            held += [part._replace(layer=total - 1) for part in theirs]
            layers = len(having(ATTENTION, draft.spec.config))
        elif options.speculative_algorithm not in (None, "NGRAM"):
            held += drafting_layer(held, config, "speculative_algorithm", "speculative_draft_model_path")
            layers = int(raw.get("num_nextn_predict_layers") or 1)
        found = []
        for rank, own in enumerate(layers_of(count, total, last=True)):
            weights = sum(
                bytes_of(part, options.dtype, format)
                for part in held
                if (part.layer in own if part.layer is not None else is_on(part, rank, count, config))
            )
            weights += rope_bytes(raw, config, ITEMSIZE["float32"])
            if format is not None and raw.get("kv_lora_rank"):
                weights += len(own) * absorbed_bytes(raw, options.attention_ranks, options.dtype)
            if options.enable_lora:
                slots = [part for part in held if part.layer in own]
                weights += adapter_bytes(slots, options.max_lora_rank, options.max_loras_per_batch, options.dtype)
            tokens = tokens_of(config, raw, options, own)
            full = sum(i in own for i in having(ATTENTION, config)) or 1
            tokens = replace(tokens, drafted=tokens.full * layers // full)
            found.append(Rank(weights, tokens, state_bytes(config, raw, options, own)))
        if having(STATES, config):  # every stage has as many states
            most = max((one.states for one in found), key=sum)
            found = [replace(one, states=most) for one in found]
        return found

    def pools(
        self, model: Checkpoint, rank: Rank, options: ServingOptions, gpu: Device
    ) -> tuple[dict[str, int], Pool, int | None, str | None]:
        """The parts of a GPU's memory, its pools, the states in them, and the error that stops SGLang."""
        assert options.mem_fraction_static is not None
        nearest = min(BEFORE, key=lambda ranks: abs(ranks - options.world))
        before = given(options.non_torch, round(BEFORE[nearest] * GIB))
        free = gpu.usable_bytes - before if options.free is None else parse_size(options.free)
        weights = given(options.weights, max(rank.weights - int(options.cpu_offload_gb * GIB), 0))
        reserve = round(free * (1 - options.mem_fraction_static))
        rest = free - weights - reserve - (MULTIMODAL if whole_of(model.spec).get("vision_config") else 0)
        states, refusal = None, None
        if state := sum(rank.states):
            states, rest = self.states(state, rest, options, slots_of_request(model.spec.config, options))
        if free <= weights:
            refusal = f"torch.OutOfMemoryError: CUDA out of memory. The weights need {weights / GIB:.2f} GiB."
        elif states is not None and states <= 0:
            refusal = (
                "RuntimeError: Not enough GPU memory for hybrid (mamba/linear-attention) state cache. Computed "
                f"max_mamba_cache_size={states} (mamba_cache_per_req={state / 2**20:.2f} MB)."
            )
        elif rest <= 0:
            least = 1 - (free - weights) / free
            refusal = (
                "ValueError: Loaded weights leave no GPU memory for the KV cache under "
                f"--mem-fraction-static={options.mem_fraction_static}. Raise --mem-fraction-static above "
                f"{math.ceil(least * 1000) / 1000:.3f} (minimum viable = 1 - available/pre = {least:.4f}). If using "
                "speculative decoding, draft weights are now counted."
            )
        pool = pool_of(rank.tokens, rest, options)
        if refusal is None and pool.tokens <= 0 and (rank.tokens.full or rank.tokens.windows):
            refusal = (
                "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: "
                f"mem_fraction_static={options.mem_fraction_static}"
            )
        elif refusal is None and pool.windows and pool.seen + pool.page >= pool.windows:
            refusal = (
                f"ValueError: SWA pool ({pool.windows} tokens) cannot hold even one request: the prefill admission "
                f"floor is sliding_window_size ({pool.seen}) + page_size ({pool.page}). Increase "
                "--swa-full-tokens-ratio or the total KV budget."
            )
        page = pool.page * (rank.tokens.full + rank.tokens.drafted)
        if pool.windows and pool.tokens:
            page += round(pool.page * rank.tokens.windows * pool.windows / pool.tokens)
        sizes = {
            "total": gpu.usable_bytes,
            "requested": gpu.usable_bytes,
            "non_torch": gpu.usable_bytes - free,
            "free": free,
            "weights": weights,
            "reserve": reserve,
            "states": max(states + 1, 0) * state if states is not None else 0,
            "available": rest,
            "kv_cache": max(rest, 0),
            "block": page,
            "token": rank.tokens.full,
            "window": rank.tokens.windows,
            "convolved": rank.states[0],
            "recurrent": rank.states[1],
        }
        return sizes, pool, states, refusal

    def states(self, state: int, rest: int, options: ServingOptions, slots: int) -> tuple[int, int]:
        """States in the pool, and the bytes that are left of ``rest``. A drafting step keeps those of its tokens, too
        (``_handle_max_mamba_cache``).
        """
        groups, drafted = options.attention_groups, options.drafted
        requests = max(1, (options.max_running_requests or 1) // groups)
        if options.max_mamba_cache_size is not None:
            count = options.max_mamba_cache_size // groups
        elif options.disable_radix_cache and options.max_running_requests is not None:
            count, slots = requests, 1
        else:
            ratio = options.mamba_full_memory_ratio
            budget = rest * ratio / (1 + ratio)
            count = int((budget - state * (1 + drafted)) // (state * (1 + drafted / slots)))
        if drafted:
            rest -= state * (min(requests, count // slots) + 1) * drafted
        return count, rest - (count + 1) * state


def whole_of(spec: Spec) -> Mapping[str, Any]:
    """The config, with that of its towers."""
    return getattr(spec, "whole", None) or spec.raw


def longest_of(raw: Mapping[str, Any]) -> int:
    """The longest request that the model was made for (``hf_transformers/common.py: get_context_length``)."""
    found = next((int(raw[key]) for key in LENGTHS if isinstance(raw.get(key), int)), 2048)
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    scaled = rope.get("rope_type") != "llama3" and "original_max_position_embeddings" not in rope
    factor = rope.get("factor", 1) if scaled else 1
    return int(found * factor)


ENGINE = Sglang()
