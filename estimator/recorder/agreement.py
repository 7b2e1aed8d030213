"""In which settings a program whose attention, masks and cache are calls does what the module does. Needs PyTorch.

Both are run: the program, and what is recorded of the module in that setting. All allocations and releases of a step
must be equal, in their order; with flash-attn, of ``generate`` and of a step that returns a cache, the totals and the
peak of each moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from ..errors import InputError
from ..ledger import whole
from ..ledger.events import Events
from ..methods.full import FullMethod
from ..operators import CPU, Cuda
from ..programs.family import Family
from ..programs.heads import CAUSAL
from ..programs.recorded import Config
from ..programs.setting import DTYPES, LOWER, VALUES, Setting, Settings, merged
from ..programs.shipped import shipped_config
from ..programs.step import CachedTokens, Step
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


def settings_served(families: Sequence[Family], base: Setting, draw: Draw, head: str = CAUSAL) -> tuple[Settings, ...]:
    """The settings in which the programs are right, of those with another attention, mask, cache or autocast than
    ``base``. Where a mask, a cache and autocast each are right with an attention, they are together.
    """
    drawn = [draw(False, False), draw(False, base.packing or (not base.trains and base.cache is None))]
    if families[0].window is not None:
        drawn.append(draw(True, False))
    lives = [HuggingFaceModel(raw, "the config", head) for raw, *_ in drawn]
    programs = [replace(one, settings=({**VALUES, "device": one.settings[0]["device"]},)) for one in families]
    found: dict[Setting, bool] = {}
    for step in steps(base, families, head):
        setting = Setting.of(step)
        plain = base._replace(attention=setting.attention, device=setting.device)
        if found.get(plain, True):
            found[setting] = all(
                agrees(programs, live, batch, seq, of_lengths(step, families[0], raw, batch, seq))
                for live, (raw, batch, seq) in zip(lives, drawn, strict=True)
            )
            if _alike(families) and setting.autocast is None:
                found[setting._replace(device=GPU.type)] = found[setting]
    return merged(_together(base, [setting for setting, agreed in found.items() if agreed], families[0].settings[0]))


def _alike(families: Sequence[Family]) -> bool:
    """Whether the programs are the same on both devices."""
    return all(one.settings[0]["device"] == VALUES["device"] for one in families)


def _together(base: Setting, agreed: Sequence[Setting], row: Settings) -> Iterator[Settings]:
    """The settings that have what these have, each with the others of its attention and its device."""
    for attention, device in product(VALUES["attention"], VALUES["device"]):
        own = [one for one in agreed if (one.attention, one.device) == (attention, device)]
        if base._replace(attention=attention, device=device) not in own:
            continue
        others = {name: {getattr(one, name) for one in own} for name in ("attention_mask", "use_cache", "cache")}
        for dtype, autocast in {(one.dtype, one.autocast) for one in own}:
            yield {
                **row,
                **{name: tuple(values) for name, values in others.items()},
                **({} if base.cache is None else {name: VALUES[name] for name in ("past", "reordered")}),
                "attention": (attention,),
                "device": (device,),
                "dtype": DTYPES if autocast is None else ("float32",) if dtype == "float32" else LOWER,
                "autocast": (None,) if autocast is None else LOWER,
            }


def steps(base: Setting, families: Sequence[Family], head: str = CAUSAL) -> Iterator[Step]:
    """The steps by which programs are compared with the module."""
    plain = Step(families[0].model_type, base.dtype, procedure=Train() if base.trains else Prefill(), head=head)
    autocasts = [(dtype, "bfloat16", device) for dtype in ("float32", "bfloat16") for device in (CPU, GPU)]
    on_gpu = () if _alike(families) else (GPU,)
    if base.cache is not None:
        dynamic = CachedTokens(base.cache, 0, 0)
        for attention in ATTENTIONS:
            own = plain._replace(attention=attention, cached=dynamic)
            for device in (CPU, *on_gpu):
                yield own._replace(device=device)
                for implementation in ("static", "quantized"):
                    yield own._replace(device=device, cached=dynamic._replace(implementation=implementation))
            yield from (own._replace(dtype=d, autocast=a, device=on) for d, a, on in autocasts)
        return
    given = plain._replace(packing=base.packing, attention_mask=base.attention_mask)
    attentions: tuple[Attention, ...] = (*ATTENTIONS, "flash")
    for attention in attentions:
        for device in (CPU, *on_gpu) if attention != "flash" else (GPU,):
            own = given._replace(attention=attention, device=device)
            yield own
            yield own._replace(use_cache=True)
            if not base.packing and not base.attention_mask:
                yield own._replace(attention_mask=True)
        for dtype, autocast, device in autocasts:
            if device is GPU or attention != "flash":
                yield given._replace(attention=attention, dtype=dtype, autocast=autocast, device=device)


def of_lengths(step: Step, family: Family, raw: dict[str, Any], batch: int, seq: int) -> Step:
    """The step for a config's model, a batch and a sequence, with what follows from the sliding window."""
    window = family.window_of(family.config(raw))
    step = step._replace(window_reached=window is not None and whole(step.rows(batch, seq)[1]) >= window)
    if step.cached is None:
        return step
    new = 3 if window is None or seq >= window else window - seq + 3
    block = {"max_new_tokens": new, "cache_implementation": step.cached.implementation}
    options = GenerateOptions.model_validate(block)
    return step._replace(cached=None, procedure=Generate(options, window))


def agrees(programs: Sequence[Family], live: HuggingFaceModel, batch: int, seq: int, step: Step) -> bool:
    """Whether the programs do what the module does in a step."""
    try:
        theirs = _ran(config_of(live.raw, live), step, batch, seq)
        ours = _ran(shipped_config(programs, live.raw, live.where), step, batch, seq)
    except InputError:
        return False
    exact = not isinstance(step.procedure, Generate) and not step.use_cache and step.attention != "flash"
    return ours[0] == theirs[0] and (not exact or ours[1:] == theirs[1:])


def _ran(config: Config, step: Step, batch: int, seq: int) -> tuple[Any, ...]:
    """The totals of a step, and the bytes of each allocation and release, which are negative."""
    events = Events()
    ledger = step.ledger(unrolled=True, events=events)
    step = step._replace(num_labels=config.num_labels)
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
