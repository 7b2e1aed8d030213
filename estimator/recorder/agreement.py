"""In which settings a program whose attention, masks and cache are calls does what the module does. Needs PyTorch.

Both are run: the program, and what is recorded of the module in that setting. All allocations and releases of a step
must be equal, in their order; with flash-attn, of ``generate`` and of a step that returns a cache, the totals and the
peak of each moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..errors import InputError
from ..ledger import whole
from ..ledger.events import Events
from ..methods.full import FullMethod
from ..operators import CPU, Cuda
from ..programs.family import Family
from ..programs.recorded import RecordedConfig
from ..programs.shipped import shipped_config, words_of
from ..programs.step import CachedTokens, Part, Step
from ..steps.generate import Generate
from ..steps.generate_options import GenerateOptions
from ..steps.prefill import Prefill
from ..steps.step import StepTotals, run
from ..steps.train import Train
from .hugging_face import HuggingFaceModel, config_of

GPU = Cuda((9, 0))
Attention = Literal["sdpa", "eager", "flash"]
ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")
Draw = Callable[[bool, bool], tuple[dict[str, Any], int, int]]
"""A config, a batch and a sequence: beyond the sliding window or not, and of one row or more."""


def settings_served(families: Sequence[Family], part: Part, draw: Draw) -> list[str]:
    """The settings of a part in which the programs are right, by ``words_of``."""
    drawn = [draw(False, False), draw(False, part in ("train packed", "infer", "infer padded"))]
    if families[0].window is not None:
        drawn.append(draw(True, False))
    lives = [HuggingFaceModel(raw, "the config") for raw, *_ in drawn]
    found: dict[str, bool] = {}
    for step in steps(part, families):
        words = words_of(step)
        if not all(found.get(word, True) for word in words):
            continue
        programs = [replace(one, recorded={**one.recorded, "settings": words}) for one in families]
        agreed = all(
            agrees(programs, live, batch, seq, of_lengths(step, families[0], raw, batch, seq))
            for live, (raw, batch, seq) in zip(lives, drawn, strict=True)
        )
        asked = [word for word in words if word not in found] or words[-1:]  # or the same on another device
        found |= dict.fromkeys(asked, agreed)
    return [word for word, agreed in found.items() if agreed]


def steps(part: Part, families: Sequence[Family]) -> Iterator[Step]:
    """The steps by which a part's programs are compared with the module."""
    procedure = Train() if part.startswith("train") else Prefill()
    plain = Step(families[0].model_type, "bfloat16", procedure=procedure)
    autocasts = [(dtype, "bfloat16", device) for dtype in ("float32", "bfloat16") for device in (CPU, GPU)]
    if part == "generate":
        dynamic = CachedTokens("dynamic", 0, 0)
        for attention in ATTENTIONS:
            own = replace(plain, attention=attention, cached=dynamic)
            yield own
            for implementation in ("static", "quantized"):
                yield replace(own, cached=replace(dynamic, implementation=implementation))
            yield from (replace(own, dtype=d, autocast=a, device=on) for d, a, on in autocasts)
        return
    given = replace(plain, packing=part == "train packed", attention_mask=part.endswith("padded"))
    on_gpu = (GPU,) if any(one.recorded["device"] != "any" for one in families) else ()
    attentions: tuple[Attention, ...] = (*ATTENTIONS, "flash")
    for attention in attentions:
        for device in (CPU, *on_gpu) if attention != "flash" else (GPU,):
            own = replace(given, attention=attention, device=device)
            yield own
            yield replace(own, use_cache=True)
            if part in ("train", "infer"):
                yield replace(own, attention_mask=True)
        for dtype, autocast, device in autocasts:
            if device is GPU or attention != "flash":
                yield replace(given, attention=attention, dtype=dtype, autocast=autocast, device=device)


def of_lengths(step: Step, family: Family, raw: dict[str, Any], batch: int, seq: int) -> Step:
    """The step for a config's model, a batch and a sequence, with what follows from the sliding window."""
    window = family.window_of(family.config(raw))
    step = replace(step, window_reached=window is not None and whole(step.rows(batch, seq)[1]) >= window)
    if step.cached is None:
        return step
    new = 3 if window is None or seq >= window else window - seq + 3
    block = {"max_new_tokens": new, "cache_implementation": step.cached.implementation}
    options = GenerateOptions.model_validate(block)
    return replace(step, cached=None, procedure=Generate(options, window))


def agrees(programs: Sequence[Family], live: HuggingFaceModel, batch: int, seq: int, step: Step) -> bool:
    """Whether the programs do what the module does in a step."""
    try:
        theirs = _ran(config_of(live.raw, live), step, batch, seq)
        ours = _ran(shipped_config(programs, live.raw, live.where), step, batch, seq)
    except InputError:
        return False
    exact = not isinstance(step.procedure, Generate) and not step.use_cache and step.attention != "flash"
    return ours[0] == theirs[0] and (not exact or ours[1:] == theirs[1:])


def _ran(config: RecordedConfig, step: Step, batch: int, seq: int) -> tuple[Any, ...]:
    """The totals of a step, and the bytes of each allocation and release, which are negative."""
    events = Events()
    ledger = step.ledger(unrolled=True, events=events)
    sizes = config.sizes(lambda _: 0, step, batch, seq)
    totals = run(step, sizes, FullMethod().build(config, step.dtype), batch, seq, ledger=ledger)
    order = events.order[: events.marks.get("end")]
    changes = [events.sizes[i] if i >= 0 else -events.sizes[~i] for i in order]
    return _figures(totals), changes, sorted(events.saved)


_BEFORE = ("inputs prefill", "embedding prefill", "embedding decode")
"""Moments of ``generate`` before the layers, in which it makes masks and positions."""


def _figures(totals: StepTotals) -> dict[str, Any]:
    figures = {
        name: value for name, value in vars(totals).items() if name not in ("rows", "saved_by", "math_attention")
    }
    return figures | {"moments": {k: v for k, v in totals.moments.items() if k not in _BEFORE}}
