"""The engine: the parts of each GPU's memory, of which the KV cache has what the others leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm, prod
from types import MappingProxyType
from typing import Any, NamedTuple

from ...errors import InputError
from ...io.fields import parse_size, torch_dtype
from ...ledger import ITEMSIZE
from ...programs import Config
from ..devices import Device, find
from ..engine import Engine, Figures, Limit, Spec
from .caches import Cache, Group, grouped, layers
from .formats import MXFP4, Format, check_method, named, of_config, of_method
from .options import ServingOptions
from .profile import activation_bytes
from .weights import Part, parts, shapes_of

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


UNKNOWN = {"gpt_neo": "GPTNeoForCausalLM"}
"""Families of which vLLM has no class, and whose modules of transformers it cannot run either."""


@dataclass(frozen=True)
class Rank:
    """What a rank holds. Sizes are bytes."""

    weights: int
    cache: Cache


class Vllm(Engine):
    """vLLM on GPUs."""

    title = "vLLM"
    has_own_memory = True
    reads_checkpoints = False
    reads_programs = True
    defaults = MappingProxyType({"task": "serve"})
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
        """The options with vLLM's defaults. Raises ``InputError`` for a longer request than the model's positions."""
        trained = positions(spec.raw)
        if options.max_model_len is None:
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
        form = format_of(model.quantization, options, config.family, model.spec.name)
        ranks = self.ranks(config, raw, options, form, model.draft)
        sized = [(self.memory(config, raw, options, gpu, rank), rank) for rank in ranks]
        sizes, rank = min(sized, key=lambda one: one[0]["available"] / (one[0]["block"] or 1))
        blocks = sizes["kv_cache"] // sizes["block"] if sizes["block"] else 0
        length = options.max_model_len
        assert length is not None
        concurrency = blocks / max(rank.cache.needed(length, options), 1)
        tokens = int(concurrency * length)
        if options.is_old and rank.cache.groups:
            least = min(layer.block for group in rank.cache.groups for layer in group.layers if layer.kind != "state")
            tokens = blocks // len(rank.cache.groups) * least * options.decode_context_parallel_size
        return Start(options, sizes, rank, blocks, tokens, concurrency, _refusal(sizes, rank, options))

    # Plans.

    def asked(self, plan: Any) -> str:
        return f"serving with {self.title}"

    def heading(self, plan: Any) -> str:
        return f"{plan.model}, {plan.batch:,} requests of {plan.seq:,} tokens, {self.release(plan)}, {plan.device}"

    def release(self, plan: Any) -> str:
        return f"{self.title} {plan.vllm.release}"

    def device_of(self, plan: Any) -> Device | None:
        return None if plan.device is None else find(plan.device)

    def runs_alike(self, plan: Any, device: Device) -> bool:
        return device.capability is not None

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Checkpoint:
        return checkpoint(plan.model, load, plan.vllm.draft_model)

    def contexts(self, plan: Any, model: Checkpoint) -> tuple[int, int, int, int]:
        gpu = find(plan.device)
        options = self.resolved(ServingOptions(**plan.vllm.model_dump(exclude_unset=True)), model.spec, gpu)
        cache = self.start(model, options, gpu).rank.cache
        step = lcm(*(layer.block for group in cache.groups for layer in group.layers if layer.kind != "state"))
        return plan.seq, 1, positions(model.spec.raw) or plan.seq, step

    def figures(self, plan: Any, model: Checkpoint) -> Figures:
        gpu = find(plan.device)
        given = plan.vllm.model_dump(exclude_unset=True)
        dtype = plan.dtype if "dtype" in plan.model_fields_set else "auto"
        options = self.resolved(ServingOptions(**{"max_model_len": plan.seq, **given, "dtype": dtype}), model.spec, gpu)
        self.check(options, gpu)
        found = self.start(model, options, gpu)
        sizes = found.bytes
        cache = plan.batch * found.rank.cache.needed(plan.seq, options) * sizes["block"]
        above = sizes["activation"] + sizes["cudagraph"]
        resident = sizes["weights"] + cache
        process = resident + above + sizes["non_torch"]
        figures = {
            **{name: sizes[name] for name in ("weights", "activation", "non_torch", "cudagraph")},
            "kv_cache": cache,
            "available": sizes["kv_cache"],
            "requested": sizes["requested"],
            **({"host_cache": round(options.kv_offloading_size * GIB)} if options.kv_offloading_size else {}),
            "parameters": sizes["weights"],
            **dict.fromkeys(("adapters", "buffers", "gradients", "optimizer", "saved"), 0),
            "resident": resident,
            "peak_above_resident": above,
            "peak": resident + above,
            "process": process,
        }
        return Figures(
            figures,
            {"profiling run": above},
            sum(prod(shape) for shape in shapes_of(model.spec.config).values()),
            (Limit("process", process, sizes["requested"], process),),
            warnings=(*model.warnings, *model.spec.warnings, *filter(None, (found.refusal,))),
            serving={"kv_tokens": found.kv_tokens, "max_concurrency": round(found.max_concurrency, 2)},
        )

    def check(self, options: ServingOptions, gpu: Device) -> None:
        """Raise ``InputError`` for a device that is no CUDA GPU, or on which vLLM refuses the options."""
        if gpu.capability is None:
            raise InputError(
                f"device {gpu.name} runs no CUDA; name a GPU that `estimator devices` lists, such as a100-80gb"
            )
        if gpu.capability < (7, 0):
            raise InputError(
                f"vLLM needs compute capability 7.0, and {gpu.label} has {'{}.{}'.format(*gpu.capability)}"
            )
        if options.dtype == "bfloat16" and gpu.capability < (8, 0):
            raise InputError(
                f"vLLM refuses bfloat16 below compute capability 8.0, which {gpu.label} is; set dtype to float16"
            )
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
        held = list(parts(config, raw, options.parallel, options.is_old))
        kept = layers(config, raw, options)
        if drafts_itself(config, options):
            last = max(one.index for one in kept if one.kind != "state")
            kept += [replace(one, index=total - 1) for one in kept if one.index == last]
            held += [part._replace(layer=total - 1) for part in held if part.layer == last]
            size = config.hidden_size
            held.append(Part("the drafting layer's projection and norms", 2 * size**2 + 3 * size, layer=total - 1))
        if draft is not None:
            theirs = draft.spec
            held += [part._replace(layer=total - 1) for part in parts(theirs.config, theirs.raw, options.parallel)]
            kept += [replace(one, index=total - 1) for one in layers(theirs.config, theirs.raw, options)]
        cache = grouped(kept, options)
        ranks = []
        start = 0
        for rank in range(count):
            size = total // count + (0 < total % count >= count - rank - 1 > 0)
            own = range(start, start + size)
            start += size
            weights = sum(
                _bytes(part, options, format)
                for part in held
                if (part.layer in own if part.layer is not None else _is_on(part, rank, count, config))
            )
            weights += rope_bytes(raw, config, options)
            if format is not None and raw.get("kv_lora_rank"):
                weights += len(own) * _absorbed_bytes(raw, options)
            if options.enable_lora:
                weights += _adapter_bytes([part for part in held if part.layer in own], options)
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
            "weights": _given(options.weights, max(rank.weights - int(options.cpu_offload_gb * GIB), 0)),
            "activation": _given(options.activation, activation_bytes(config, raw, options, gpu.capability)),
            "non_torch": _given(options.non_torch, non_torch_bytes(options, gpu)),
            "cudagraph": _given(
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


DRAFTS = (
    *("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm4_moe", "ernie4_5_moe", "mimo"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)
"""Families whose checkpoints have a layer that drafts (``config/speculative.py: mtp``)."""


def drafts_itself(config: Config, options: ServingOptions) -> bool:
    """Whether a layer of the model's own drafts. Raises ``InputError`` where there is none."""
    if not options.num_speculative_tokens or options.draft_model is not None:
        return False
    if config.family not in DRAFTS:
        raise InputError(
            f"num_speculative_tokens: model_type {config.family} has no layer that drafts; name a draft_model"
        )
    return True


def checkpoint(model: str, load: Callable[[str], Spec], draft: str | None = None) -> Checkpoint:
    """A model by its name, and how its checkpoint is quantised: by its config.json, else by its name."""
    if draft is not None:
        return checkpoint(model, load)._replace(draft=checkpoint(draft, load))
    packed = named(model)
    if packed is not None and "/" in model:
        try:
            spec = load(packed[0].rpartition("/")[2])
        except InputError:
            pass
        else:
            note = f"{model} is read as {spec.name}, quantised as its name says; its config.json replaces this"
            return Checkpoint(spec, packed[1], (note,))
    spec = load(model)
    return Checkpoint(spec, getattr(spec, "quantization", None), spec.warnings)


def format_of(quantization: Any, options: ServingOptions, family: str, where: str) -> Format | None:
    """The format of a checkpoint's linear layers; ``None`` where they are not quantised. Raises ``InputError``."""
    if isinstance(quantization, Mapping):
        method = str(quantization.get("quant_method"))
        check_method(method, options.release)
        return of_config(quantization, where)
    if isinstance(quantization, Format):
        check_method(quantization.method, options.release)
        return quantization
    if options.quantization is not None:
        return of_method(options.quantization, options.release)
    return MXFP4 if family == "gpt_oss" else None


def _bytes(part: Part, options: ServingOptions, format: Format | None) -> int:
    if format is not None and (packed := format.of(part)) is not None:
        return packed
    return part.elements * (4 if part.float32 else ITEMSIZE[options.dtype])


def _is_on(part: Part, rank: int, ranks: int, config: Config) -> bool:
    """Whether a rank of a pipeline has a parameter that is in no layer: embeddings first, the output's last."""
    if re.search(r"(embed|wte|wpe|word_embeddings)", part.name):
        return rank == 0 or (rank == ranks - 1 and config.tie_word_embeddings)
    return rank == ranks - 1


def _share(cache: Cache, own: range) -> Cache:
    """The groups, with the layers of one rank of a pipeline."""
    return Cache(tuple(Group(tuple(one for one in group.layers if one.index in own)) for group in cache.groups))


def _adapter_bytes(held: Sequence[Part], options: ServingOptions) -> int:
    """Slots for adapters on all linear layers (``vllm/lora/layers``): A [rank, in] and B [out, rank] each."""
    found = sum(sum(part.linear) for part in held if part.linear is not None and ".experts." not in part.name)
    return found * options.max_lora_rank * options.max_loras * ITEMSIZE[options.dtype]


def _absorbed_bytes(raw: Mapping[str, Any], options: ServingOptions) -> int:
    """A layer's projection of latent keys and values, which is quantised, once more in the model's dtype
    (``mla/common.py: process_weights_after_loading``).
    """
    heads = raw["num_attention_heads"] // options.tensor_parallel_size
    found: int = heads * (raw["qk_nope_head_dim"] + raw["v_head_dim"]) * raw["kv_lora_rank"] * ITEMSIZE[options.dtype]
    return found


def rope_bytes(raw: Mapping[str, Any], config: Config, options: ServingOptions) -> int:
    """Cosines and sines of all positions, of each kind of rotary embedding (``rotary_embedding/base.py``)."""
    ropes = raw.get("rope_parameters") or {}
    kinds = list(ropes.values()) if all(isinstance(one, Mapping) for one in ropes.values()) and ropes else [ropes]
    size = raw.get("qk_rope_head_dim") or raw.get("head_dim") or config.heads.get("head_dim") or 0
    found = 0
    for kind in {repr(one): one for one in kinds}.values():
        positions = raw.get("max_position_embeddings") or 0
        scaled = kind.get("rope_type") in ("yarn", "linear", "deepseek_yarn")
        start = kind.get("original_max_position_embeddings") if kind.get("rope_type") != "linear" else None
        positions = int((start or positions) * kind.get("factor", 1)) if scaled else positions
        share = kind.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1
        if kind.get("rope_type") == "proportional":
            share = 1
        found += positions * int(size * share) * ITEMSIZE[options.dtype]
    return found


def non_torch_bytes(options: ServingOptions, gpu: Device) -> int:
    """What a rank takes outside PyTorch's allocator, from the logs of the nearest number of ranks."""
    assert gpu.capability is not None
    table = NON_TORCH[gpu.capability >= (9, 0)]
    nearest = min(table, key=lambda ranks: abs(ranks - options.world))
    return round(table[nearest] * GIB)


def _given(size: str | None, default: int) -> int:
    return default if size is None else parse_size(size)


class Checkpoint(NamedTuple):
    """A model, and how its checkpoint is quantised."""

    spec: Spec
    quantization: Any
    """The config's own ``quantization_config``, or what the checkpoint's name says; ``None`` where it is not."""
    warnings: tuple[str, ...] = ()
    draft: Checkpoint | None = None
    """A model that drafts beside it."""


@dataclass(frozen=True)
class Start:
    """What vLLM says at its start."""

    options: ServingOptions
    bytes: dict[str, int]
    """Of the GPU that has the fewest blocks."""
    rank: Rank
    blocks: int
    kv_tokens: int
    max_concurrency: float
    refusal: str | None


def positions(raw: Mapping[str, Any]) -> int | None:
    """The longest request that the model was made for (``config/model.py: _get_and_verify_max_len``)."""
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(raw[key]) for key in keys if isinstance(raw.get(key), int)), None)


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
