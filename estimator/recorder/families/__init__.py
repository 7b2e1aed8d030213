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
from itertools import product
from typing import Any

from ...errors import InputError
from ...programs.family import Family
from ...programs.heads import CAUSAL
from ...programs.program_files import read, written
from ...programs.setting import VALUES, Setting, Settings, merged
from .. import config_reads
from ..agreement import settings_served
from ..hugging_face import HuggingFaceModel
from .cases import (
    BASES,
    BASES_OF_HEADS,
    DECODES,
    Case,
    cases_of,
    covers,
    has_interfaces,
    of_dtypes,
    rows_of,
)
from .classes import structure_of
from .configs import KV_HEADS, asked_in_vain, resolved_keys
from .draws import drawn_config
from .fitting import Coincidence, NotOne, record_family
from .structure import DERIVED, Structure

__all__ = [
    "Case",
    "cases_of",
    "has_interfaces",
    "record",
    "record_families",
    "record_for_all_settings",
]


def record(raw: Mapping[str, Any], cases: Sequence[Case] | None = None) -> dict[Case, Family | InputError]:
    """The programs of a config's structure, or why there is none. Needs PyTorch.

    ``cases``, by default those that programs are shipped for, have programs of their own where those for all settings
    do not serve them on both devices.
    """
    found = record_for_all_settings(raw) if has_interfaces() else {}
    families = [one for one in found.values() if isinstance(one, Family)]
    alone = [
        case
        for case in (cases_of(raw) if cases is None else cases)
        if not all(
            any(one.serves(setting) for one in families)
            for setting in (*case.settings, *case.on(device="cuda").settings)
        )
    ]
    found = (found if families else {}) | record_families(raw, alone)
    return {case: one if isinstance(one, InputError) else _readable(one) for case, one in found.items()}


def _readable(family: Family) -> Family | InputError:
    """The family, or why it cannot be read from a file."""
    try:
        read(written(family), "the program")
    except InputError as error:
        return error
    return family


def record_for_all_settings(
    raw: Mapping[str, Any], seed: int = 0, head: str = CAUSAL
) -> dict[Case, Family | InputError]:
    """The programs of a structure whose attention, masks and cache are calls that the setting decides.

    They are left out where they do what the module does in no setting.
    """
    heads = ("K",) if any(resolved_keys(raw).get(key) == 1 for key in KV_HEADS) else ()
    made: dict[Case, Family | InputError] = {}
    try:
        train = of_dtypes(Setting(attention=HuggingFaceModel(raw, "the config").attention))
        structure = structure_of(raw, Case(train, head, fixed=heads), random.Random(seed), False, groups=True)
        if head != CAUSAL:
            structure = _of_head(*structure)
    except InputError as error:
        return {Case((base,), interfaces=True): error for base in BASES if not base.attention_mask}
    chunked = structure[0].chunk is not None  # such layers have a cache of their own
    served: dict[Setting, tuple[Settings, ...]] = {}
    for base in BASES if head == CAUSAL else BASES_OF_HEADS:
        generates, unpadded = base.cache is not None, served.get(base._replace(attention_mask=False), ())
        if chunked and generates:
            continue
        if base.attention_mask and (not unpadded or any(True in one["attention_mask"] for one in unpadded)):
            continue
        for cached in (True,) if generates else (False,) if chunked else (True, False):
            first = Case(of_dtypes(base), head, interfaces=True, fixed=heads, beyond_window=None, cached=cached)
            try:
                families = _of_base(structure, first, seed)
                draw = _sampled(structure[0], heads, random.Random(seed + 3), head)
                with config_reads.noted() as reads:
                    settings = settings_served(list(families.values()), base, draw, head)
            except InputError as error:
                made[replace(first, cached=True)] = error
                continue
            if not settings:
                made[replace(first, cached=True)] = InputError(
                    "no setting is one for which the rules of attention and masks do what the module does"
                )
            else:
                served[base] = settings
                made.pop(replace(first, cached=True), None)
                for case, family in families.items():
                    known = sorted({*family.recorded["reads"], *asked_in_vain(reads)})
                    devices = family.settings[0]["device"]
                    own = merged({**one, "device": (on,)} for one in settings for on in one["device"] if on in devices)
                    made[case] = replace(family, settings=own, recorded={**family.recorded, "reads": known})
                break
    return made | _decoding(raw, structure, heads, [one for one in made.values() if isinstance(one, Family)], seed)


def _decoding(
    raw: Mapping[str, Any],
    structure: tuple[Structure, dict[str, Any], dict[str, Any]],
    heads: tuple[str, ...],
    known: Sequence[Family],
    seed: int,
) -> dict[Case, Family | InputError]:
    """The programs of a token's pass on a GPU, where it runs experts otherwise than the prompt's (``DECODES``).

    They serve what the others of ``generate`` serve: attention, masks and caches are the same calls.
    """
    served = [
        {**one, "past": ("prefill", "decode"), "experts_implementation": (DECODES.experts_implementation,)}
        for family in known
        for one in family.settings
        if one["cache"] != (None,) and DECODES.device in one["device"] and "grouped_mm" in one["experts_implementation"]
    ]
    families: dict[Case, Family | InputError] = {}
    if not served:
        return families
    reads = max((one.recorded["reads"] for one in known), key=len)
    own = merged({**one, "device": (DECODES.device,)} for one in served)
    for fixed in (("S",), ("B", "S")):
        case = Case(of_dtypes(DECODES), interfaces=True, fixed=(*fixed, *heads), beyond_window=None)
        if any(isinstance(one, Family) and covers(one, case) for one in families.values()):
            continue
        found, lists, defaults = structure
        try:
            family = record_family(_of_case(found, case), lists, defaults, random.Random(seed + 1))
        except InputError as error:
            families[case] = error
        else:
            families[case] = replace(family, settings=own, recorded={**family.recorded, "reads": reads})
    return families


def _of_head(
    found: Structure, lists: dict[str, Any], defaults: dict[str, Any]
) -> tuple[Structure, dict[str, Any], dict[str, Any]]:
    """What is known of a class, of a model that classifies. Its last token is found by the token of padding."""
    own = {"pad_token_id is given": True, "problem_type": None}
    pad = resolved_keys({"model_type": found.raw["model_type"]}).get("pad_token_id")
    given = {"num_labels": 2, **({} if pad is None else {"pad_token_id": pad})}
    return replace(found, structure={**found.structure, **own}), lists, {**defaults, **given}


def _of_encoder(
    found: Structure, lists: dict[str, Any], defaults: dict[str, Any], classifies: bool
) -> tuple[Structure, dict[str, Any], dict[str, Any]]:
    """What is known of an encoder: it looks both ways and its MLP is whole. The loss of one that classifies follows
    from its labels, and its dropout is the layers'.
    """
    own: dict[str, Any] = {"is_decoder": False, "chunk_size_feed_forward": 0}
    if classifies:
        heads = {"problem_type": None}
        if resolved_keys(found.raw).get("classifier_dropout") is None:
            heads["classifier_dropout"] = None
        return (
            replace(found, structure={**found.structure, **own, **heads}),
            lists,
            {**defaults, **own, "num_labels": 2},
        )
    return replace(found, structure={**found.structure, **own}), lists, {**defaults, **own}


def _of_base(structure: tuple[Structure, dict[str, Any], dict[str, Any]], first: Case, seed: int) -> dict[Case, Family]:
    """The programs for all sequences and both devices, or one for each kind that makes other calls."""
    found, lists, defaults = structure
    families: dict[Case, Family] = {}
    for fixed, whole in rows_of(found.chunk is not None):
        for device, labels in product(VALUES["device"], ((), ("num_labels",)) if first.classifies else ((),)):
            case = replace(first.on(device=device), fixed=(*fixed, *labels, *first.fixed), whole_chunks=whole)
            if not any(covers(one, case) for one in families.values()):
                families[case] = record_family(_of_case(found, case), lists, defaults, random.Random(seed + 1))
    return families


def _sampled(
    found: Structure, heads: tuple[str, ...], rng: random.Random, head: str
) -> Callable[[bool, bool], tuple[dict[str, Any], int, int]]:
    """A function that draws a config, a batch and a sequence: beyond the window or not, and of one row or more."""

    def draw(beyond_window: bool, one_row: bool) -> tuple[dict[str, Any], int, int]:
        case = replace(found.case, head=head, beyond_window=beyond_window, fixed=(*heads, *(("B",) if one_row else ())))
        drawn = drawn_config(replace(found, case=case, step=max(found.step, 4)), rng, found.depth)  # as flash-attn asks
        return drawn.raw, drawn.batch, drawn.seq

    return draw


def record_families(raw: Mapping[str, Any], cases: Sequence[Case], seed: int = 0) -> dict[Case, Family | InputError]:
    """The programs of a structure in several cases, or why there is none. The first case sorts the config's keys.

    A case that an earlier program is for is left out: a batch of one, where it makes the same calls. One that makes
    other calls on a GPU is recorded for that, too.
    """
    made: dict[Case, Family | InputError] = {}
    structure: tuple[Structure, dict[str, Any], dict[str, Any]] | None = None
    waiting, powers = list(cases), (False, True)
    while waiting:
        case = waiting.pop(0)
        if structure is not None and structure[0].chunk is None:
            case = replace(case, whole_chunks=False, fixed=tuple(x for x in case.fixed if x != "chunks"))
        if any(isinstance(one, Family) and covers(one, case) for one in made.values()):
            continue
        for power in powers:
            try:
                if structure is None or structure[0].power < power:
                    structure = structure_of(raw, case, random.Random(seed), power)
                if case.head != CAUSAL:
                    structure = _of_encoder(*structure, case.classifies)
                found, lists, defaults = structure
                own = _of_case(found, case)
                try:
                    one = record_family(own, lists, defaults, random.Random(seed + 1))
                except Coincidence:  # a number was that of another size in all recordings
                    one = record_family(own, lists, defaults, random.Random(seed + 2))
                made[case] = one
                on_cuda = case.on(device="cuda")
                if not case.holds_cache and not all(map(one.serves, on_cuda.settings)):
                    waiting.insert(0, on_cuda)
            except InputError as error:
                made[case] = error
                if isinstance(error, NotOne) and power < powers[-1]:
                    continue
                if len(case.pasts) > 1:
                    del made[case]
                    split = (tuple(x for x in case.settings if x.past == past) for past in ("prefill", "decode"))
                    waiting[:0] = [replace(case, settings=settings) for settings in split]
            break
    passes = {case.pasts == {None} for case, one in made.items() if case.holds_cache and isinstance(one, Family)}
    if len(passes) == 1:  # a call has both
        made = {case: one for case, one in made.items() if not case.holds_cache or isinstance(one, InputError)}
    return made


def _of_case(found: Structure, case: Case) -> Structure:
    """What is known of a class, to be recorded in a case. A cache's tokens count where the sequence does."""
    if case.pasts <= {None}:
        return replace(found, case=case)
    derived = {
        name: re.sub(r"\bS\b", "(past + S)", text) if name in dict(DERIVED) else text
        for name, text in found.derived.items()
    }
    return replace(found, case=case, derived=derived)
