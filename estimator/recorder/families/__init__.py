"""Records a family's program: one for all configs of a structure, from recordings at random sizes. Needs PyTorch.

Which keys of the config are sizes is found by trying: a key whose change changes shapes alone is a symbol, one whose
change changes the calls belongs to the structure, and one that changes nothing does not matter. The result is compared
with fresh recordings at other sizes and another depth, event by event. What differs is refused.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...operators import CPU, Cuda
from ...programs.family import Family
from ...programs.program_files import read, written
from ...programs.shipped import is_served
from ...programs.step import Part
from .. import config_reads
from ..agreement import settings_served
from .classes import structure_of
from .configs import KV_HEADS, class_config, foreign_keys, resolved_keys
from .draws import drawn_config
from .fitting import Coincidence, NotOne, record_family
from .settings import PARTS, Setting, asked, covers, has_interfaces, rows_of, settings_of
from .structure import DERIVED, Structure

__all__ = [
    "PARTS",
    "Setting",
    "asked",
    "has_interfaces",
    "record",
    "record_families",
    "record_for_all_settings",
    "settings_of",
]


def record(raw: Mapping[str, Any], settings: Sequence[Setting] | None = None) -> dict[Setting, Family | InputError]:
    """The programs of a config's structure, or why there is none. Needs PyTorch.

    ``settings``, by default those that programs are shipped for, have programs of their own where those for all
    settings do not serve them.
    """
    found: dict[Setting, Family | InputError] = {}
    if has_interfaces():
        found = record_for_all_settings(raw)
    families = [one for one in found.values() if isinstance(one, Family)]
    dtype = families[0].program.dtype if families else ""
    alone = [
        setting
        for setting in (settings_of(raw) if settings is None else settings)
        if not families or not is_served(asked(setting, families[0]), setting.dtype or dtype, families)
    ]
    found = (found if families else {}) | record_families(raw, alone)
    return {setting: one if isinstance(one, InputError) else _readable(one) for setting, one in found.items()}


def _readable(family: Family) -> Family | InputError:
    """The family, or why it cannot be read from a file."""
    try:
        read(written(family), "the program")
    except InputError as error:
        return error
    return family


def record_for_all_settings(raw: Mapping[str, Any], seed: int = 0) -> dict[Setting, Family | InputError]:
    """The programs of a structure whose attention, masks and cache are calls that the setting decides.

    They are left out where they do what the module does in no setting.
    """
    heads = ("K",) if any(resolved_keys(raw).get(key) == 1 for key in KV_HEADS) else ()
    made: dict[Setting, Family | InputError] = {}
    try:
        structure = structure_of(raw, Setting(fixed=heads), random.Random(seed), False, groups=True)
    except InputError as error:
        return {Setting(part=part): error for part in PARTS if not part.endswith("padded")}
    chunked = structure[0].chunk is not None  # such layers have a cache of their own
    served: dict[Part, list[str]] = {}
    for part in PARTS:
        if chunked and part == "generate":
            continue
        if part.endswith("padded") and not _is_missing_padding(served.get(_UNPADDED[part], [])):
            continue
        for cached in (True,) if part == "generate" else (False,) if chunked else (True, False):
            first = Setting(part=part, fixed=heads, beyond_window=None, cached=cached)
            try:
                families = _of_part(structure, first, seed)
                draw = _sampled(structure[0], heads, random.Random(seed + 3))
                with config_reads.noted() as reads:
                    settings = settings_served(list(families.values()), part, draw)
            except InputError as error:
                made[replace(first, cached=True)] = error
                continue
            if not settings:
                made[replace(first, cached=True)] = InputError(
                    "no setting is one for which the rules of attention and masks do what the module does"
                )
            else:
                served[part] = settings
                made.pop(replace(first, cached=True), None)
                made |= {
                    setting: replace(
                        family,
                        recorded={
                            **family.recorded,
                            "settings": settings,
                            "reads": sorted({*family.recorded["reads"], *foreign_keys(reads, class_config(raw))}),
                        },
                    )
                    for setting, family in families.items()
                }
                break
    return made


_UNPADDED: dict[Part, Part] = {"train padded": "train", "infer padded": "infer"}


def _is_missing_padding(settings: Sequence[str]) -> bool:
    """Whether programs of a part serve settings, and none of them with a padding mask."""
    return bool(settings) and not any(word.endswith(", attention_mask") for word in settings)


def _of_part(
    structure: tuple[Structure, dict[str, Any], dict[str, Any]], first: Setting, seed: int
) -> dict[Setting, Family]:
    """The programs of a part: for all sequences and both devices, or one for each kind that makes other calls."""
    found, lists, defaults = structure
    families: dict[Setting, Family] = {}
    for fixed, whole in rows_of(found.chunk is not None):
        for device in (CPU, Cuda()):
            setting = replace(first, fixed=(*fixed, *first.fixed), whole_chunks=whole, device=device)
            if any(
                covers(one, replace(other, device=device) if one.recorded["device"] == "any" else other, setting)
                for other, one in families.items()
            ):
                continue
            families[setting] = record_family(_of_setting(found, setting), lists, defaults, random.Random(seed + 1))
    return families


def _sampled(
    found: Structure, heads: tuple[str, ...], rng: random.Random
) -> Callable[[bool, bool], tuple[dict[str, Any], int, int]]:
    """A function that draws a config, a batch and a sequence: beyond the window or not, and of one row or more."""

    def draw(beyond_window: bool, one_row: bool) -> tuple[dict[str, Any], int, int]:
        setting = Setting(beyond_window=beyond_window, fixed=(*heads, *(("B",) if one_row else ())))
        drawn = drawn_config(
            replace(found, setting=setting, step=max(found.step, 4)), rng, found.depth
        )  # as flash-attn asks
        return drawn.raw, drawn.batch, drawn.seq

    return draw


def record_families(
    raw: Mapping[str, Any], settings: Sequence[Setting], seed: int = 0
) -> dict[Setting, Family | InputError]:
    """The programs of a structure in several settings, or why there is none. The first setting sorts the config's keys.

    A setting that an earlier program answers is left out: a batch of one, where it makes the same calls. One that makes
    other calls on a GPU is recorded for that, too.
    """
    made: dict[Setting, Family | InputError] = {}
    structure: tuple[Structure, dict[str, Any], dict[str, Any]] | None = None
    waiting, powers = list(settings), (False, True)
    while waiting:
        setting = waiting.pop(0)
        if structure is not None and setting.attention == structure[0].attention:
            setting = replace(setting, attention=None)
        if structure is not None and structure[0].chunk is None:
            setting = replace(setting, whole_chunks=False, fixed=tuple(x for x in setting.fixed if x != "chunks"))
        if any(isinstance(one, Family) and covers(one, other, setting) for other, one in made.items()):
            continue
        for power in powers:
            try:
                if structure is None or structure[0].power < power:
                    structure = structure_of(raw, setting, random.Random(seed), power)
                found, lists, defaults = structure
                own = _of_setting(found, setting)
                try:
                    one = record_family(own, lists, defaults, random.Random(seed + 1))
                except Coincidence:  # a number was that of another size in all recordings
                    one = record_family(own, lists, defaults, random.Random(seed + 2))
                made[setting] = one
                if one.recorded["device"] == "cpu" and setting.generates is None:
                    waiting.insert(0, replace(setting, device=Cuda()))
            except InputError as error:
                made[setting] = error
                if isinstance(error, NotOne) and power < powers[-1]:
                    continue
                if setting.generates == "decode":
                    del made[setting]
                    waiting[:0] = [replace(setting, generates=pass_) for pass_ in ("first", "later")]
            break
    passes = {s.generates == "prefill" for s, one in made.items() if s.generates and isinstance(one, Family)}
    if len(passes) == 1:  # a call has both
        made = {s: one for s, one in made.items() if s.generates is None or isinstance(one, InputError)}
    return made


def _of_setting(found: Structure, setting: Setting) -> Structure:
    """What is known of a class, to be recorded in a setting. A cache's tokens count where the sequence does."""
    if setting.generates in (None, "prefill"):
        return replace(found, setting=setting)
    derived = {
        name: re.sub(r"\bS\b", "(past + S)", text) if name in dict(DERIVED) else text
        for name, text in found.derived.items()
    }
    return replace(found, setting=setting, derived=derived)
