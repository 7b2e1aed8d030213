"""In which settings a family's programs are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from ...operators import CPU, Cuda, Device
from ...programs.family import Family
from ...programs.releases import NEWEST, is_before
from ...programs.step import Part
from ...programs.substitution import DTYPE
from .configs import KV_HEADS, chunk_key, resolved_keys, window_key

DTYPES = ("bfloat16", "float32", "float16")


LOWER = ("bfloat16", "float16")
"""Those of autocast, and those that the package flash-attn takes."""


@dataclass(frozen=True)
class Setting:
    """How a program is recorded."""

    dtype: str | None = None
    """``None``: a program for all of ``DTYPES``."""
    attention: str | None = None
    """``None``: what transformers picks for the class."""
    trains: bool = True
    autocast: str | None = None
    """``DTYPE``: the model's, of 16 bits."""
    attention_mask: bool = False
    use_cache: bool = False
    device: Device = CPU
    beyond_window: bool | None = False
    """Sequences are at least as long as the sliding window."""
    whole_chunks: bool = False
    """Sequences are a multiple of the chunks of state-space layers."""
    fixed: tuple[str, ...] = ()
    """Symbols that are 1, of ``ONES``."""
    part: Part | None = None
    """Of what a program for several settings is recorded; ``None`` for one of this setting alone."""
    cached: bool = True
    """The model of such a program is given a cache."""
    generates: str | None = None
    """The pass of ``generate`` with a dynamic cache: ``prefill``; the ``first`` after it; one that is ``later``; or
    ``decode``, either of these. ``None``: one pass without a cache."""


_AUTOCAST: tuple[tuple[str | None, str | None], ...] = ((DTYPE, None), ("bfloat16", "float32"))
"""Autocast and the model's dtype: both of 16 bits, or the model in float32."""


def settings_of(raw: Mapping[str, Any]) -> list[Setting]:
    """The settings that a program is shipped for: a batch of one and more, a sequence of one, on either side of the
    sliding window, for training and for one pass of inference; those of longer sequences with the package flash-attn,
    too, and in training under autocast. Of the newest release, training with eager attention and with a padding mask,
    too, and the passes of ``generate``.
    """
    config = resolved_keys(raw)
    windows = (False, True) if window_key(config) else (False,)
    rows = rows_of(chunk_key(config) is not None)
    heads = ("K",) if any(config.get(key) == 1 for key in KV_HEADS) else ()
    found = [
        Setting(trains=trains, fixed=(*one, *heads), beyond_window=beyond, whole_chunks=whole)
        for trains in (True, False)
        for beyond in windows
        for one, whole in rows
        if not (beyond and "S" in one)
    ]
    many = [one for one in found if "S" not in one.fixed]
    found += [replace(one, attention="flash", device=Cuda()) for one in many]
    if is_before("5"):  # whose caches are others
        return found + [
            replace(one, attention=attention, autocast=autocast, dtype=dtype, device=device)
            for attention, device in ((None, CPU), ("flash", Cuda()))
            for autocast, dtype in _AUTOCAST
            for one in many
            if one.trains
        ]
    trained = [one for one in many if one.trains]
    found += [replace(one, attention="eager") for one in trained]
    found += [
        replace(one, autocast=autocast, dtype=dtype, attention_mask=mask)
        for mask in (False, True)
        for autocast, dtype in (*_AUTOCAST, *(((None, None),) if mask else ()))
        for one in trained
    ]
    passes = [("prefill", whole, one) for one, whole in rows if "S" not in one]
    passes += [(pass_, False, one) for pass_ in ("prefill", "decode") for one, _ in rows if "S" in one]
    return found + [
        Setting(trains=False, fixed=(*one, *heads), beyond_window=beyond, whole_chunks=whole, generates=pass_)
        for beyond in windows
        for pass_, whole, one in passes
        if not (beyond and "S" in one and pass_ == "prefill")
    ]


def rows_of(chunked: bool) -> list[tuple[tuple[str, ...], bool]]:
    """Rows of tokens for which a model may make other calls: the symbols that are 1, of ``ONES``, and whether sequences
    are a multiple of the chunks, of layers that cut a sequence into chunks.
    """
    if not chunked:
        return [((), False), (("B",), False), (("S",), False), (("B", "S"), False)]
    long: list[tuple[str, ...]] = [(), ("B",), ("chunks",), ("B", "chunks")]
    short = [("S", "chunks"), ("B", "S", "chunks")]
    return [*((one, False) for one in (*long, *short)), *((one, True) for one in long)]


def has_interfaces() -> bool:
    """Whether the installed transformers has attention, masks and caches as functions that the setting decides."""
    return not is_before(NEWEST)


def asked(setting: Setting, family: Family) -> dict[str, Any]:
    """What a step in a setting asks of a recording of a family (``setting_of``)."""
    generates = setting.generates is not None
    return {
        "attention": setting.attention or family.recorded["default_attention"],
        "trains": setting.trains,
        "autocast": setting.autocast,
        "attention_mask": setting.attention_mask,
        "use_cache": setting.use_cache,
        "device": "any",
        **({"cache": "dynamic"} if generates else {}),
    }


PARTS: tuple[Part, ...] = get_args(Part)


def covers(family: Family, recorded: Setting, wanted: Setting) -> bool:
    """Whether a program that was recorded in one setting is one for another, too."""
    ones = {*family.ones, *family.fixed}
    alike = replace(recorded, fixed=wanted.fixed)
    if family.chunk is None:
        alike = replace(alike, whole_chunks=wanted.whole_chunks)
    return alike == wanted and set(wanted.fixed) <= ones
