"""Sorts the keys of a config's class, before its programs are recorded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...programs.attention_functions import WIDE
from ...programs.config_values import SHARING, letters_of, one_for_all, with_rope
from ...programs.expressions import names
from ...programs.program import layer_numbers
from .. import config_reads
from ..fit import fit
from ..loops import rolled
from .cases import Case
from .configs import (
    CHUNKS,
    KV_HEADS,
    LONGEST,
    ROLES,
    ROPE,
    chunk_key,
    class_config,
    list_makers,
    model_of,
    other_names_of,
    resolved_keys,
    window_key,
    without_factors,
)
from .draws import DRAWS, drawn_config, recorded_draw
from .keys import defaults_of, of_module, probe
from .lists import lists_of
from .structure import DERIVED, Structure

_KV_HEADS_OF = "_key_value_heads"
"""What the name of a key ends with that says how many heads of keys and values some layers have."""


def structure_of(
    raw: Mapping[str, Any], case: Case, rng: random.Random, power: bool, groups: bool = False
) -> tuple[Structure, dict[str, Any], dict[str, Any]]:
    """What is known of a config's class, the rules of its lists, and its defaults.

    ``groups``: heads are grouped, also where the config has as many of keys and values as of queries.
    """
    raw = {key: value for key, value in raw.items() if key not in ("architectures", "dtype", "torch_dtype", "auto_map")}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(raw.get(key), Mapping):
            raw[key] = without_factors(raw[key])
    config = resolved_keys(raw)
    kind = with_rope(config).get("rope_type")
    if kind is not None and not {*str(kind).split("/")} <= ROPE:
        raise InputError(f"rope_type {kind} changes with the length of the sequence; there is no rule for that")
    bare = resolved_keys({"model_type": raw["model_type"]})
    made = list_makers(raw, bare)
    raw = {key: value for key, value in raw.items() if key not in made}
    raw = {
        key: float(value) if type(bare.get(key)) is float and type(value) is int else value
        for key, value in raw.items()
    }
    other_names = other_names_of(raw, config)
    raw = {key: value for key, value in raw.items() if key not in other_names}
    raw |= {key: config[key] for key in other_names.values()}
    raw = {key: one_for_all(value) if key in ROLES["I"] else value for key, value in raw.items()}
    found = Structure(raw, case, power=power, other_names=other_names)
    found.attention = model_of(raw).attention
    found.derived = {
        name: text
        for name, text in DERIVED
        if all(key == "S" or config.get(key) is not None for key in names(text) - {"int", "min"})
    }
    map_ = dict(class_config(raw).attribute_map)

    def name(key: str) -> str:
        return str(map_.get(key, key))

    found.layers, found.heads = name("num_hidden_layers"), name("num_attention_heads")
    if found.layers not in config:  # the class counts the entries of a list
        layers = class_config(raw).num_hidden_layers
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
    for letter, keys in ROLES.items():
        for key in keys:
            if name(key) in config:
                found.roles[letter] = name(key)
                break
    found.kv_heads = next((name(key) for key in KV_HEADS if name(key) in config), None)
    if found.kv_heads is not None:
        groups = groups and "qk_rope_head_dim" not in config  # latent attention gives each head keys of its own
        found.grouped = groups or config[found.kv_heads] not in (None, config[found.heads])
        found.structure[f"{found.heads} = {found.kv_heads}"] = not found.grouped
    for key, value in {**raw, **config}.items():
        if key.endswith(_KV_HEADS_OF) and key != found.kv_heads and type(value) is int:
            found.other_heads.append(key)
            found.structure |= {f"{key} = 1": value == 1, f"{key} = {found.heads}": False}
    rope = with_rope(config)
    found.partial = rope.get("partial_rotary_factor", 1.0) not in (None, 1.0)
    if sections := rope.get("mrope_section") or of_module("mrope_section", raw):
        found.rotary = 2 * sum(sections)
        found.structure["mrope_section"] = list(sections)
    if kind == "dynamic":  # compares the sequence with it
        found.symbols.append(LONGEST)
        raw.setdefault(LONGEST, config[LONGEST])
    found.window, found.chunk = window_key(config), chunk_key(config)
    if found.chunk is not None:
        found.derived["chunks"] = f"int((S + {found.chunk} - 1) / {found.chunk})"
    if found.chunk is not None and found.chunk.isdigit():
        found.derived["padded"] = f"{found.chunk} * int((S + {found.chunk} - 1) / {found.chunk})"
    head_dim = config.get(name("head_dim")) or config[hidden] // config[found.heads]
    reads_it = "D" not in found.roles and _reads_head_dim(found, rng)
    if reads_it:
        raw["head_dim"], found.roles["D"] = head_dim, "head_dim"
    free = _fits(found, rng) if reads_it else _free_heads(found, rng)
    if "D" in found.roles and head_dim == config[hidden] // config[found.heads] and not free:
        del found.roles["D"]
        raw.pop("head_dim", None)
        config = resolved_keys(raw)
        found.structure[f"head_dim = {hidden} / {found.heads}"] = True
    found.wide = head_dim > WIDE
    if found.rotary is not None:
        size = found.roles.get("D", f"{hidden} / {found.heads}")
        whole = f"{size} = {found.rotary}"
        part = f"{found.rotary} = int({size} * partial_rotary_factor)"
        found.structure[part if found.partial else whole] = True
    found.latent = "qk_nope_head_dim" in config
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
    lists = lists_of(found, config)
    probe(found, config, rng, lists)
    found.depth_is_size = _depth_is_size(found, rng)
    if not {*CHUNKS} & {*found.symbols}:  # no layer has such a state
        found.harmless += [found.chunk] if found.chunk is not None else []
        found.chunk = None
        found.structure.pop(f"mamba_expand = mamba_n_heads * mamba_d_head / {found.roles['H']}", None)
        found.derived = {k: text for k, text in found.derived.items() if k not in ("chunks", "padded")}
    return found, lists, defaults_of(found, rng)


def _depth_is_size(found: Structure, rng: random.Random) -> bool:
    """Whether a parameter outside the layers has another shape in a deeper model of the same sizes."""
    seed, shapes = rng.random(), []
    for more in (0, 1):
        _, program = recorded_draw(found, random.Random(seed), depth=found.depth + more)
        numbers = layer_numbers(
            [p.name for p in program.parameters], [program.stacks[0].path.format(i) for i in range(99)]
        )
        shapes.append([p.shape for p in program.parameters if p.name not in numbers])
    return shapes[0] != shapes[1]


def _reads_head_dim(found: Structure, rng: random.Random) -> bool:
    """Whether a model asks a config for ``head_dim`` whose class does not have it."""
    try:
        with config_reads.noted() as reads:
            recorded_draw(found, rng)
    except InputError:
        return False
    return "head_dim" in reads


def _fits(found: Structure, rng: random.Random) -> bool:
    """Whether all sizes of random models are expressions of the sizes that are known so far."""
    try:
        recorded = [recorded_draw(found, rng) for _ in range(DRAWS)]
        fit([(draw.values, rolled(program)) for draw, program in recorded])
    except InputError:
        return False
    return True


def _free_heads(found: Structure, rng: random.Random) -> bool:
    """Whether the class takes any size of a head beside any hidden size."""
    for _ in range(3):
        draw = drawn_config(found, rng, 2)
        try:
            class_config(draw.raw)
        except InputError:
            return False
    return True
