"""What ``vllm serve`` says at its start: the memory of each part, the tokens of its cache, or why it stops.

vLLM takes a share of each GPU's memory and runs a step with the most tokens that it would ever batch. The bytes that
are left become blocks of the cache (``engines/vllm``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..engines.devices import Device, assumptions, find
from ..engines.llama_cpp.options import is_gguf
from ..engines.vllm.engine import ENGINE, Rank, format_of
from ..engines.vllm.formats import named
from ..engines.vllm.options import ServingOptions
from ..errors import InputError
from ..plans.models import ModelSpec, load
from .result import SCHEMA

GIB = 2**30
LONGEST = 10**8


@dataclass(frozen=True)
class Context:
    """Requests of one length: the blocks that each takes, and the number of requests that fit at once."""

    tokens: int
    blocks: int
    requests: float


@dataclass(frozen=True)
class Serving:
    """The parts of a GPU's memory, and the requests that fit into the cache."""

    model: str
    device: str
    options: ServingOptions
    bytes: dict[str, int]
    """total (as CUDA reports it on an idle GPU), requested (vLLM's share of it), weights, activation, non_torch,
    cudagraph, available (the rest, below 0 where it is missing), kv_cache, block; of the rank that has the fewest
    blocks."""
    blocks: int
    contexts: tuple[Context, ...]
    kv_tokens: int
    """Tokens of the cache, as the log has them."""
    max_concurrency: float
    """Requests of ``max_model_len`` tokens that fit at once."""
    trained: int | None
    """The positions that the model was made for, where its config says."""
    refusal: str | None = None
    """The error that stops vLLM, in its words."""
    mends: tuple[str, ...] = ()
    """Options each of which lets it start."""
    warnings: tuple[str, ...] = field(default=())

    def log(self) -> list[str]:
        """What vLLM's log says, in its words."""
        found = [
            f"Model loading took {self.bytes['weights'] / GIB:.2f} GiB memory",
            f"Available KV cache memory: {self.bytes['available'] / GIB:.2f} GiB",
        ]
        if self.refusal is not None:
            return [*found, self.refusal]
        return [
            *found,
            f"GPU KV cache size: {self.kv_tokens:,} tokens",
            f"Maximum concurrency for {self.options.max_model_len:,} tokens per request: {self.max_concurrency:.2f}x",
        ]

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {
            "schema": SCHEMA,
            "question": "serving",
            "model": self.model,
            "device": self.device,
            "options": self.options.model_dump(),
            "bytes": self.bytes,
            "blocks": self.blocks,
            "kv_tokens": self.kv_tokens,
            "max_concurrency": self.max_concurrency,
            "fits": self.refusal is None,
            "error": self.refusal,
            "mends": list(self.mends),
            "log": self.log(),
            "contexts": [vars(one) for one in self.contexts],
            "trained_context": self.trained,
            "warnings": list(self.warnings),
            "assumptions": [asdict(one) for one in assumptions(find(self.device))],
        }


def serving(
    model: str, device: str, contexts: Sequence[int], options: ServingOptions, says_mends: bool = True
) -> Serving:
    """What vLLM says of a model on GPUs of one kind, and the requests of each length that fit.

    Raises ``InputError`` for a device that is no CUDA GPU, for options that vLLM refuses whatever the memory, and for a
    model without rules.
    """
    gpu = find(device)
    spec, quantization = _checkpoint(model)
    options = _resolved(options, spec, gpu)
    ENGINE.check(options, gpu)
    trained = _positions(spec.raw)
    found = _asked(spec, quantization, gpu, contexts, options)
    answer = replace(found, model=model, trained=trained)
    if answer.refusal is None or not says_mends:
        return answer
    return replace(answer, mends=tuple(_mends(answer, lambda o: _asked(spec, quantization, gpu, contexts, o), gpu)))


def _checkpoint(model: str) -> tuple[ModelSpec, Any]:
    """The model, and how its checkpoint is quantised: by its config.json, else by its name."""
    if is_gguf(model):
        raise InputError(f"'{model}' is llama.cpp's file; give a config.json, a built-in name or a hub id")
    packed = named(model)
    if packed is not None and "/" in model:
        try:
            spec = load(packed[0].rpartition("/")[2])
        except InputError:
            pass
        else:
            note = f"{model} is read as {spec.name}, quantised as its name says; its config.json replaces this"
            return replace(spec, warnings=(note,)), packed[1]
    spec = load(model)
    return spec, spec.quantization


def _resolved(options: ServingOptions, spec: ModelSpec, gpu: Device) -> ServingOptions:
    """The options with vLLM's defaults. Raises ``InputError`` for a longer request than the model's positions."""
    trained = _positions(spec.raw)
    if options.max_model_len is None:
        options = options.model_copy(update={"max_model_len": trained or 2048})
    elif trained is not None and options.max_model_len > trained:
        raise InputError(
            f"vLLM stops: User-specified max_model_len ({options.max_model_len}) is greater than the derived "
            f"max_model_len (max_position_embeddings={trained} or model_max_length=None in model's config.json).; take "
            f"at most --max-model-len {trained}"
        )
    if options.dtype == "auto":
        kept = "bfloat16" if spec.dtype == "float32" else spec.dtype
        options = options.model_copy(update={"dtype": kept})
    return options.on(gpu.name, gpu.usable_bytes)


def _positions(raw: Mapping[str, Any]) -> int | None:
    """The longest request that the model was made for (``config/model.py: _get_and_verify_max_len``)."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(raw.get(key), int):
            found = int(raw[key])
            rope = raw.get("rope_parameters") or {}
            if rope.get("rope_type") == "longrope" and raw.get("original_max_position_embeddings"):
                return int(raw["original_max_position_embeddings"])
            return found
    return None


def _asked(
    spec: ModelSpec, quantization: Any, gpu: Device, contexts: Sequence[int], options: ServingOptions
) -> Serving:
    config, raw = spec.config, spec.raw
    form = format_of(quantization, options, config.family, spec.name)
    ranks = ENGINE.ranks(config, raw, options, form)
    sized = [(ENGINE.memory(config, raw, options, gpu, rank), rank) for rank in ranks]
    sizes, rank = min(sized, key=lambda one: one[0]["available"] / (one[0]["block"] or 1))
    blocks = sizes["kv_cache"] // sizes["block"] if sizes["block"] else 0
    found = [Context(tokens, n := rank.cache.needed(tokens, options), blocks / max(n, 1)) for tokens in contexts]
    length = options.max_model_len
    assert length is not None
    concurrency = blocks / max(rank.cache.needed(length, options), 1)
    tokens = int(concurrency * length)
    if options.is_old and rank.cache.groups:
        least = min(layer.block for group in rank.cache.groups for layer in group.layers if layer.kind != "state")
        tokens = blocks // len(rank.cache.groups) * least * options.decode_context_parallel_size
    return Serving(
        model=spec.name,
        device=gpu.name,
        options=options,
        bytes=sizes,
        blocks=blocks,
        contexts=tuple(found),
        kv_tokens=tokens,
        max_concurrency=concurrency,
        trained=None,
        refusal=_refusal(sizes, rank, options),
        warnings=spec.warnings,
    )


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


def _mends(answer: Serving, ask: Callable[[ServingOptions], Serving], gpu: Device) -> list[str]:
    """Options each of which lets vLLM start."""
    options = answer.options

    def starts(**update: Any) -> bool:
        try:
            changed = options.model_copy(update=update)
            ENGINE.check(changed, gpu)
            return ask(changed).refusal is None
        except InputError:
            return False

    found = []
    if length := largest(lambda n: starts(max_model_len=n), options.max_model_len or 1):
        found.append(f"--max-model-len {length}")
    for share in (x / 100 for x in range(int(options.share * 100) + 1, 100)):
        if starts(gpu_memory_utilization=share):
            found.append(f"--gpu-memory-utilization {share:.2f}")
            break
    if options.kv_cache_dtype == "auto" and starts(kv_cache_dtype="fp8"):
        found.append("--kv-cache-dtype fp8")
    for rows in (256, 128, 64):
        if rows < (options.max_num_seqs or 0) and starts(max_num_seqs=rows):
            found.append(f"--max-num-seqs {rows}")
            break
    for ranks in (2, 4, 8, 16):
        if ranks > options.tensor_parallel_size and starts(tensor_parallel_size=ranks):
            found.append(f"--tensor-parallel-size {ranks}")
            break
    return found


def largest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The largest number up to a limit that fits, where all smaller ones do; ``None`` where 1 does not."""
    if not fits(1):
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
