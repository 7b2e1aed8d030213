"""For what a family's programs are recorded: settings, and what sizes must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...programs.family import Family
from ...programs.heads import CAUSAL
from ...programs.releases import NEWEST, is_before
from ...programs.setting import DTYPES, LOWER, Setting
from ..hugging_face import HuggingFaceModel
from .configs import KV_HEADS, chunk_key, resolved_keys, window_key


def of_dtypes(setting: Setting) -> tuple[Setting, ...]:
    """A setting in each dtype that its attention takes."""
    return tuple(setting._replace(dtype=dtype) for dtype in (LOWER if setting.attention == "flash" else DTYPES))


@dataclass(frozen=True)
class Case:
    """What a program is recorded for."""

    settings: tuple[Setting, ...] = of_dtypes(Setting())
    """Draws take one after another."""
    head: str = CAUSAL
    """What the model ends with."""
    interfaces: bool = False
    """As ``Family.interfaces``: the program is for all attentions, masks and caches."""
    cached: bool = True
    """The model of such a program is given a cache."""
    beyond_window: bool | None = False
    """As ``Family.beyond_window``."""
    whole_chunks: bool = False
    """As ``Family.whole_chunks``."""
    fixed: tuple[str, ...] = ()
    """Symbols that are 1, of ``ONES``."""

    def __str__(self) -> str:
        first = self.settings[0]
        return f"{first.task} in all settings" if self.interfaces else str(first)

    @property
    def holds_cache(self) -> bool:
        """As ``Family.holds_cache``."""
        return not self.interfaces and self.settings[0].cache is not None

    @property
    def pasts(self) -> frozenset[str | None]:
        """``Setting.past`` of the settings, where the program holds the cache."""
        return frozenset(one.past for one in self.settings if self.holds_cache)

    @property
    def classifies(self) -> bool:
        """Whether the model gives numbers for labels."""
        return self.head.endswith("-classification")

    def on(self, **changes: Any) -> Case:
        """The case with other values of its settings' fields."""
        return replace(self, settings=tuple(one._replace(**changes) for one in self.settings))


def cases_of(raw: Mapping[str, Any]) -> list[Case]:
    """The cases that programs are shipped for: a batch of one and more, a sequence of one, on either side of the
    sliding window, for training and for one pass of inference; those of longer sequences with the package flash-attn,
    too, and in training under autocast. Of the newest release, training with eager attention and with a padding mask,
    too, and the passes of ``generate``.
    """
    config = resolved_keys(raw)
    windows = (False, True) if window_key(config) else (False,)
    rows = rows_of(chunk_key(config) is not None)
    heads = ("K",) if any(config.get(key) == 1 for key in KV_HEADS) else ()
    live = HuggingFaceModel(raw, "the config")
    train = Setting(attention=live.attention)
    infer = train._replace(trains=False)
    every = [
        Case(fixed=(*one, *heads), beyond_window=beyond, whole_chunks=whole)
        for beyond in windows
        for one, whole in rows
        if not (beyond and "S" in one)
    ]
    many = [one for one in every if "S" not in one.fixed]

    def cases(settings: tuple[Setting, ...], sizes: Sequence[Case] = many) -> list[Case]:
        return [replace(one, settings=settings) for one in sizes]

    def flash(setting: Setting) -> Setting:
        return setting._replace(attention="flash", device="cuda")

    def autocast(setting: Setting) -> list[Case]:
        own = tuple(setting._replace(dtype=dtype, autocast=dtype) for dtype in LOWER)
        return cases(own) + cases((setting._replace(dtype="float32", autocast="bfloat16"),))

    found = cases(of_dtypes(train), every) + cases(of_dtypes(infer), every)
    found += cases(of_dtypes(flash(train))) + cases(of_dtypes(flash(infer)))
    if is_before("5"):  # whose caches are others
        found += autocast(train) + autocast(flash(train))
        if live.caches_in_checkpoints:
            cached = train._replace(use_cache=True)
            found += cases(of_dtypes(cached), every) + cases(of_dtypes(flash(cached)))
            found += autocast(cached) + autocast(flash(cached))
        return found
    padded = train._replace(attention_mask=True)
    found += cases(of_dtypes(train._replace(attention="eager")))
    found += autocast(train) + autocast(padded) + cases(of_dtypes(padded))
    prefill = of_dtypes(infer._replace(use_cache=True, cache="dynamic"))
    decode = tuple(one._replace(past=past) for one in prefill for past in ("prefill", "decode"))
    for beyond in windows:
        sizes = [one for one in every if one.beyond_window == beyond]
        found += cases(prefill, sorted(sizes, key=lambda one: "S" in one.fixed))
        found += [
            Case(decode, fixed=(*one, *heads), beyond_window=beyond) for one, whole in rows if "S" in one and not whole
        ]
    return found


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


_GENERATE = Setting(trains=False, use_cache=True, cache="dynamic")
BASES = (
    *(Setting(), Setting(attention_mask=True), Setting(packing=True)),
    *(Setting(trains=False), Setting(trains=False, attention_mask=True), _GENERATE),
)
"""What programs for all attentions, masks and caches are recorded of: a training step, a forward pass and one of
``generate``. Those with a padding mask are of models that use it for more than the mask of attention."""

DECODES = _GENERATE._replace(device="cuda", past="decode", experts_implementation="batched_mm")
"""A pass of ``generate`` over one token on a GPU, of a model whose experts run together in other passes
(``_optimize_model_for_decode``)."""

BASES_OF_HEADS = (Setting(), Setting(trains=False))
"""The same of models with another head than a causal language model's."""


def covers(family: Family, case: Case) -> bool:
    """Whether a program is one for another case, too."""
    same = family.beyond_window == case.beyond_window
    same = same and (family.chunk is None or family.whole_chunks == case.whole_chunks)
    return same and {*case.fixed} <= {*family.ones, *family.fixed} and all(map(family.serves, case.settings))
