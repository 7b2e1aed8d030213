"""What ``vllm serve`` says at its start: the memory of each part, the tokens of its cache, or why it stops.

vLLM takes a share of each GPU's memory and runs a step with the most tokens that it would ever batch. The bytes that
are left become blocks of the cache (``engines/vllm``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..engines.devices import Device, assumptions, find
from ..engines.llama_cpp.options import is_gguf
from ..engines.vllm.engine import ENGINE, Checkpoint, checkpoint, positions
from ..engines.vllm.options import ServingOptions
from ..errors import InputError
from ..plans.models import load
from .result import SCHEMA

GIB = 2**30


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
    if is_gguf(model):
        raise InputError(f"'{model}' is llama.cpp's file; give a config.json, a built-in name or a hub id")
    found = checkpoint(model, load, options.draft_model)
    options = ENGINE.resolved(options, found.spec, gpu)
    ENGINE.check(options, gpu)
    answer = replace(_asked(found, gpu, contexts, options), model=model)
    if answer.refusal is None or not says_mends:
        return answer
    return replace(answer, mends=tuple(_mends(answer, lambda o: _asked(found, gpu, contexts, o), gpu)))


def _asked(model: Checkpoint, gpu: Device, contexts: Sequence[int], options: ServingOptions) -> Serving:
    start = ENGINE.start(model, options, gpu)
    needed = [start.rank.cache.needed(tokens, options) for tokens in contexts]
    return Serving(
        model=model.spec.name,
        device=gpu.name,
        options=options,
        bytes=start.bytes,
        blocks=start.blocks,
        contexts=tuple(
            Context(tokens, count, start.blocks / max(count, 1)) for tokens, count in zip(contexts, needed, strict=True)
        ),
        kv_tokens=start.kv_tokens,
        max_concurrency=start.max_concurrency,
        trained=positions(model.spec.raw),
        refusal=start.refusal,
        warnings=model.warnings,
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
