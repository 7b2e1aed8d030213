"""The engine: the parts of each GPU's memory, of which the KV cache has what the others leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from types import MappingProxyType
from typing import Any

from ...errors import InputError
from ...io.fields import parse_size, torch_dtype
from ...ledger import ITEMSIZE
from ...programs import Config
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
    positions,
    rope_bytes,
)
from ..served.engine import Served, Start
from ..served.formats import Format, Known, format_of
from ..served.weights import Part
from ..served.weights import parts as parts_of
from .caches import Cache, Group, grouped, layers
from .command_line import GRAMMAR
from .options import AUTO
from .profile import activation_bytes
from .serving_options import ServingOptions

GIB = 2**30
NON_TORCH = {
    True: {1: 0.13, 2: 0.55, 16: 2.53},
    False: {1: 0.20, 2: 0.25, 4: 0.20},
}
"""GiB that a process takes outside PyTorch's allocator, most of it NCCL's, by whether the card has NVLink's switch
(compute capability 9.0 and up), and by ranks. From vLLM's logs: an H100 alone and two (github.com/llm-d-incubation/
llm-d-planner), 16 H20 (vllm-project/vllm/issues/13074); an RTX 3090 (pull/14447), two RTX 4090 (issues/13061), four
cards of 22 GB of another log (DeepSeek-R1-0528-Qwen3-8B, 0.8.5)."""
GRAPHS = 0.13
"""GiB of CUDA graphs that 0.33 counts: the estimate in the log of two RTX 3090 (club-3090, issue 104). Logs of other
models have 0.4 to 4.8 GiB."""


RELEASED = {
    "0.11": "awq deepspeedfp tpu_int8 fp8 ptpc_fp8 fbgemm_fp8 modelopt modelopt_fp4 bitblas gguf gptq_marlin_24 "
    "gptq_marlin gptq_bitblas awq_marlin gptq compressed-tensors bitsandbytes hqq experts_int8 ipex quark moe_wna16 "
    "torchao auto-round rtn inc mxfp4 petit_nvfp4",
    "0.33": "awq auto_awq fp8 fbgemm_fp8 fp_quant modelopt modelopt_fp4 modelopt_mxfp8 modelopt_mixed auto_gptq gptq "
    "gptq_marlin awq_marlin humming compressed-tensors experts_int8 quark moe_wna16 torchao inc mxfp4 gpt_oss_mxfp4 "
    "deepseek_v4_fp8 online fp8_per_tensor fp8_per_block fp8_per_channel int8_per_channel_weight_only nvfp4_per_token "
    "mxfp8",
}
"""Methods of each release (``vllm/model_executor/layers/quantization/__init__.py``)."""
UNKNOWN = {"gpt_neo": "GPTNeoForCausalLM"}
"""Families of which vLLM has no class, and whose modules of transformers it cannot run either."""


EVERYWHERE = {
    **dict.fromkeys(("bloom", "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "gemma3n_text"), ""),
    **dict.fromkeys(("gemma4_text", "gpt2", "gpt_oss", "gptj", "granitemoehybrid", "mixtral", "nemotron_h"), ""),
    **dict.fromkeys(("opt", "qwen2_moe", "qwen3_moe", "stablelm"), ""),
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_5_text"), "embed"),
}
"""Families of which each rank of a pipeline has parameters that only one uses, and a pattern of these: the classes of
0.33 make embeddings, the last norm and the head whichever rank it is."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""``vllm/config/lora.py: MaxLoRARanks``. 0.11 refuses 1."""
MERGED_EXPERTS = ("gpt_oss", "qwen3_5_moe_text")
"""Families whose adapters have one A for an expert's gate and its other half (``is_3d_moe_weight``)."""


@dataclass(frozen=True)
class Rank:
    """What a rank holds. Sizes are bytes."""

    weights: int
    cache: Cache


class Vllm(Served):
    """vLLM on GPUs."""

    title = "vLLM"
    block = "vllm"
    grammar = GRAMMAR
    options = ServingOptions
    length, share, ranks_key = "max_model_len", "gpu_memory_utilization", "tensor_parallel_size"
    stages_key, rows_key, draft = "pipeline_parallel_size", "max_num_seqs", "draft_model"
    labels = MappingProxyType(
        {
            "requested": "the share of the GPU",
            "weights": "weights",
            "activation": "activations of the largest step",
            "non_torch": "outside PyTorch's allocator",
            "cudagraph": "CUDA graphs",
            "kv_cache": "left for the KV cache",
        }
    )
    working = ("activation", "cudagraph")
    often = (
        *("release", "max_model_len", "tensor_parallel_size", "gpu_memory_utilization", "max_num_seqs"),
        *("kv_cache_dtype", "quantization", "non_torch"),
    )
    rows = (
        ("weights", "weights"),
        ("activation", "activations of the largest step"),
        ("cudagraph", "CUDA graphs"),
        ("non_torch", "outside PyTorch's allocator"),
        ("kv_cache", "KV cache of the requests"),
        ("available", "KV cache that there is"),
        ("requested", "the share of the GPU"),
        ("process", "process with the requests"),
    )
    meanings = MappingProxyType(
        {
            "seq": "tokens of a request",
            "weights": "the weights of a rank",
            "parameters": "the weights of a rank",
            **dict.fromkeys(("adapters", "gradients", "optimizer", "saved"), "of training, and 0"),
            "buffers": "counted with the weights",
            "resident": "weights and the requests' cache",
            "peak_above_resident": "activations and CUDA graphs",
            "peak": "what PyTorch's allocator holds",
            "host_cache": "blocks on the hosts",
            "host_swap": "pinned blocks of all ranks on the hosts (swap_space)",
            "host_weights": "weights of all ranks on the hosts (cpu_offload_gb)",
            "host": "the hosts' memory of these",
            "activation": "what the profiling run takes",
            "cudagraph": "CUDA graphs",
            "non_torch": "memory outside PyTorch's allocator, as published logs have it",
            "kv_cache": "blocks of the requests",
            "available": "what is left for the cache",
            "requested": "the share of the GPU that the engine takes",
            "process": "weights, work and the requests' cache on one GPU",
        }
    )
    uncertainty = 0.02
    uncertainty_of = "the most by which tokens of the cache differ from 14 published logs that say all settings"
    exactness = "weights and blocks are the engine's own; memory outside PyTorch's allocator is that of published logs"

    def resolved(self, options: ServingOptions, spec: Spec, gpu: Device) -> ServingOptions:
        """The options with vLLM's defaults. Raises ``InputError`` for a longer request than the model's positions, and
        for experts of a model that has none.
        """
        if options.enable_expert_parallel and not any(".experts." in name for name in spec.config.parameters):
            raise InputError(
                "vLLM stops: Number of experts in the model must be greater than 0 when expert parallelism is "
                "enabled.; leave enable_expert_parallel out"
            )
        _check_contexts(spec, options)
        if options.enable_lora and options.max_lora_rank not in LORA_RANKS:
            said = f"max_lora_rank ({options.max_lora_rank}) must be one of {LORA_RANKS}."
            raise InputError(f"vLLM stops: {said}; take the next larger one")
        trained = positions(spec.raw)
        if options.max_model_len == AUTO:
            if options.is_old:
                raise InputError("max_model_len: auto has no rule with vLLM 0.11; give a number, or release 0.33")
        elif options.max_model_len is None:
            options = options.model_copy(update={"max_model_len": usual_length(spec.raw, options.is_old)})
        elif trained is not None and options.max_model_len > trained:
            raise InputError(
                f"vLLM stops: User-specified max_model_len ({options.max_model_len}) is greater than the derived "
                f"max_model_len (max_position_embeddings={trained} or model_max_length=None in model's config.json).; "
                f"take at most --max-model-len {trained}"
            )
        if options.dtype == "auto":
            kept = torch_dtype(spec.raw.get("dtype") or spec.raw.get("torch_dtype") or "float32")
            options = options.model_copy(update={"dtype": "bfloat16" if kept == "float32" else kept})
        return options.on(gpu.name, gpu.usable_bytes)

    def start(self, model: Checkpoint, options: ServingOptions, gpu: Device) -> Start:
        """What vLLM says of options with its defaults. Raises ``InputError`` in its words."""
        config, raw = model.spec.config, model.spec.raw
        shortens = options.max_model_len == AUTO
        if shortens:
            options = options.model_copy(update={"max_model_len": usual_length(raw, options.is_old)})
        known = Known(f"vLLM {options.release}", tuple(RELEASED[options.release].split()))
        form = format_of(model.quantization, options.quantization, known, model.spec.name)
        ranks = self.ranks(config, raw, options, form, model.draft)
        sized = [(self.memory(config, raw, options, gpu, rank), rank) for rank in ranks]
        sizes, rank = min(sized, key=lambda one: one[0]["available"] / (one[0]["block"] or 1))
        blocks = sizes["kv_cache"] // sizes["block"] if sizes["block"] else 0
        options, fitted = _fitted(sized, options) if shortens else (options, None)
        length = options.max_model_len
        assert length is not None
        concurrency = blocks / max(rank.cache.needed(length, options), 1)
        tokens = int(concurrency * length)
        if options.is_old and rank.cache.groups:
            least = min(layer.block for group in rank.cache.groups for layer in group.layers if layer.kind != "state")
            tokens = blocks // len(rank.cache.groups) * least * options.decode_context_parallel_size
        refusal = _refusal(sizes, rank, options) if length else fitted
        log: tuple[str, ...] = (
            f"Model loading took {sizes['weights'] / GIB:.2f} GiB memory",
            f"Available KV cache memory: {sizes['available'] / GIB:.2f} GiB",
        )
        said = (
            f"GPU KV cache size: {tokens:,} tokens",
            f"Maximum concurrency for {length:,} tokens per request: {concurrency:.2f}x",
        )
        step = lcm(*(layer.block for group in rank.cache.groups for layer in group.layers if layer.kind != "state"))
        log += (*((fitted,) if fitted else ()), *said) if refusal is None else (refusal,)
        return Start(options, sizes, rank.cache, blocks, tokens, concurrency, refusal, log, step)

    def remedies(self, options: ServingOptions) -> Mapping[str, Sequence[Any]]:
        return {
            "kv_cache_dtype": ["fp8"] if options.kv_cache_dtype == "auto" else [],
            "max_num_seqs": [rows for rows in (256, 128, 64) if rows < options.rows],
            "tensor_parallel_size": [n for n in (2, 4, 8, 16) if n > options.tensor_parallel_size],
        }

    def notes(self, options: ServingOptions) -> tuple[str, ...]:
        assumed = "what lies outside PyTorch's allocator is assumed from logs; --non-torch takes your own log's."
        free = "prefix caching costs nothing: its blocks are those that no request has."
        return (*((assumed,) if options.non_torch is None else ()), *((free,) if options.enable_prefix_caching else ()))

    def unknown(self, model: Checkpoint, options: ServingOptions, gpu: Device) -> tuple[str, ...]:
        found = super().unknown(model, options, gpu)
        if model.spec.raw.get("model_type") == "gpt_oss" and gpu.capability and gpu.capability[0] not in (9, 10):
            found += ("Marlin's padding of experts",)  # Hopper and datacenter Blackwell run other kernels
        if options.release == "0.11" and "max_num_batched_tokens" not in options.model_fields_set:
            found += ("max_num_batched_tokens, whose default before 0.8 was max_model_len",)
        return found

    def on_host(self, options: ServingOptions) -> Mapping[str, int]:
        cache = round((options.kv_offloading_size or 0) * GIB)
        swap = round((options.swap_space or 0) * GIB) * options.world if options.is_old else 0
        blocks = {"host_cache": cache, "host_swap": swap}
        return {**super().on_host(options), **{name: nbytes for name, nbytes in blocks.items() if nbytes}}

    def check(self, options: ServingOptions, gpu: Device) -> None:
        """Raise ``InputError`` for a device that is no CUDA GPU, or on which vLLM refuses the options."""
        self.check_capability(options, gpu, (7, 0))
        free = gpu.usable_bytes if options.free is None else parse_size(options.free)
        requested = int(gpu.usable_bytes * options.share)
        if free < requested:
            raise InputError(
                f"vLLM stops: Free memory on device cuda:0 ({free / GIB:.2f}/{gpu.usable_bytes / GIB:.2f} GiB) on "
                f"startup is less than desired GPU memory utilization ({options.share}, {requested / GIB:.2f} GiB). "
                "Decrease GPU memory utilization or reduce GPU memory used by other processes.; at most "
                f"--gpu-memory-utilization {int(free / gpu.usable_bytes * 100) / 100:.2f}"
            )

    def knows(self, family: str) -> bool:
        return family not in UNKNOWN

    def ranks(
        self,
        config: Config,
        raw: Mapping[str, Any],
        options: ServingOptions,
        format: Format | None = None,
        draft: Checkpoint | None = None,
    ) -> list[Rank]:
        """The ranks of a pipeline, each of which has some layers. Raises ``InputError`` in vLLM's words."""
        if not self.knows(config.family):
            names = [UNKNOWN[config.family]]
            raise InputError(f"vLLM stops: Model architectures {names} are not supported for now.; take another model")
        total = config.num_hidden_layers
        count = options.pipeline_parallel_size
        if count > total:
            raise InputError(f"pipeline_parallel_size: {count} ranks have no layer each of {total}; take fewer")
        held = list(parts(config, raw, options))
        kept = layers(config, raw, options)
        if options.num_speculative_tokens and options.draft_model is None:
            held += drafting_layer(held, config, "num_speculative_tokens", "draft_model")
            last = max(one.index for one in kept if one.kind != "state")
            kept += [replace(one, index=total - 1) for one in kept if one.index == last]
        if draft is not None:
            theirs = draft.spec
            held += [part._replace(layer=total - 1) for part in parts_of(theirs.config, theirs.raw, options.parallel)]
            kept += [replace(one, index=total - 1) for one in layers(theirs.config, theirs.raw, options)]
        cache, everywhere = grouped(kept, options), EVERYWHERE.get(config.family, "$.")
        ranks = []
        for rank, own in enumerate(layers_of(count, total)):
            weights = sum(
                bytes_of(part, options.dtype, format)
                for part in held
                if (part.layer in own if part.layer is not None else is_on(part, rank, count, config, everywhere))
            )
            weights += rope_bytes(raw, config, ITEMSIZE[options.dtype])
            if format is not None and raw.get("kv_lora_rank"):
                weights += len(own) * absorbed_bytes(raw, options.tensor_parallel_size, options.dtype)
            if options.enable_lora:
                slots = [part for part in held if part.layer in own]
                experts = 0 if options.is_old else 1 if config.family in MERGED_EXPERTS else 2
                weights += adapter_bytes(slots, options.max_lora_rank, options.max_loras, options.dtype, experts)
            ranks.append(Rank(weights, _share(cache, own)))
        return ranks

    def memory(
        self, config: Config, raw: Mapping[str, Any], options: ServingOptions, gpu: Device, rank: Rank
    ) -> dict[str, int]:
        """The parts of a GPU's memory, and a block of the cache, in bytes."""
        assert gpu.capability is not None
        sizes = {
            "total": gpu.usable_bytes,
            "requested": int(gpu.usable_bytes * options.share),
            "weights": given(options.weights, max(rank.weights - int(options.cpu_offload_gb * GIB), 0)),
            "activation": given(options.activation, activation_bytes(config, raw, options, gpu.capability)),
            "non_torch": given(options.non_torch, non_torch_bytes(options, gpu)),
            "cudagraph": given(
                options.cudagraph, 0 if options.is_old or options.enforce_eager else round(GRAPHS * GIB)
            ),
        }
        counted = sum(sizes[part] for part in ("weights", "activation", "non_torch", "cudagraph"))
        sizes["available"] = sizes["requested"] - counted
        if options.kv_cache_memory_bytes is not None:
            sizes["available"] = parse_size(options.kv_cache_memory_bytes)
        sizes["kv_cache"] = max(sizes["available"], 0)
        sizes["block"] = rank.cache.block
        return sizes


def parts(config: Config, raw: Mapping[str, Any], options: ServingOptions) -> Iterator[Part]:
    """The parameters of a rank. Raises ``InputError`` in vLLM's words where heads do not divide
    (``config/model.py: verify_with_parallel_config``).
    """
    heads = raw.get("num_attention_heads") or raw.get("n_head") or config.heads.get("num_attention_heads")
    ranks = options.tensor_parallel_size
    if isinstance(heads, int) and heads % ranks:
        raise InputError(
            f"vLLM stops: Total number of attention heads ({heads}) must be divisible by tensor parallel size "
            f"({ranks}).; take a tensor_parallel_size that divides them"
        )
    yield from parts_of(config, raw, options.parallel, options.is_old)


def _check_contexts(spec: Spec, options: ServingOptions) -> None:
    """Raise ``InputError`` in vLLM's words where ranks cannot split a request's tokens
    (``config/parallel.py``, ``config/model.py: verify_with_parallel_config``).
    """
    ranks, parts_of_tokens = options.tensor_parallel_size, options.decode_context_parallel_size
    if ranks % parts_of_tokens:
        raise InputError(
            f"vLLM stops: tp_size={ranks} must be divisible by dcp_size={parts_of_tokens}.; take a "
            "decode_context_parallel_size that divides it"
        )
    kv_heads = spec.config.heads.get("num_key_value_heads")
    if parts_of_tokens == 1 or options.is_old or spec.raw.get("kv_lora_rank") or kv_heads is None:
        return
    if ranks <= kv_heads:
        raise InputError(
            f"vLLM stops: Decode context parallelism for GQA/MQA requires `--tensor-parallel-size` ({ranks}) to be "
            f"greater than the model's total number of KV heads ({kv_heads}). Increase `--tensor-parallel-size` or set "
            "`--decode-context-parallel-size 1`."
        )
    most = ranks // kv_heads
    if parts_of_tokens > most:
        raise InputError(
            f"vLLM stops: `--decode-context-parallel-size` ({parts_of_tokens}) exceeds the maximum supported value "
            f"({most}) for `--tensor-parallel-size` ({ranks}) and {kv_heads} model KV heads.; take at most {most}"
        )


def _share(cache: Cache, own: range) -> Cache:
    """The groups, with the layers of one rank of a pipeline."""
    return Cache(tuple(Group(tuple(one for one in group.layers if one.index in own)) for group in cache.groups))


def non_torch_bytes(options: ServingOptions, gpu: Device) -> int:
    """What a rank takes outside PyTorch's allocator, from the logs of the nearest number of ranks."""
    assert gpu.capability is not None
    table = NON_TORCH[gpu.capability >= (9, 0)]
    nearest = min(table, key=lambda ranks: abs(ranks - options.world))
    return round(table[nearest] * GIB)


def usual_length(raw: Mapping[str, Any], is_old: bool) -> int:
    """``max_model_len`` where none is given. With LongRoPE it is the length before it, except in 0.11."""
    rope = raw.get("rope_parameters") or {}
    short = None
    if rope.get("rope_type") == "longrope" and not is_old:
        short = raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return short or positions(raw) or 2048


def longest(available: int, rank: Rank, options: ServingOptions, limit: int) -> int:
    """The longest request for which so many bytes are enough; 0 where none is."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        fits = rank.cache.needed(middle, options) * rank.cache.block <= available
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _fitted(sized: Sequence[tuple[Mapping[str, int], Rank]], options: ServingOptions) -> tuple[ServingOptions, str]:
    """The options with the longest request that fits on all ranks, 0 where none does, and what the log says
    (``v1/core/kv_cache_planning.py: _auto_fit_max_model_len``).
    """
    full = options.max_model_len
    assert full is not None
    room = [(sizes["available"] - rank.cache.block, rank) for sizes, rank in sized if rank.cache.groups]
    length, limit = min([(longest(memory, rank, options, full), memory) for memory, rank in room], default=(full, 0))
    fits = f"available KV cache memory ({round(limit / GIB, 2)} GiB GPU)"
    if not room:
        said = f"Auto-fit max_model_len: attention-free model, using derived max_model_len={full}"
    elif not length:
        said = (
            "Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. Try "
            "increasing `gpu_memory_utilization`."
        )
    elif length < full:
        said = f"Auto-fit max_model_len: reduced from {full} to {length} to fit in {fits}"
    else:
        said = f"Auto-fit max_model_len: full model context length {full} fits in {fits}"
    return options.model_copy(update={"max_model_len": length}), said


def _refusal(sizes: Mapping[str, int], rank: Rank, options: ServingOptions) -> str | None:
    """The error that stops vLLM (``v1/core/kv_cache_planning.py: _check_enough_kv_cache_memory``)."""
    available, length = sizes["available"], options.max_model_len
    assert length is not None
    if not options.is_old:
        available -= rank.cache.block  # the null block
    if available <= 0:
        return (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the "
            "engine."
        )
    needed = rank.cache.needed(length, options) * rank.cache.block
    if needed <= available:
        return None
    estimated = longest(available, rank, options, length)
    hint = f"Based on the available memory, the estimated maximum model length is {estimated}. " if estimated else ""
    return (
        f"To serve at least one request with the model's max seq len ({length}), ({needed / GIB:.2f} GiB KV cache is "
        f"needed, which is larger than the available KV cache memory ({available / GIB:.2f} GiB). {hint}Try increasing "
        "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
    )


ENGINE = Vllm()
