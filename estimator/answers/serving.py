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
    longest: int | None = None
    """The largest ``max_model_len`` with which it starts; ``None`` where it starts with none."""
    least_share: float | None = None
    """The smallest ``gpu_memory_utilization`` with which it starts; ``None`` where it starts with none."""

    @property
    def most_requests(self) -> int:
        """Requests of ``max_model_len`` tokens that run at once."""
        return min(int(self.max_concurrency), self.options.rows)

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
            "largest_max_model_len": self.longest,
            "most_requests": self.most_requests,
            "smallest_gpu_memory_utilization": self.least_share,
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
    if not says_mends:
        return answer

    def starts(**update: Any) -> bool:
        try:
            changed = options.model_copy(update=update)
            ENGINE.check(changed, gpu)
            return ENGINE.start(found, changed, gpu).refusal is None
        except InputError:
            return False

    limit = answer.trained or options.max_model_len or 1
    answer = replace(
        answer,
        longest=largest(lambda n: starts(max_model_len=n), limit),
        least_share=next((x / 100 for x in range(1, 101) if starts(gpu_memory_utilization=x / 100)), None),
    )
    return answer if answer.refusal is None else replace(answer, mends=tuple(_mends(answer, starts)))


@dataclass(frozen=True)
class Layout:
    """How many cards of a kind it takes, and how they share the model."""

    device: str
    cards: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    max_concurrency: float


def smallest_cluster(model: str, devices: Sequence[str], options: ServingOptions) -> list[Layout]:
    """The fewest cards of each kind with which it starts, up to 64; a kind with which it never does has none.

    A layer is split among up to eight cards, which are one machine's; machines have some layers each.
    """
    found = []
    for device in devices:
        for tp, pp in ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (8, 8)):
            sizes = {"tensor_parallel_size": tp, "pipeline_parallel_size": pp}
            try:
                answer = serving(model, device, [1], options.model_copy(update=sizes), False)
            except InputError:
                if tp == 1:
                    raise
                continue
            if answer.refusal is None:
                found.append(Layout(find(device).name, tp * pp, tp, pp, answer.max_concurrency))
                break
    return sorted(found, key=lambda one: one.cards)


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


def _mends(answer: Serving, starts: Callable[..., bool]) -> list[str]:
    """Options each of which lets vLLM start."""
    options, found = answer.options, []
    if answer.longest:
        found.append(f"--max-model-len {answer.longest}")
    if answer.least_share is not None:
        found.append(f"--gpu-memory-utilization {answer.least_share:.2f}")
    if options.kv_cache_dtype == "auto" and starts(kv_cache_dtype="fp8"):
        found.append("--kv-cache-dtype fp8")
    fewer = (rows for rows in (256, 128, 64) if rows < options.rows and starts(max_num_seqs=rows))
    found += [f"--max-num-seqs {rows}" for rows in fewer][:1]
    more = (n for n in (2, 4, 8, 16) if n > options.tensor_parallel_size and starts(tensor_parallel_size=n))
    return found + [f"--tensor-parallel-size {ranks}" for ranks in more][:1]


def largest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The largest number up to a limit that fits, where all smaller ones do; ``None`` where 1 does not."""
    if not fits(1):
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
