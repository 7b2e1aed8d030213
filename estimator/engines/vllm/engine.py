"""The engine: the parts of each GPU's memory, of which the KV cache has what the others leave."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ...io.fields import parse_size
from ...ledger import ITEMSIZE
from ...programs import Config
from ..devices import Device
from ..engine import Engine
from .caches import Cache, Group, grouped, layers
from .formats import MXFP4, Format, check_method, of_config, of_method
from .options import ServingOptions
from .profile import activation_bytes
from .weights import Part, parts

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
        self, config: Config, raw: Mapping[str, Any], options: ServingOptions, format: Format | None = None
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
        cache = grouped(layers(config, raw, options), options)
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


ENGINE = Vllm()
