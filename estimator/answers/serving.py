"""What a server says at its start: the memory of each part, the tokens of its cache, or why it stops.

The options say which server it is: ``engines/vllm``, ``engines/sglang``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..engines.devices import Device, assumptions, find
from ..engines.llama_cpp.options import is_gguf
from ..engines.registry import engine_of
from ..engines.served.checkpoint import Checkpoint, checkpoint, positions
from ..engines.served.engine import Served
from ..errors import InputError
from ..plans.models import load
from .result import SCHEMA


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
    options: Any
    bytes: dict[str, int]
    """total (as CUDA reports it on an idle GPU), requested (what the engine may take of it), what its ``labels`` name,
    available (what is left for the cache, below 0 where it is missing), kv_cache and block; of the rank that has the
    fewest blocks."""
    blocks: int
    contexts: tuple[Context, ...]
    kv_tokens: int
    """Tokens of the cache, as the log has them."""
    max_concurrency: float
    """Requests of the longest length that fit at once."""
    trained: int | None
    """The positions that the model was made for, where its config says."""
    log: tuple[str, ...]
    """What the engine's log says, in its words."""
    refusal: str | None
    """The error that stops it, in its words."""
    fits: bool
    """Whether it starts, and takes a request of the longest length."""
    mends: tuple[str, ...] = ()
    """Options each of which lets it start."""
    warnings: tuple[str, ...] = field(default=())
    unknown: tuple[str, ...] = ()
    """What takes more memory by an amount without a rule, by name. That it starts is not sure then."""
    longest: int | None = None
    """The longest request with which it starts; ``None`` where it starts with none."""
    least_share: float | None = None
    """The smallest share of the GPU with which it starts; ``None`` where it starts with none."""

    @property
    def engine(self) -> Served:
        """What serves."""
        return server(self.options)

    @property
    def most_requests(self) -> int:
        """Requests of the longest length that run at once."""
        return min(int(self.max_concurrency), int(self.options.rows))

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
            "fits": None if self.fits and self.unknown else self.fits,
            "unknown": list(self.unknown),
            "error": self.refusal,
            "mends": list(self.mends),
            "log": list(self.log),
            f"largest_{self.engine.length}": self.longest,
            "most_requests": self.most_requests,
            f"smallest_{self.engine.share}": self.least_share,
            "contexts": [vars(one) for one in self.contexts],
            "trained_context": self.trained,
            "warnings": list(self.warnings),
            "assumptions": [asdict(one) for one in assumptions(find(self.device))],
        }


def server(options: Any) -> Served:
    """The engine of a server's options."""
    engine = engine_of(options.runtime)
    assert isinstance(engine, Served)
    return engine


def serving(model: str, device: str, contexts: Sequence[int], options: Any, says_mends: bool = True) -> Serving:
    """What a server says of a model on GPUs of one kind, and the requests of each length that fit.

    Raises ``InputError`` for a device that is no CUDA GPU, for options that it refuses whatever the memory, and for a
    model without rules.
    """
    gpu, engine = find(device), server(options)
    if is_gguf(model):
        raise InputError(f"'{model}' is llama.cpp's file; give a config.json, a built-in name or a hub id")
    found = checkpoint(model, load, getattr(options, engine.draft))
    unknown = engine.unknown(found, options, gpu)
    options = engine.resolved(options, found.spec, gpu)
    engine.check(options, gpu)
    answer = replace(_asked(found, gpu, contexts, options), model=model, unknown=unknown)
    if not says_mends:
        return answer

    def starts(**update: Any) -> bool:
        try:
            changed = options.model_copy(update=update)
            engine.check(changed, gpu)
            return engine.start(found, changed, gpu).serves
        except InputError:
            return False

    limit = answer.trained or getattr(options, engine.length) or 1
    answer = replace(
        answer,
        longest=largest(lambda n: starts(**{engine.length: n}), limit),
        least_share=next((x / 100 for x in range(1, 101) if starts(**{engine.share: x / 100})), None),
    )
    return answer if answer.fits else replace(answer, mends=tuple(_mends(answer, starts)))


@dataclass(frozen=True)
class Layout:
    """How many cards of a kind it takes, and how they share the model."""

    device: str
    cards: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    max_concurrency: float


def smallest_cluster(model: str, devices: Sequence[str], options: Any) -> list[Layout]:
    """The fewest cards of each kind with which it starts, up to 64; a kind with which it never does has none.

    A layer is split among up to eight cards, which are one machine's; machines have some layers each. Ranks and stages
    that the options give stay as they are.
    """
    found, engine = [], server(options)
    keys = (engine.ranks_key, engine.stages_key)
    given = {key: getattr(options, key) for key in keys if key in options.model_fields_set}
    layouts = [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (8, 8)]
    if given:
        ranks, stages = ([given[key]] if key in given else [1, 2, 4, 8] for key in keys)
        layouts = sorted(((tp, pp) for tp in ranks for pp in stages), key=lambda sizes: sizes[0] * sizes[1])
    for device in devices:
        for tp, pp in layouts:
            try:
                sizes = dict(zip(keys, (tp, pp), strict=True))
                answer = serving(model, device, [1], options.model_copy(update=sizes), False)
            except InputError:
                if (tp, pp) == layouts[0]:
                    raise
                continue
            if answer.fits:
                found.append(Layout(find(device).name, tp * pp, tp, pp, answer.max_concurrency))
                break
    return sorted(found, key=lambda one: one.cards)


def _asked(model: Checkpoint, gpu: Device, contexts: Sequence[int], options: Any) -> Serving:
    start = server(options).start(model, options, gpu)
    needed = [start.cache.needed(tokens, options) for tokens in contexts]
    return Serving(
        model=model.spec.name,
        device=gpu.name,
        options=start.options,
        bytes=start.bytes,
        blocks=start.blocks,
        contexts=tuple(
            Context(tokens, count, start.blocks / max(count, 1)) for tokens, count in zip(contexts, needed, strict=True)
        ),
        kv_tokens=start.kv_tokens,
        max_concurrency=start.max_concurrency,
        trained=positions(model.spec.raw),
        log=start.log,
        refusal=start.refusal,
        fits=start.serves,
        warnings=(*model.warnings, *start.warnings),
    )


def _mends(answer: Serving, starts: Callable[..., bool]) -> list[str]:
    """Options each of which lets the server start."""
    engine, found = answer.engine, {}
    if answer.longest:
        found[engine.length] = f"{answer.longest}"
    if answer.least_share is not None:
        found[engine.share] = f"{answer.least_share:.2f}"
    for key, values in engine.remedies(answer.options).items():
        for value in (value for value in values if starts(**{key: value})):
            found[key] = f"{value}"
            break
    return [f"--{key.replace('_', '-')} {value}" for key, value in found.items()]


def largest(fits: Callable[[int], bool], limit: int) -> int | None:
    """The largest number up to a limit that fits, where all smaller ones do; ``None`` where 1 does not."""
    if not fits(1):
        return None
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
