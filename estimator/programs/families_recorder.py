"""Records a family's program: one for all configs of a structure, from recordings at random sizes. Needs PyTorch.

Which keys of the config are sizes is found by trying: a key whose change changes shapes alone is a symbol, one whose
change changes the calls belongs to the structure, and one that changes nothing does not matter. The result is compared
with fresh recordings at other sizes and another depth, event by event. What differs is refused.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers

from ..errors import InputError
from ..ledger import whole
from ..operators import CPU, Cuda, Device
from . import config_reads
from .attention import WIDE
from .depth import Kinds, SeveralKinds, Signature, examples, extended, smallest
from .expressions import evaluate, names
from .family import (
    DENSE_FIRST,
    DEPTH_KEYS,
    EVERY,
    GENERATION,
    IGNORED,
    INDEX_KEYS,
    ONES,
    SHARING,
    STATIC_ROPE,
    Family,
    Switch,
    default_list,
    letters_of,
    number_of,
    one_for_all,
    runs,
    signatures,
    structural,
    switch,
    with_rope,
)
from .fit import DTYPE, Recording, fit, same_but_rate, same_calls, symbols_of, without_sources
from .live import Live
from .program import Program, layer_numbers
from .releases import NEWEST, is_before
from .repeats import rolled
from .shared import lifted
from .shipped import setting_of
from .step import CachedTokens, Part, Step

_ROLES = {
    "I": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "V": ("vocab_size",),
    "D": ("head_dim",),
}
_KV_HEADS = ("num_key_value_heads", "num_kv_heads")
_KV_HEADS_OF = "_key_value_heads"
"""What the name of a key ends with that says how many heads of keys and values some layers have."""
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_QUOTIENTS = (
    ("n_routed_experts", "n_group", "experts_per_group"),
    ("mamba_n_heads", "mamba_n_groups", "heads_per_group"),
    ("mamba_num_heads", "n_groups", "heads_per_group"),
    ("linear_num_value_heads", "linear_num_key_heads", "value_heads_per_key_head"),
)
"""Keys that are multiples of others, and the name of the quotient."""
_DERIVED = (
    ("selected", "min(index_topk, S)"),
    (
        "ff_dim",
        "block_multiple_of * int((int(block_ffn_dim_multiplier * int(2 * intermediate_size / 3)) + block_multiple_of"
        " - 1) / block_multiple_of)",
    ),
)
"""Sizes that follow from keys and the sequence by more than a polynomial, as the modelling files compute them."""
_DENSE_ONES = "mlp_only_layers"
"""The key that lists the layers without experts."""
_SHARED = ("mamba_expand", "mamba_n_heads", "mamba_d_head")
"""Keys that only change together: the expanded hidden size is that of all heads."""
_CHUNKS = {"mamba_d_state": "mamba_chunk_size", "ssm_state_size": "chunk_size", "linear_key_head_dim": "64"}
"""For the size of a state, the size of the chunks that such layers cut the sequence into."""
_ROPE = {"default", "linear", "llama3", "yarn", "proportional", "longrope", "dynamic", "dynamic with alpha"}
"""The kinds of rotary embeddings that make the same calls at all lengths (``modeling_rope_utils.py``), ``dynamic`` to
``_LONGEST``."""
_LONGEST = "max_position_embeddings"
_ANY_ROPE = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
DRAWS, CHECKS = 5, 2
DTYPES = ("bfloat16", "float32", "float16")
LOWER = ("bfloat16", "float16")
"""Those of autocast, and those that the package flash-attn takes."""


Serves = Callable[[Sequence[Family], Part, Callable[[bool, bool], tuple[dict[str, Any], int, int]]], list[str]]
"""From the programs of a part, and what draws a config, a batch and a sequence, the settings in which they are right
(``shipped.words_of``)."""


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


@dataclass
class _Draw:
    raw: dict[str, Any]
    values: dict[str, int]
    batch: int
    seq: int
    dtype: str
    cached: CachedTokens | None
    window: int | None

    @property
    def sizes(self) -> dict[str, int]:
        """The values that a question gives, not the config."""
        return {"B": self.batch, "S": self.seq, **_numbers(self.cached, self.window)}


def _numbers(cached: CachedTokens | None, window: int | None) -> dict[str, int]:
    """The sizes of a cache, which are numbers in a recording."""
    return {} if cached is None else {name: whole(size) for name, size in cached.sizes(window).items()}


@dataclass
class _Structure:
    """What is known of a config's class."""

    raw: dict[str, Any]
    setting: Setting
    layers: str = ""
    """As ``Family.layers``."""
    letters: dict[str, Any] | None = None
    """The rule of that list, where a text has a letter for each entry (``Family.lists``)."""
    depth: int = 4
    depth_is_size: bool = False
    """Something outside the layers has a size that follows from their number."""
    roles: dict[str, str] = field(default_factory=dict)
    """The key of each letter."""
    heads: str = ""
    kv_heads: str | None = None
    grouped: bool = False
    other_heads: list[str] = field(default_factory=list)
    """Keys of how many heads of keys and values other layers have."""
    tied_to_hidden: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    """Keys that are symbols under their own names."""
    structure: dict[str, Any] = field(default_factory=dict)
    switches: dict[str, Switch] = field(default_factory=dict)
    """As ``Family.switches``. ``raw`` has the value of each at which a model has more parameters."""
    rates: tuple[str, ...] = ()
    """As ``Family.rates``."""
    nulls: dict[str, str] = field(default_factory=dict)
    """As ``Family.nulls``."""
    partial: bool = False
    rotary: int | None = None
    """What of a head is rotated, where the config cuts that into sections."""
    window: str | None = None
    turn: Iterator[int] = field(default_factory=itertools.count)
    sides: Iterator[int] = field(default_factory=itertools.count)
    step: int = 1
    """What sizes are multiples of: kernels of experts want rows of 16 bytes."""
    latent: bool = False
    """Attention is DeepSeek's, whose heads have several sizes, each a key of its own."""
    wide: bool = False
    """Heads are larger than ``WIDE``, so the module repeats keys and values."""
    harmless: list[str] = field(default_factory=list)
    """Keys that change nothing."""
    power: bool = False
    """The number of heads is a power of two."""
    runs: dict[str, str] = field(default_factory=dict)
    """For keys with an entry per layer, the key that says it in runs (``family.runs``)."""
    derived: dict[str, str] = field(default_factory=dict)
    """Of ``_DERIVED``, those whose keys the config has."""
    pattern: list[int] = field(default_factory=list)
    """For each layer of a recording, the layer of the config whose entries in lists it has."""
    lists: list[str] = field(default_factory=list)
    """Keys with an entry per layer."""
    chosen: list[int] = field(default_factory=list)
    """Where layers share others' keys and values: the layers of the config that a recording has at least."""
    attention: str = ""
    """What transformers picks for the class."""
    chunk: str | None = None
    """As ``Family.chunk``."""
    other_names: dict[str, str] = field(default_factory=dict)
    """Keys that the class takes for others."""
    passes: Iterator[int] = field(default_factory=itertools.count)
    """Of the tokens in a cache, one forward pass made all or two did, by turns."""
    reorders: bool = False
    """Beam search copies the cache."""


def _config(raw: Mapping[str, Any]) -> Any:
    return Live(raw, "the config").config


def _program(raw: Mapping[str, Any], draw: _Draw, found: _Structure) -> Program:
    setting = found.setting
    if setting.part is not None:
        return Live(raw, "the config").of_all_settings(
            setting.part, draw.dtype, draw.batch, draw.seq, setting.device.type, setting.cached
        )
    return Live(raw, "the config").at(_step(found, draw.dtype, draw.cached), draw.batch, draw.seq)


def _step(found: _Structure, dtype: str, cached: CachedTokens | None) -> Step:
    setting = found.setting
    attention: Any = setting.attention or found.attention
    return Step(
        family=str(found.raw["model_type"]),
        dtype=dtype,
        autocast=dtype if setting.autocast == DTYPE else setting.autocast,
        attention=attention,
        attention_mask=setting.attention_mask,
        use_cache=setting.use_cache,
        device=setting.device,
        procedure="backpropagation" if setting.trains else "inference",
        cached=cached,
    )


def _window(config: Mapping[str, Any]) -> str | None:
    """The key of the sliding window or of the chunks within which tokens attend."""
    return next((key for key in ("sliding_window", "attention_chunk_size") if config.get(key)), None)


def _chunk(config: Mapping[str, Any]) -> str | None:
    """The size of the chunks of state-space layers, as ``Family.chunk``."""
    return next((size for key, size in _CHUNKS.items() if type(config.get(key)) is int), None)


def _resolved(raw: Mapping[str, Any]) -> dict[str, Any]:
    config = dict(_config(raw).to_dict())
    return config | {key: one_for_all(config[key]) for key in _ROLES["I"] if key in config}


def settings_of(raw: Mapping[str, Any]) -> list[Setting]:
    """The settings that a program is shipped for: a batch of one and more, a sequence of one, on either side of the
    sliding window, for training and for one pass of inference; those of longer sequences with the package flash-attn,
    too. Of an earlier release, training under autocast; of the newest, the passes of ``generate``.
    """
    config = _resolved(raw)
    windows = (False, True) if _window(config) else (False,)
    chunks = (False, True) if _chunk(config) else (False,)
    short: list[tuple[str, ...]] = [("S",), ("B", "S")]
    if len(chunks) > 1:
        short = [(*one, "chunks") for one in short]
    heads = ("K",) if any(config.get(key) == 1 for key in _KV_HEADS) else ()
    long: list[tuple[str, ...]] = [(), ("B",), *([("chunks",), ("B", "chunks")] if len(chunks) > 1 else [])]
    found = [
        Setting(trains=trains, fixed=(*one, *heads), beyond_window=beyond, whole_chunks=whole)
        for trains in (True, False)
        for beyond in windows
        for whole in chunks
        for one in (*long, *short)
        if not ((beyond or whole) and "S" in one)
    ]
    many = [one for one in found if "S" not in one.fixed]
    found += [replace(one, attention="flash", device=Cuda()) for one in many]
    if is_before("5"):  # whose caches are others
        return found + [
            replace(one, attention=attention, autocast=autocast, dtype=dtype, device=device)
            for attention, device in ((None, CPU), ("flash", Cuda()))
            for autocast, dtype in ((DTYPE, None), ("bfloat16", "float32"))
            for one in many
            if one.trains
        ]
    passes = [("prefill", whole, one) for whole in chunks for one in long]
    passes += [(pass_, False, one) for pass_ in ("prefill", "decode") for one in short]
    return found + [
        Setting(trains=False, fixed=(*one, *heads), beyond_window=beyond, whole_chunks=whole, generates=pass_)
        for beyond in windows
        for pass_, whole, one in passes
        if not (beyond and "S" in one and pass_ == "prefill")
    ]


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


PARTS: tuple[Part, ...] = ("train", "train packed", "infer", "generate")


def record_for_all_settings(
    raw: Mapping[str, Any], serves: Serves, seed: int = 0
) -> dict[Setting, Family | InputError]:
    """The programs of a structure whose attention, masks and cache are calls that the setting decides.

    ``serves`` says in which settings they do what the module does: at least in one, or they are left out.
    """
    heads = ("K",) if any(_resolved(raw).get(key) == 1 for key in _KV_HEADS) else ()
    made: dict[Setting, Family | InputError] = {}
    try:
        structure = _structure(raw, Setting(fixed=heads), random.Random(seed), False, groups=True)
        if structure[0].chunk is not None:
            raise InputError("layers that cut the sequence into chunks have a cache of their own")
    except InputError as error:
        return {Setting(part=part): error for part in PARTS}
    for part in PARTS:
        for cached in (True,) if part == "generate" else (True, False):
            first = Setting(part=part, fixed=heads, beyond_window=None, cached=cached)
            try:
                families = _of_part(structure, first, seed)
                draw = _sampled(structure[0], heads, random.Random(seed + 3))
                with config_reads.noted() as reads:
                    settings = serves(list(families.values()), part, draw)
            except InputError as error:
                made[replace(first, cached=True)] = error
                continue
            if not settings:
                made[replace(first, cached=True)] = InputError(
                    "no setting is one for which the rules of attention and masks do what the module does"
                )
            else:
                made.pop(replace(first, cached=True), None)
                made |= {
                    setting: replace(
                        family,
                        recorded={
                            **family.recorded,
                            "settings": settings,
                            "reads": sorted({*family.recorded["reads"], *_foreign(reads, _config(raw))}),
                        },
                    )
                    for setting, family in families.items()
                }
                break
    return made


def _of_part(
    structure: tuple[_Structure, dict[str, Any], dict[str, Any]], first: Setting, seed: int
) -> dict[Setting, Family]:
    """The programs of a part: for all sequences and both devices, or one for each kind that makes other calls."""
    found, lists, defaults = structure
    families: dict[Setting, Family] = {}
    for fixed in ((), ("B",), ("S",), ("B", "S")):
        for device in (CPU, Cuda()):
            setting = replace(first, fixed=(*fixed, *first.fixed), device=device)
            if any(
                _covers(one, replace(other, device=device) if one.recorded["device"] == "any" else other, setting)
                for other, one in families.items()
            ):
                continue
            families[setting] = _record_family(_of_setting(found, setting), lists, defaults, random.Random(seed + 1))
    return families


def _sampled(
    found: _Structure, heads: tuple[str, ...], rng: random.Random
) -> Callable[[bool, bool], tuple[dict[str, Any], int, int]]:
    """A function that draws a config, a batch and a sequence: beyond the window or not, and of one row or more."""

    def draw(beyond_window: bool, one_row: bool) -> tuple[dict[str, Any], int, int]:
        setting = Setting(beyond_window=beyond_window, fixed=(*heads, *(("B",) if one_row else ())))
        drawn = _draw(replace(found, setting=setting, step=max(found.step, 4)), rng, found.depth)  # as flash-attn asks
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
    structure: tuple[_Structure, dict[str, Any], dict[str, Any]] | None = None
    waiting, powers = list(settings), (False, True)
    while waiting:
        setting = waiting.pop(0)
        if structure is not None and structure[0].chunk is None:
            setting = replace(setting, whole_chunks=False, fixed=tuple(x for x in setting.fixed if x != "chunks"))
        if any(isinstance(one, Family) and _covers(one, other, setting) for other, one in made.items()):
            continue
        for power in powers:
            try:
                if structure is None or structure[0].power < power:
                    structure = _structure(raw, setting, random.Random(seed), power)
                found, lists, defaults = structure
                own = _of_setting(found, setting)
                try:
                    one = _record_family(own, lists, defaults, random.Random(seed + 1))
                except _Coincidence:  # a number was that of another size in all recordings
                    one = _record_family(own, lists, defaults, random.Random(seed + 2))
                made[setting] = one
                if one.recorded["device"] == "cpu" and setting.generates is None:
                    waiting.insert(0, replace(setting, device=Cuda()))
            except InputError as error:
                made[setting] = error
                if isinstance(error, _NotOne) and power < powers[-1]:
                    continue
                if setting.generates == "decode":
                    del made[setting]
                    waiting[:0] = [replace(setting, generates=pass_) for pass_ in ("first", "later")]
            break
    passes = {s.generates == "prefill" for s, one in made.items() if s.generates and isinstance(one, Family)}
    if len(passes) == 1:  # a call has both
        made = {s: one for s, one in made.items() if s.generates is None or isinstance(one, InputError)}
    return made


def _of_setting(found: _Structure, setting: Setting) -> _Structure:
    """What is known of a class, to be recorded in a setting. A cache's tokens count where the sequence does."""
    if setting.generates in (None, "prefill"):
        return replace(found, setting=setting)
    derived = {
        name: re.sub(r"\bS\b", "(past + S)", text) if name in dict(_DERIVED) else text
        for name, text in found.derived.items()
    }
    return replace(found, setting=setting, derived=derived)


def _covers(family: Family, recorded: Setting, wanted: Setting) -> bool:
    """Whether a program that was recorded in one setting is one for another, too."""
    ones = {*family.ones, *family.fixed}
    alike = replace(recorded, fixed=wanted.fixed)
    if family.chunk is None:
        alike = replace(alike, whole_chunks=wanted.whole_chunks)
    return alike == wanted and set(wanted.fixed) <= ones


def _groups(key: str) -> str:
    """The symbol of the heads that share one of so many heads of keys and values."""
    return f"groups_of_{key}"


class _Coincidence(InputError):
    """A program differs from a fresh recording."""


class _NotOne(InputError):
    """Recordings at several sizes are not of one structure."""


def _structure(
    raw: Mapping[str, Any], setting: Setting, rng: random.Random, power: bool, groups: bool = False
) -> tuple[_Structure, dict[str, Any], dict[str, Any]]:
    """What is known of a config's class, the rules of its lists, and its defaults.

    ``groups``: heads are grouped, also where the config has as many of keys and values as of queries.
    """
    raw = {key: value for key, value in raw.items() if key not in ("architectures", "dtype", "torch_dtype", "auto_map")}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(raw.get(key), Mapping):
            raw[key] = _without_factors(raw[key])
    config = _resolved(raw)
    kind = with_rope(config).get("rope_type")
    if kind is not None and not {*str(kind).split("/")} <= _ROPE:
        raise InputError(f"rope_type {kind} changes with the length of the sequence; there is no rule for that")
    other_names = _other_names(raw, config)
    raw = {key: value for key, value in raw.items() if key not in other_names}
    raw |= {key: config[key] for key in other_names.values()}
    raw = {key: one_for_all(value) if key in _ROLES["I"] else value for key, value in raw.items()}
    found = _Structure(raw, setting, power=power, other_names=other_names)
    found.attention = Live(raw, "the config").attention
    found.derived = {
        name: text
        for name, text in _DERIVED
        if all(key == "S" or config.get(key) is not None for key in names(text) - {"int", "min"})
    }
    map_ = dict(_config(raw).attribute_map)

    def name(key: str) -> str:
        return str(map_.get(key, key))

    found.layers, found.heads = name("num_hidden_layers"), name("num_attention_heads")
    if found.layers not in config:  # the class counts the entries of a list
        layers = _config(raw).num_hidden_layers
        found.layers = next(key for key, value in config.items() if isinstance(value, list) and len(value) == layers)
        for key, value in list(raw.items()):
            letters = letters_of(value, config[found.layers])
            if letters is not None:
                found.letters = {"text": key, "letters": letters}
                del raw[key]
        raw[found.layers] = config[found.layers]
    if power:
        found.structure[f"{found.heads} is a power of 2"] = True
    hidden = name("hidden_size")
    found.roles = {"H": hidden}
    for letter, keys in _ROLES.items():
        for key in keys:
            if name(key) in config:
                found.roles[letter] = name(key)
                break
    found.kv_heads = next((name(key) for key in _KV_HEADS if name(key) in config), None)
    if found.kv_heads is not None:
        groups = groups and "qk_rope_head_dim" not in config  # latent attention gives each head keys of its own
        found.grouped = groups or config[found.kv_heads] not in (None, config[found.heads])
        found.structure[f"{found.heads} = {found.kv_heads}"] = not found.grouped
    for key, value in {**raw, **config}.items():
        if key.endswith(_KV_HEADS_OF) and key != found.kv_heads and type(value) is int:
            found.other_heads.append(key)
            found.structure |= {f"{key} = 1": False, f"{key} = {found.heads}": False}
    rope = with_rope(config)
    found.partial = rope.get("partial_rotary_factor", 1.0) not in (None, 1.0)
    if found.partial and (sections := rope.get("mrope_section")):
        found.rotary = 2 * sum(sections)
        found.structure["mrope_section"] = list(sections)
    if kind == "dynamic":  # compares the sequence with it
        found.symbols.append(_LONGEST)
        raw.setdefault(_LONGEST, config[_LONGEST])
    found.window, found.chunk = _window(config), _chunk(config)
    if found.chunk is not None:
        found.derived["chunks"] = f"int((S + {found.chunk} - 1) / {found.chunk})"
    if found.chunk is not None and found.chunk.isdigit():
        found.derived["padded"] = f"{found.chunk} * int((S + {found.chunk} - 1) / {found.chunk})"
    head_dim = config.get("head_dim") or config[hidden] // config[found.heads]
    reads_it = "D" not in found.roles and _reads_head_dim(found, rng)
    if reads_it:
        raw["head_dim"], found.roles["D"] = head_dim, "head_dim"
    free = _fits(found, rng) if reads_it else _free_heads(found, rng)
    if "D" in found.roles and head_dim == config[hidden] // config[found.heads] and not free:
        del found.roles["D"]
        raw.pop("head_dim", None)
        config = _resolved(raw)
        found.structure[f"head_dim = {hidden} / {found.heads}"] = True
    found.wide = head_dim > WIDE
    if found.rotary is not None:
        size = found.roles.get("D", f"{hidden} / {found.heads}")
        found.structure[f"{found.rotary} = int({size} * partial_rotary_factor)"] = True
    found.latent = "qk_rope_head_dim" in config
    if found.latent:
        found.roles.pop("D", None)
    else:
        found.structure[f"D <= {WIDE}"] = not found.wide
    if any("expert" in key for key in config):
        found.step = 8
    if type(config.get(SHARING)) is int:
        found.structure[SHARING] = 1.0 if config[SHARING] else 0.0
    used = {hidden, found.layers, found.heads, found.kv_heads, *found.roles.values()}
    found.tied_to_hidden = [
        key for key, value in config.items() if key not in used and type(value) is int and value == config[hidden] > 32
    ]
    lists = _lists(found, config)
    _probe(found, config, rng, lists)
    found.depth_is_size = _depth_is_size(found, rng)
    if not {*_CHUNKS} & {*found.symbols}:  # no layer has such a state
        found.harmless += [found.chunk] if found.chunk is not None else []
        found.chunk = None
        found.structure.pop(f"mamba_expand = mamba_n_heads * mamba_d_head / {found.roles['H']}", None)
        found.derived = {k: text for k, text in found.derived.items() if k not in ("chunks", "padded")}
    return found, lists, _defaults(found, rng)


def _depth_is_size(found: _Structure, rng: random.Random) -> bool:
    """Whether a parameter outside the layers has another shape in a deeper model of the same sizes."""
    seed, shapes = rng.random(), []
    for more in (0, 1):
        _, program = _recorded(found, random.Random(seed), depth=found.depth + more)
        numbers = layer_numbers([p.name for p in program.parameters], [program.path.format(i) for i in range(99)])
        shapes.append([p.shape for p in program.parameters if p.name not in numbers])
    return shapes[0] != shapes[1]


def _other_names(raw: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Keys that the class does not keep, each with the key that it sets."""
    found = {}
    for key, value in raw.items():
        if key in config or key in IGNORED or not isinstance(value, int):
            continue
        changed = not value if isinstance(value, bool) else value + 1
        try:
            resolved = _resolved({**raw, key: changed})
        except InputError:
            continue
        others = [other for other, x in resolved.items() if x != config.get(other)]
        if len(others) == 1 and resolved[others[0]] == changed:
            found[key] = others[0]
    return found


def _without_factors(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings without the factors of long rope, of which each head's size has its own number."""
    return {key: value for key, value in rope.items() if key not in ("short_factor", "long_factor")}


def _reads_head_dim(found: _Structure, rng: random.Random) -> bool:
    """Whether a model asks a config for ``head_dim`` whose class does not have it."""
    try:
        with config_reads.noted() as reads:
            _recorded(found, rng)
    except InputError:
        return False
    return "head_dim" in reads


def _fits(found: _Structure, rng: random.Random) -> bool:
    """Whether all sizes of random models are expressions of the sizes that are known so far."""
    try:
        recorded = [_recorded(found, rng) for _ in range(DRAWS)]
        fit([(draw.values, rolled(program)) for draw, program in recorded])
    except InputError:
        return False
    return True


def _foreign(reads: Collection[str], config: Any) -> set[str]:
    """Of the keys that were asked for in vain, and those that the code of the class names, those that may matter."""
    named = config_reads.named_by(config) - set(config.to_dict())
    return {key for key in {*reads, *named} - IGNORED - GENERATION if not key.startswith("_")}


def _free_heads(found: _Structure, rng: random.Random) -> bool:
    """Whether the class takes any size of a head beside any hidden size."""
    for _ in range(3):
        draw = _draw(found, rng, 2)
        try:
            _config(draw.raw)
        except InputError:
            return False
    return True


def _record_family(
    found: _Structure, lists: Mapping[str, Any], defaults: Mapping[str, Any], rng: random.Random
) -> Family:
    with config_reads.noted() as reads:
        family = _fitted(found, lists, defaults, rng)
    reads = _foreign(reads, _config(found.raw))
    return replace(family, recorded={**family.recorded, "reads": sorted(reads)})


def _fitted(found: _Structure, lists: Mapping[str, Any], defaults: Mapping[str, Any], rng: random.Random) -> Family:
    raw, setting = found.raw, found.setting
    map_ = dict(_config(raw).attribute_map)
    recordings: list[Recording] = []
    kinds, orders, every_kind = None, None, False
    rates = {key: [float((i + 1) >> n & 1) for n in range(DRAWS)] for i, key in enumerate(found.rates)}
    for n in range(DRAWS):
        own = replace(found, raw={**raw, **{key: values[n] / 10 for key, values in rates.items()}})
        draw, program = _recorded(own, rng, depth=found.depth + rng.randint(0, 3) if found.depth_is_size else 0)
        program = lifted(program)
        least, learnt = smallest(program, examples(program, _signs(draw.raw, lists, found.layers)))
        if orders is None:
            every_kind = _needs_every_kind(own, draw, least, learnt, lists)
            orders = list(_useful(own, draw, least, learnt, lists))
        least, learnt = _with_orders(own, draw, least, learnt, lists, orders)
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
            structure = {**found.structure, **{key: structural(_resolved(raw)[key]) for key in found.rates}}
            return _fitted(replace(found, structure=structure, rates=()), lists, defaults, rng)
        if "of one structure" in str(error) and not found.power:
            raise _NotOne(str(error)) from None
        raise
    used = symbols_of(fitted)
    used |= {*"HIVKGDR", "chunks", *([found.chunk] if found.chunk else [])}
    symbols = {key: text for key, text in _definitions(found).items() if key in used}
    unused = [name for key, text in _definitions(found).items() if key not in symbols for name in names(text)]
    live = Live(raw, "the config")
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
            **({"every_kind": True} if every_kind else {}),
            **(
                {"part": setting.part, "device": setting.device.type}
                if setting.part is not None
                else setting_of(_step(found, draw.dtype, draw.cached)) | {"autocast": setting.autocast}
            ),
        },
        window=found.window,
        beyond_window=setting.beyond_window,
        chunk=found.chunk,
        whole_chunks=found.chunk is not None and setting.whole_chunks,
        fixed=setting.fixed,
        harmless=tuple(dict.fromkeys([*found.harmless, *unused])),
    )
    family = replace(family, ones=tuple(name for name in ONES if _holds(found, rng, family, name)))
    if "G" in family.ones:
        family = _of_any_groups(family, found)
    if setting.part is not None:
        family = _widened(found, rng, family)
    for i in range(CHECKS):
        others: dict[str, Any] = {
            key: not one.value if i == 0 else bool(rng.getrandbits(1)) for key, one in found.switches.items()
        }
        others |= {key: rng.getrandbits(1) / 10 for key in found.rates}
        changed = replace(found, raw={**raw, **others})
        draw, fresh = _recorded(changed, rng, depth=found.depth + 1 + i, tie=i == 1)
        others_ = [_in_order(draw.raw, order, lists) for order in orders]
        for given, wanted in ((draw.raw, fresh), *((x, _program(x, draw, changed)) for x in others_)):
            answered = family.at(given, draw.sizes, draw.dtype)
            if not _same(answered, wanted):
                difference = _difference(answered, wanted)
                raise _Coincidence(f"the program differs from a recording at other sizes: {difference}")
    if setting.generates is None:
        if setting.device is CPU and _same_on_cuda(found, rng, family):
            family = replace(family, recorded={**family.recorded, "device": "any"})
    elif setting.generates != "prefill":
        how: dict[str, Any] = {"prefilled": {"first": True, "later": None, "decode": "any"}[setting.generates]}
        if _same_reordered(found, rng, family):
            how["reordered"] = "any"
        family = replace(family, recorded={**family.recorded, **how})
    return family


Order = Mapping[str, Any] | int
"""Other keys of a config, or by how many layers its lists are rotated."""


def _orders(found: _Structure, raw: Mapping[str, Any], lists: Mapping[str, Any]) -> list[Order]:
    """Other orders of a config's layers: each kind comes first, and dense layers stand among those of experts."""
    if found.chosen or found.runs or found.chunk is not None or is_before("5"):
        return []
    resolved = _resolved(raw)
    orders: list[Order] = [{key: 0} for key in DENSE_FIRST if raw.get(key)]
    if _DENSE_ONES in resolved:
        orders += [{_DENSE_ONES: [0]}, {_DENSE_ONES: []}]
    rows = [str(row) for row in zip(*(resolved[key] for key in lists), strict=False)]
    return orders + sorted({rows.index(row) for row in rows} - {0})


def _in_order(raw: Mapping[str, Any], order: Order, lists: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(order, int):
        return {**raw, **order}
    resolved = _resolved(raw)
    return {**raw, **{key: [*resolved[key][order:], *resolved[key][:order]] for key in lists}}


def _signs(raw: Mapping[str, Any], lists: Mapping[str, Any], layers: str) -> list[Signature]:
    """What a config says of each layer."""
    resolved = _resolved(raw)
    return signatures(resolved, {key: resolved[key] for key in lists}, number_of(resolved[layers]))


def _with_orders(
    found: _Structure, draw: _Draw, program: Program, kinds: Kinds, lists: Mapping[str, Any], orders: Sequence[Order]
) -> tuple[Program, Kinds]:
    """The program with the kinds of layers that other orders have."""
    for order in orders:
        raw = _in_order(draw.raw, order, lists)
        other = lifted(_program(raw, draw, found))
        program, kinds = extended(program, kinds, other, _signs(raw, lists, found.layers))
    return program, kinds


def _useful(
    found: _Structure, draw: _Draw, program: Program, kinds: Kinds, lists: Mapping[str, Any]
) -> Iterator[Order]:
    """Of other orders of the layers, those that the class takes and that have other kinds."""
    for order in _orders(found, draw.raw, lists):
        try:
            program, more = _with_orders(found, draw, program, kinds, lists, [order])
        except SeveralKinds:
            raise
        except Exception:  # whatever the class says of such a config
            continue
        if more != kinds:
            kinds = more
            yield order


def _needs_every_kind(found: _Structure, draw: _Draw, program: Program, kinds: Kinds, lists: Mapping[str, Any]) -> bool:
    """Whether models that have layers of one kind of the config's lists alone call something else outside them."""
    resolved = _resolved(draw.raw)
    rows = {str(row): row for row in zip(*(resolved[key] for key in lists), strict=False)}
    if len(rows) < 2:
        return False
    if found.chosen or found.runs or found.chunk is not None or is_before("5"):
        return True  # not compared
    layers, window = number_of(resolved[found.layers]), "sliding_attention"
    wanted = [row for row in rows.values() if window in row] or list(rows.values())  # without any it is refused anyway
    alone = [{key: [x] * layers for key, x in zip(lists, row, strict=True)} for row in wanted]
    try:
        _with_orders(found, draw, program, kinds, lists, alone)
    except Exception:
        return True
    return False


def _same_reordered(found: _Structure, rng: random.Random, family: Family) -> bool:
    """Whether the calls are the same after beam search has copied the cache."""
    found.reorders = True
    same = True
    for _ in range(2):  # the tokens of one pass, and those of two
        draw, fresh = _recorded(found, rng)
        same = same and _same(family.at(draw.raw, draw.sizes, draw.dtype), fresh)
    found.reorders = False
    return same


def _same_on_cuda(found: _Structure, rng: random.Random, family: Family) -> bool:
    """Whether the calls are the same on a GPU."""
    on_cuda = replace(found, setting=replace(found.setting, device=Cuda()))
    draw, fresh = _recorded(on_cuda, rng)
    return _same(family.at(draw.raw, draw.sizes, draw.dtype), fresh)


def _widened(found: _Structure, rng: random.Random, family: Family) -> Family:
    """The family of heads of any size, where it is right for these."""
    narrow = f"D <= {WIDE}"
    other = replace(family, structure={key: x for key, x in family.structure.items() if key != narrow})
    return other if _is_right(other, replace(found, wide=not found.wide), rng) else family


def _is_right(family: Family, found: _Structure, rng: random.Random) -> bool:
    """Whether the program is that of a fresh recording."""
    try:
        draw, fresh = _recorded(found, rng)
        return _same(family.at(draw.raw, draw.sizes, draw.dtype), fresh)
    except InputError:
        return False


def _of_any_groups(family: Family, found: _Structure) -> Family:
    """The family of configs that may have one query head for each of the keys', too."""
    same = f"{found.heads} = {found.kv_heads}"
    return replace(family, structure={key: x for key, x in family.structure.items() if key != same})


def _same(a: Program, b: Program) -> bool:
    """Whether programs are the same, whose recordings may have asked other tensors for a dtype that they share."""
    return a == b or without_sources(a) == without_sources(b)


def _holds(found: _Structure, rng: random.Random, family: Family, one: str) -> bool:
    """Whether the program is right where a symbol is 1."""
    if (
        one in found.setting.fixed
        or (one == "K" and not found.grouped)
        or (one == "G" and (not found.grouped or found.setting.part is None or bool(found.other_heads)))
        or (one == "chunks" and family.chunk is None)
        or (one == "S" and family.chunk is not None)
        or (one in ("S", "past") and found.window is not None and found.setting.beyond_window)
        or (one == "past" and found.setting.generates not in ("decode", "first"))
    ):
        return False
    try:
        draw, fresh = _recorded(found, rng, one=one)
        if one == "G":
            family = _of_any_groups(family, found)
        return _same(replace(family, ones=(one,)).at(draw.raw, draw.sizes, draw.dtype), fresh)
    except InputError:
        return False


def _difference(a: Program, b: Program) -> str:
    for name in ("layers", "modules", "parameters", "buffers", "attributes", "before", "bodies", "after"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=False):
            if name == "bodies":
                for one, other in zip(x.events, y.events, strict=False):
                    if one != other:
                        return f"{one} for {other}"
            elif x != y:
                return f"{name}: {x} for {y}"
    return next((n for n in vars(b) if getattr(a, n, None) != getattr(b, n)), "its parts")


def _recorded(
    found: _Structure, rng: random.Random, depth: int = 0, tie: bool = False, one: str = ""
) -> tuple[_Draw, Program]:
    error: Exception | None = None
    for _ in range(8):
        draw = _draw(found, rng, depth or found.depth, tie, one)
        try:
            return draw, _program(draw.raw, draw, found)
        except InputError as e:
            error = e
        except Exception as e:
            error = InputError(f"{type(e).__name__}: {e}")
    raise InputError(f"no size could be recorded: {error}")


def _draw(found: _Structure, rng: random.Random, depth: int, tie: bool = False, one: str = "") -> _Draw:
    """A config with other sizes under the constraints that classes have. The symbol ``one`` is 1.

    With ``tie`` the hidden size is that of all heads together, and the window is where the two regimes meet.
    """
    raw = dict(found.raw)
    n = rng.randint
    ones = (*found.setting.fixed, one)
    seq = 1 if "S" in ones else n(9, 70)
    if found.chunk is not None:
        size = int(found.chunk) if found.chunk.isdigit() else n(20, 90)
        if "chunks" in ones:
            least = 2 if found.setting.generates is None else 9
            seq = size if found.setting.whole_chunks else 1 if seq == 1 else n(least, size - 1)
        elif seq > 1:  # a loop over chunks is seen from its fourth pass on
            passes = 2 if tie else n(4, 9)
            seq = size * passes - (0 if found.setting.whole_chunks else n(1, size - 1))
        if not found.chunk.isdigit():
            raw[found.chunk] = size
    values = {"B": 1 if "B" in ones else n(2, 12), "S": seq}
    past = 0 if found.setting.generates in (None, "prefill") else 1 if one == "past" else n(9, 70)
    tokens = past + seq
    step = found.step

    def head(wide: bool) -> int:
        return 2 * step * (n(128 // step + 1, 240 // step) if wide else n(2, 128 // step))

    kv = 2 ** n(1, 4) if found.power else n(2, 9)
    kv = 1 if "K" in ones else kv
    groups = (2 ** n(1, 3) if found.power else n(2, 6)) if found.grouped else 1
    groups = 1 if one == "G" else groups
    groups *= 4 if found.other_heads else 1  # so that the heads have other divisors than these
    size = head(found.wide)
    if found.rotary is not None and size <= found.rotary:
        size += found.rotary
    raw[found.heads] = kv * groups
    free = "D" in found.roles
    H = kv * groups * (size if tie or not free else 2 * step * n(4, 30))
    values["H"] = raw[found.roles["H"]] = H
    for letter, (low, high) in {"I": (40, 3000), "V": (200, 9000)}.items():
        if letter in found.roles:
            values[letter] = raw[found.roles[letter]] = n(low, high) if letter == "V" else step * n(low, high)
    values["K"] = kv
    if found.grouped:
        values["G"] = groups
    if not found.latent:
        values["D"] = size
    if free:
        raw[found.roles["D"]] = size
    if found.kv_heads is not None:
        raw[found.kv_heads] = kv
    for key in found.tied_to_hidden:
        raw[key] = H
    if found.partial:
        rotary = values["R"] = found.rotary or 2 * n(1, size // 2 - 1)
        rope = _without_factors(_resolved(found.raw).get("rope_parameters") or {})
        raw["rope_parameters"] = {**rope, "partial_rotary_factor": (rotary + 0.5) / size}
        for key in ("partial_rotary_factor", "rotary_pct", "rope_scaling"):
            raw.pop(key, None)
    if found.window is not None:
        beyond = found.setting.beyond_window
        low, high = (2, 4 * tokens) if beyond is None else (2, tokens) if beyond else (tokens + 1, 4 * tokens)
        near = high if beyond else low
        values[found.window] = raw[found.window] = near if tie else n(low, high)
    for key in found.other_heads:
        kept = [d for d in range(2, kv * groups) if kv * groups % d == 0]
        values[key] = raw[key] = kept[n(0, len(kept) - 1)]
        values[_groups(key)] = kv * groups // values[key]
    base = {**found.raw, **_resolved(found.raw)}
    for key in found.symbols:
        if key not in raw or key in found.raw:
            value = base[key]
            small = value <= 8 or "per_tok" in key
            values[key] = raw[key] = n(2, 5) if small else 2 * step * n(8, 60)
            if (narrow := found.structure.get(f"{key} <= {WIDE}")) is not None:
                values[key] = raw[key] = head(wide=not narrow)
            if key in _EXPERTS:
                values[key] = raw[key] = n(6, 40)
        if "position" in key:
            least = 1 if key.startswith("original") else tokens + 1
            values[key] = raw[key] = n(least, least + 900)
    if found.chunk in raw:
        values[found.chunk] = raw[found.chunk]
    if "topk_group" in found.symbols and "n_group" in raw:
        raw["topk_group"] = values["topk_group"] = n(1, raw["n_group"])
    for key, divisor, quotient in _QUOTIENTS:
        if key in found.symbols and divisor in found.symbols:
            del values[key]
            values[quotient] = n(4, 9)
            raw[key] = values[quotient] * raw[divisor]
    if base.keys() >= {*_SHARED}:
        heads = raw.setdefault("mamba_n_heads", base["mamba_n_heads"])
        times = n(1, 3)
        raw["mamba_expand"], raw["mamba_d_head"] = times * heads, times * H
        values |= {key: raw[key] for key in ("mamba_expand", "mamba_d_head")}
    for key, value in base.items():
        if key.endswith("token_id") and value is not None:
            raw[key] = 1
    if type(base[found.layers]) is int:
        raw[found.layers] = depth
    for key in DEPTH_KEYS:
        if key in base:
            raw[key] = 1 if key.endswith("_step") and base[key] == 1 else 2
    for key in INDEX_KEYS:
        raw.pop(key, None)
    if _DENSE_ONES in base:
        raw[_DENSE_ONES] = [1, 2]
    for key, value in found.raw.items():
        if isinstance(value, (list, tuple)) and len(value) == number_of(base[found.layers]) and key not in INDEX_KEYS:
            pattern = found.pattern or range(len(value))
            raw[key] = [value[pattern[i % len(pattern)]] for i in range(depth)]
    for key, in_runs in found.runs.items():
        raw[key] = [base[key][i % len(base[key])] for i in range(depth)]
        raw[in_runs] = [[[entry], 1] for entry in raw[key]]
    for name, text in found.derived.items():
        for key in (
            names(text) - {"S", "past", found.chunk} if "S" in names(text) else ()
        ):  # by turns shorter than the sequence and longer
            below = (max(tokens // 3, 1), max(tokens - 1, 1))
            values[key] = raw[key] = n(*(below if next(found.sides) % 2 else (tokens, 2 * tokens)))
        values[name] = int(evaluate(text, {**base, **raw, "S": seq, "past": past}))
    if found.chosen:
        others = [i for i in range(base[found.layers]) if i not in found.chosen]
        layers = sorted([*found.chosen, *others[: max(depth - len(found.chosen), 0)]])
        raw[found.layers], first = len(layers), base[found.layers] - base[SHARING]
        raw[SHARING] = sum(i >= first for i in layers)
        raw |= {key: [base[key][i] for i in layers] for key in found.lists}
    if found.depth_is_size:
        values[found.layers] = raw[found.layers]
    dtypes = LOWER if found.setting.attention == "flash" or found.setting.autocast == DTYPE else DTYPES
    dtype = found.setting.dtype or dtypes[next(found.turn) % len(dtypes)]
    cached, window = None, None if found.window is None else raw[found.window]
    if found.setting.generates is not None:
        by_turns = past == 1 or (past > 1 and next(found.passes) % 2 == 0)
        prefilled = {"first": True, "later": False}.get(found.setting.generates, by_turns)
        cached = CachedTokens("dynamic", past, tokens, prefilled, found.reorders)
        values |= _numbers(cached, window)
    return _Draw(raw, values, values["B"], values["S"], dtype, cached, window)


def _lists(found: _Structure, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with an entry per layer, and the class's rule for them. Sets the depth of recordings."""
    n = number_of(config[found.layers])
    keys = [
        key
        for key, value in config.items()
        if isinstance(value, list) and len(value) == n > 0 and key not in INDEX_KEYS and runs(value) is None
    ]
    rules: dict[str, Any] = {}
    unread: set[str] = set()
    for key in keys:
        bare = {k: v for k, v in found.raw.items() if k not in (*keys, *INDEX_KEYS)}
        rules[key] = None
        if key == found.layers:
            rules[key] = found.letters
            continue
        if (in_runs := next((k for k, x in config.items() if runs(x) == config[key]), None)) is not None:
            rules[key] = {"runs": in_runs}
            found.runs[key] = in_runs
            found.depth = max(found.depth, 2 * len({str(x) for x in config[key]}) + 1)
            continue
        if (numbered := _numbered(bare, key, found.layers, config)) is not None:
            rules[key] = numbered
            continue
        try:
            given = {deep: _resolved({**bare, found.layers: deep}).get(key) for deep in (24, 37)}
        except InputError:  # the class wants the list
            continue
        deeper = given[37]
        if not isinstance(deeper, list) and is_before("5"):  # the class has the rule in its code, and not the key
            given = {deep: [config[key][i % n] for i in range(deep)] for deep in (n, 2 * n)}
            deeper = given[n]
            unread.add(key)
        if not isinstance(deeper, list):
            continue
        for period in range(1, 13):
            rule: Any = {"period": deeper[:period]}
            if all(default_list(rule, {}, deep, key) == given[deep] for deep in given):
                every = {**rule, "every": EVERY}
                third = {**bare, found.layers: 24, EVERY: 3}
                follows = _resolved(third).get(key) == default_list(every, third, 24, key) != given[24]
                rules[key] = every if follows else rule
                found.depth = max(found.depth, 2 * period + 1)
                break
        else:
            for first_key in (k for k in DEPTH_KEYS if type(config.get(k)) is int):
                rule = {"from": first_key, "below": deeper[0], "above": deeper[-1]}
                tried = [(24, 3), (37, 11)]
                if all(
                    default_list(rule, {first_key: first}, deep, key)
                    == _resolved({**bare, found.layers: deep, first_key: first}).get(key)
                    for deep, first in tried
                ):
                    rules[key] = rule
    found.lists = list(rules)
    if config.get(SHARING) is not None:
        signs = signatures(config, {key: config[key] for key in rules}, n)
        for sign in set(signs):
            alike = [i for i in range(n) if signs[i] == sign]
            found.chosen += {*alike[:2], alike[-1]}  # the first may differ from the second, and the last from both
        found.chosen.sort()
        found.depth = len(found.chosen)
        return rules
    given_lists = [found.raw[key] for key in keys if key in found.raw and key not in found.runs and key not in unread]
    rows = [str(row) for row in zip(*given_lists, strict=False)]
    if distinct := [rows.index(row) for row in dict.fromkeys(rows)]:
        found.pattern = [i for i in distinct for _ in range(2)]  # each kind after itself and after another
        found.depth = max(found.depth, len(found.pattern) + 1)
    return rules


def _numbered(bare: Mapping[str, Any], key: str, layers: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rule of a list of which another key of the config lists the numbers of some layers."""
    for numbers in (one for one in INDEX_KEYS if one in config):
        tried = [(7, [1, 4]), (9, [0, 2, 8]), (5, None)]
        try:
            given = [_resolved({**bare, layers: deep, numbers: listed}).get(key) or [] for deep, listed in tried]
        except InputError:
            continue
        if any(len(one) != deep for one, (deep, _) in zip(given, tried, strict=True)):
            continue
        rule: dict[str, Any] = {"numbers": numbers, "listed": given[0][1], "others": given[0][0]}
        if all(
            default_list(rule, {numbers: listed}, deep, key) == one
            for one, (deep, listed) in zip(given, tried, strict=True)
        ):
            return rule
    return None


def _probe(found: _Structure, config: Mapping[str, Any], rng: random.Random, lists: Mapping[str, Any]) -> None:
    """Sort the config's keys: sizes, structure, and those that do not matter."""
    draw, base = _recorded(found, rng, depth=max(found.depth // 2 + 1, len(found.pattern) - 1))
    resolved = _resolved(draw.raw)
    # Keys whose value the draw gives, or that are treated by themselves.
    fixed = {found.layers, found.heads, found.kv_heads, found.window, found.roles["H"], found.roles.get("V")}
    fixed |= {found.chunk, *found.other_heads, *found.symbols}
    if config.keys() >= {*_SHARED}:
        fixed |= {*_SHARED}
        found.symbols += _SHARED
        found.structure[f"mamba_expand = mamba_n_heads * mamba_d_head / {found.roles['H']}"] = True
    if found.latent:
        fixed.add("head_dim")  # the class derives it from another key
        found.harmless += [key for key in ("head_dim",) if key in config]

    def changed_to(key: str, value: Any) -> Program | None:
        try:
            return _program({**draw.raw, key: value}, draw, found)
        except Exception:
            return None

    def outcome(key: str, value: Any) -> str:
        program = changed_to(key, value)
        if program is None:
            return "refused"
        if program == base:
            return "same"
        return "sizes" if same_calls(base, program) else "calls"

    def is_unread(key: str) -> bool:
        """Whether the class does not have a key, and no module asks for it."""
        without = {name: x for name, x in draw.raw.items() if name != key}
        try:
            with config_reads.noted() as reads:
                own = _config(without)
                same = _program(without, draw, found) == base
        except Exception:
            return False
        return same and key not in {*own.to_dict(), *reads, *config_reads.named_by(own)}

    taken = {key: value for key, value in found.raw.items() if key not in config}  # and not kept, at least by this name
    fixed |= {rule["every"] for rule in lists.values() if rule and "every" in rule}
    fixed |= {*IGNORED, *GENERATION, *lists, *found.runs.values(), *DEPTH_KEYS, *INDEX_KEYS, SHARING}
    keys = {key: x for key, x in {**config, **taken}.items() if key not in fixed and not key.startswith("_")}
    for key, value in keys.items():
        if isinstance(value, bool):
            other = changed_to(key, not value)
            if other == base:
                found.harmless.append(key)
            elif other is not None and (two := switch(base, other)) is not None:
                found.raw[key] = value if two[0] is base else not value
                found.switches[key] = two[1]._replace(value=found.raw[key])
            else:
                found.structure[key] = value
    draw.raw.update({key: found.raw[key] for key in found.switches})
    base = _program(draw.raw, draw, found)
    for key, value in keys.items():
        if isinstance(value, bool) or key.endswith("token_id"):
            continue
        current = resolved.get(key, value)
        role = next((letter for letter, k in found.roles.items() if k == key), None)
        if isinstance(value, int) or role is not None:
            outcomes = []
            for changed in (current * 2, current + 2, current + 1):
                outcomes.append(outcome(key, changed))
                if outcomes[-1] == "sizes":
                    break
            if "sizes" not in outcomes:  # some matter past a threshold only
                outcomes += [outcome(key, changed) for changed in (1, current * 1000) if changed != current]
            if key in found.tied_to_hidden:
                if "calls" in outcomes or set(outcomes) == {"refused"}:
                    found.structure[f"{key} = {found.roles['H']}"] = True
                    continue
                found.tied_to_hidden.remove(key)
            if role is not None:
                if "sizes" not in outcomes:
                    del found.roles[role]
                    if "calls" in outcomes:
                        found.structure[key] = value
                    else:
                        found.harmless.append(key)
            elif "sizes" in outcomes:
                found.symbols.append(key)
                if key.endswith("head_dim") and outcome(key, WIDE // 2 if value > WIDE else 2 * WIDE) == "calls":
                    found.structure[f"{key} <= {WIDE}"] = value <= WIDE
            elif "calls" in outcomes or set(outcomes) == {"refused"}:
                found.structure[key] = value
            else:
                found.harmless.append(key)
        elif isinstance(value, float):
            other = changed_to(key, 0.0 if value else 0.1)
            if other == base:
                found.harmless.append(key)
            elif (
                "drop" in key and other is not None and same_but_rate(base, other, (1.0, 0.0) if value else (0.0, 1.0))
            ):
                found.rates += (key,)
            else:
                found.structure[key] = structural(value)
        elif value is None:
            tried = {outcome(key, x) for x in (64, 3, 0.5, True, "x")}
            if tried <= {"same", "refused"} and "same" in tried:
                found.harmless.append(key)
            else:
                found.structure[key] = None
        elif isinstance(value, (str, list)):
            if is_unread(key):
                found.harmless.append(key)
            else:
                found.structure[key] = structural(value)
    kind = with_rope(config).get("rope_type")
    if "rope_theta" in config and kind in (None, *STATIC_ROPE):  # as releases before 5 write it
        others = [outcome("rope_scaling", {**_ANY_ROPE, "rope_type": other}) for other in STATIC_ROPE]
        kind = "static" if {*others} == {"same"} else kind or "default"
    elif kind in STATIC_ROPE and "rope_theta" in (rope := config.get("rope_parameters") or {}):
        changes = [{**_ANY_ROPE, **rope, "rope_type": other} for other in STATIC_ROPE]
        kind = "static" if {outcome("rope_parameters", change) for change in changes} == {"same"} else kind
    first = {key: i for i, key in enumerate(keys)}
    found.structure = dict(sorted(found.structure.items(), key=lambda entry: first.get(entry[0].split()[0], -1)))
    found.harmless.sort(key=lambda key: first.get(key, -1))
    if kind is not None:
        found.structure["rope_type"] = kind


def _definitions(found: _Structure) -> dict[str, str]:
    """What each symbol is, by the config's keys."""
    H, heads, kv = found.roles["H"], found.heads, found.kv_heads
    defined = {letter: found.roles[letter] for letter in "HIV" if letter in found.roles}
    defined["K"] = kv if kv is not None and found.grouped else heads
    if found.grouped:
        defined["G"] = f"{heads} / {kv}"
    if not found.latent:
        defined["D"] = found.roles.get("D", f"{H} / {heads}")
    if found.partial:
        defined["R"] = f"int(({defined['D']}) * partial_rotary_factor)"
    for key in (found.window, found.chunk):
        if key is not None and not key.isdigit():
            defined[key] = key
    for key in found.other_heads:
        defined |= {key: key, _groups(key): f"{heads} / {key}"}
    quotients = {key: (divisor, name) for key, divisor, name in _QUOTIENTS if key in found.symbols}
    defined |= found.derived
    if found.depth_is_size:
        defined[found.layers] = found.layers
    for key in found.symbols:
        if key in quotients and quotients[key][0] in found.symbols:
            divisor, name = quotients[key]
            defined[name] = f"{key} / {divisor}"
        else:
            defined[key] = key
    return defined


def _defaults(found: _Structure, rng: random.Random) -> dict[str, Any]:
    """The class's defaults of the keys that matter: values, or expressions of other keys."""
    sizes = [*found.roles.values(), found.heads, *found.symbols, *found.tied_to_hidden]
    sizes += [key for key in (found.kv_heads, found.window) if key is not None]
    model_type = found.raw["model_type"]
    bare = _resolved({"model_type": model_type})
    defaults: dict[str, Any] = {found.layers: bare.get(found.layers)}
    for key in (*DEPTH_KEYS, *INDEX_KEYS, *found.runs.values(), "decoder_sparse_step"):
        if key in bare:
            defaults[key] = bare[key]
    if "interleave_moe_layer_step" in defaults:
        defaults.pop("moe_layers", None)  # which follow from the step
    for key in (*found.structure, *found.switches, *found.rates):
        if key in bare and bare[key] is not None:
            defaults[key] = structural(bare[key]) if isinstance(bare[key], (list, tuple)) else bare[key]
    if "rope_type" in found.structure:
        defaults["rope_type"] = with_rope(bare).get("rope_type", "default")
    if "head_dim" not in bare and f"head_dim = {found.roles['H']} / {found.heads}" in found.structure:
        defaults["head_dim"] = f"={found.roles['H']} / {found.heads}"
    if found.partial:
        defaults["partial_rotary_factor"] = with_rope(bare).get("partial_rotary_factor", 1.0)
    draws = [_draw(found, rng, 4) for _ in range(3)]
    for key in sizes:
        seen = []
        for draw in draws:
            without = {k: v for k, v in draw.raw.items() if k != key}
            try:
                seen.append((_resolved(without).get(key), draw.raw))
            except InputError:
                break
        if len(seen) < len(draws):
            if bare.get(key) is not None:
                defaults[key] = bare[key]
            continue
        others = [k for k in sizes if k != key]
        values = [value for value, _ in seen]
        if None in values and key == found.window:
            continue  # there is no window
        if None in values:
            whole_heads = key == found.roles.get("D")  # of other sizes a head without the key may rotate an odd part
            tied = [_draw(found, rng, 4, tie=True) for _ in range(len(draws))] if whole_heads else draws
            meant = (_default_of_none(found, key, draw) for draw in tied)
            defaults[key] = next((text for text in meant if text is not None), None)
            continue
        if len(set(values)) == 1:
            defaults[key] = values[0]
            if (null := _null(key, draws, others)) is not None:
                found.nulls[key] = null
            continue
        texts = [*others, *(f"{f} * {k}" for f in (2, 3, 4) for k in others)]
        texts += [f"{a} / {b}" for a, b in itertools.product(others, others) if a != b]
        for text in texts:
            try:
                if all(evaluate(text, given) == value for value, given in seen):
                    defaults[key] = f"={text}"
                    break
            except (KeyError, InputError):
                continue
    return defaults


def _null(key: str, draws: Sequence[_Draw], others: Sequence[str]) -> str | None:
    """The key that one which is ``null`` takes its value from, by the class."""
    try:
        seen = [(_resolved({**draw.raw, key: None}).get(key), draw.raw) for draw in draws]
    except InputError:
        return None
    if any(value is None for value, _ in seen):
        return None
    return next((other for other in others if all(raw.get(other) == value for value, raw in seen)), None)


def _default_of_none(found: _Structure, key: str, draw: _Draw) -> str | None:
    """What a key that is ``None`` stands for, found by recording."""
    hidden = found.roles["H"]
    without = {k: v for k, v in draw.raw.items() if k != key}
    try:
        program = _program(without, draw, found)
    except InputError:
        return None  # it must be given
    for text in (f"{hidden} / {found.heads}", f"4 * {hidden}", found.heads, hidden):
        value = int(evaluate(text, draw.raw))
        if _program({**without, key: value}, draw, found) == program:
            return f"={text}"
    return None
