"""One program of expressions from recordings at several sizes, compared with fresh recordings at others."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers

from ...errors import InputError
from ...programs.attention_functions import WIDE
from ...programs.config_values import structural
from ...programs.expressions import names
from ...programs.family import ONES, Family
from ...programs.program import Program
from ...programs.setting import DTYPES, Settings, merged
from ...programs.substitution import without_sources
from .. import config_reads
from ..fit import Recording, fit, symbols_of
from ..hugging_face import HuggingFaceModel
from ..kinds import examples, smallest
from ..lifting import lifted
from ..loops import rolled
from .configs import WINDOWS, class_config, foreign_keys, model_of, resolved_keys
from .draws import CHECKS, DRAWS, program_of, recorded_draw
from .keys import definitions
from .orders import in_order, needs_every_kind, signs_of, useful_orders, with_orders
from .structure import Structure


class Coincidence(InputError):
    """A program differs from a fresh recording."""


class NotOne(InputError):
    """Recordings at several sizes are not of one structure."""


def record_family(
    found: Structure, lists: Mapping[str, Any], defaults: Mapping[str, Any], rng: random.Random
) -> Family:
    """The program of a case. Raises ``InputError`` where there is none for all draws."""
    with config_reads.noted() as reads:
        family = _fitted(found, lists, defaults, rng)
    return replace(family, recorded={**family.recorded, **foreign_keys(reads, found.raw, family.harmless)})


def _fitted(found: Structure, lists: Mapping[str, Any], defaults: Mapping[str, Any], rng: random.Random) -> Family:
    raw, case = found.raw, found.case
    map_ = dict(class_config(raw).attribute_map)
    recordings: list[Recording] = []
    kinds, orders, every_kind = None, None, None
    rates = {key: [float((i + 1) >> n & 1) for n in range(DRAWS)] for i, key in enumerate(found.rates)}
    for n in range(DRAWS):
        own = replace(found, raw={**raw, **{key: values[n] / 10 for key, values in rates.items()}})
        draw, program = recorded_draw(own, rng, depth=found.depth + rng.randint(0, 3) if found.depth_is_size else 0)
        program = lifted(program, far=found.chosen_by == 1)
        least, learnt = smallest(program, examples(program, signs_of(draw.raw, lists, found.layers)))
        if orders is None:
            every_kind = needs_every_kind(own, draw, least, learnt, lists)
            orders = list(useful_orders(own, draw, least, learnt, lists))
        least, learnt = with_orders(own, draw, least, learnt, lists, orders)
        if kinds is not None and learnt != kinds:
            raise InputError("the kinds of the layers differ between recordings of one structure")
        kinds = learnt
        recordings.append((draw.values, rolled(least)))
    assert kinds is not None
    assert orders is not None
    try:
        fitted = fit(recordings, rates)
    except InputError as error:
        if "of one structure" in str(error) and found.rates:  # another setting calls something else without dropout
            structure = {**found.structure, **{key: structural(resolved_keys(raw)[key]) for key in found.rates}}
            return _fitted(replace(found, structure=structure, rates=()), lists, defaults, rng)
        if "of one structure" in str(error) and not found.power:
            raise NotOne(str(error)) from None
        raise
    used = symbols_of(fitted)
    used |= {*"HIVKGDR", "chunks", "num_labels", *([found.chunk] if found.chunk else [])}
    symbols = {key: text for key, text in definitions(found).items() if key in used}
    unused = [name for key, text in definitions(found).items() if key not in symbols for name in names(text)]
    live = model_of(raw)
    family = Family(
        model_type=raw["model_type"],
        program=fitted,
        kinds=kinds,
        symbols=symbols,
        structure=found.structure,
        switches=found.switches,
        rates=found.rates,
        nulls=found.nulls,
        defaults=defaults,
        lists=lists,
        layers=found.layers,
        aliases={k: v for k, v in {**map_, **found.other_names}.items() if k != v},
        recorded={
            "transformers": transformers.__version__,
            "torch": str(torch.__version__).partition("+")[0],
            "default_attention": found.attention,
            **({} if live.supports_checkpointing else {"checkpointing": False}),
            **({"caches_in_checkpoints": True} if live.caches_in_checkpoints else {}),
            **({"position_axes": list(live.position_axes)} if live.position_axes else {}),
            **({"every_kind": True} if every_kind else {}),
        },
        tp_plan=live.tp_plan,
        settings=_settings(found, live),
        interfaces=case.interfaces,
        window=found.window and WINDOWS[found.window],
        beyond_window=case.beyond_window,
        chunk=found.chunk,
        whole_chunks=found.chunk is not None and case.whole_chunks,
        fixed=case.fixed,
        harmless=tuple(dict.fromkeys([*found.harmless, *unused])),
    )
    ones = (name for name in ONES if name not in ("T", "tiles", "grid", "high", "wide"))
    family = replace(family, ones=tuple(name for name in ones if _holds(found, rng, family, name)))
    if "G" in family.ones:
        family = _of_any_groups(family, found)
    if case.interfaces:
        family = _widened(found, rng, family)
    for i in range(CHECKS):
        others: dict[str, Any] = {
            key: not one.value if i == 0 else bool(rng.getrandbits(1)) for key, one in found.switches.items()
        }
        others |= {key: rng.getrandbits(1) / 10 for key in found.rates}
        changed = replace(found, raw={**raw, **others})
        draw, fresh = recorded_draw(changed, rng, depth=found.depth + 1 + i, tie=i == 1)
        others_ = [in_order(draw.raw, order, lists) for order in orders]
        for given, wanted in ((draw.raw, fresh), *((x, program_of(x, draw, changed)) for x in others_)):
            answered = family.at(given, draw.sizes, draw.setting.dtype)
            if not same(answered, wanted):
                apart = difference(answered, wanted)
                raise Coincidence(f"the program differs from a recording at other sizes: {apart}")
    changes: dict[str, Any] = {"reordered": True} if case.holds_cache else {"device": "cuda"}
    other = replace(found, case=case.on(**changes))
    if other.case != case and case.pasts != {None}:
        drawn = [recorded_draw(other, rng) for _ in range(2 if case.holds_cache else 1)]  # one pass's tokens, or two's
        if all(same(family.at(draw.raw, draw.sizes, draw.setting.dtype), fresh) for draw, fresh in drawn):
            family = replace(family, settings=merged([*family.settings, *_settings(other, live)]))
    return family


def _settings(found: Structure, live: HuggingFaceModel) -> tuple[Settings, ...]:
    """The settings of a case. Flash attention casts what is float32 before its kernel, so the program is the same."""
    rows: list[Settings] = []
    for one in found.case.settings:
        row: dict[str, tuple[Any, ...]] = {name: (value,) for name, value in one._asdict().items()}
        if one.attention == "flash" and one.autocast is None:
            row["dtype"] = DTYPES
        if live.experts is not None and one.experts_implementation is None:
            row["experts_implementation"] = (None, live.experts)
        rows.append(row)
    return merged(rows)


def _widened(found: Structure, rng: random.Random, family: Family) -> Family:
    """The family of heads of any size, where it is right for these."""
    narrow = f"D <= {WIDE}"
    other = replace(family, structure={key: x for key, x in family.structure.items() if key != narrow})
    return other if _is_right(other, replace(found, wide=not found.wide), rng) else family


def _is_right(family: Family, found: Structure, rng: random.Random) -> bool:
    """Whether the program is that of a fresh recording."""
    try:
        draw, fresh = recorded_draw(found, rng)
        return same(family.at(draw.raw, draw.sizes, draw.setting.dtype), fresh)
    except InputError:
        return False


def _of_any_groups(family: Family, found: Structure) -> Family:
    """The family of configs that may have one query head for each of the keys', too."""
    same = f"{found.heads} = {found.kv_heads}"
    return replace(family, structure={key: x for key, x in family.structure.items() if key != same})


def same(a: Program, b: Program) -> bool:
    """Whether programs are the same, whose recordings may have asked other tensors for a dtype that they share."""
    return without_sources(a) == without_sources(b)


def _holds(found: Structure, rng: random.Random, family: Family, one: str) -> bool:
    """Whether the program is right where a symbol is 1."""
    case = found.case
    if (
        one in case.fixed
        or (one == "K" and not found.grouped)
        or (one == "G" and (not found.grouped or not case.interfaces or bool(found.other_heads)))
        or (one == "chunks" and family.chunk is None)
        or (one == "S" and family.chunk is not None)
        or (one in ("S", "past") and found.window is not None and case.beyond_window)
        or (one == "past" and "prefill" not in case.pasts)
        or (one == "num_labels" and not case.classifies)
    ):
        return False
    try:
        draw, fresh = recorded_draw(found, rng, one=one)
        if one == "G":
            family = _of_any_groups(family, found)
        return same(replace(family, ones=(one,)).at(draw.raw, draw.sizes, draw.setting.dtype), fresh)
    except InputError:
        return False


def difference(a: Program, b: Program) -> str:
    """What differs first in two programs, in words."""
    for name in ("layers", "modules", "parameters", "buffers", "attributes", "before", "bodies", "after"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=False):
            if name == "bodies":
                for one, other in zip(x.events, y.events, strict=False):
                    if one != other:
                        return f"{one} for {other}"
            elif x != y:
                return f"{name}: {x} for {y}"
    return next((n for n in vars(b) if getattr(a, n, None) != getattr(b, n)), "its parts")
