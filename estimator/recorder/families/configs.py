"""What transformers makes of a config.json, and which of its keys have a part in every family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from ...errors import InputError
from ...programs.config_values import GENERATION, IGNORED, one_for_all
from ...programs.expressions import evaluate
from .. import config_reads
from ..hugging_face import HuggingFaceModel

ROLES = {
    "I": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "V": ("vocab_size",),
    "D": ("head_dim",),
}


KV_HEADS = ("num_key_value_heads", "num_kv_heads")


WINDOWS = {
    "sliding_window": "sliding_window",
    "attention_chunk_size": "attention_chunk_size",
    "local_attention": "int(local_attention / 2)",  # as many on either side
}
"""For the key of the window or of the chunks within which tokens attend, the sequence from which on they do."""


CHUNKS = {"mamba_d_state": "mamba_chunk_size", "ssm_state_size": "chunk_size", "linear_key_head_dim": "64"}
"""For the size of a state, the size of the chunks that such layers cut the sequence into."""


ROPE = {"default", "linear", "llama3", "yarn", "proportional", "longrope", "dynamic", "dynamic with alpha"}
"""The kinds of rotary embeddings that make the same calls at all lengths (``modeling_rope_utils.py``), ``dynamic`` to
``LONGEST``."""


LONGEST = "max_position_embeddings"


def model_of(raw: Mapping[str, Any]) -> HuggingFaceModel:
    """The causal language model of a config; where its class has none, the one with the first head that it has."""
    try:
        return HuggingFaceModel(raw, "the config")
    except InputError:
        for head in ("masked-lm", "sequence-classification"):
            with suppress(InputError):
                return HuggingFaceModel(raw, "the config", head)
        raise


def class_config(raw: Mapping[str, Any]) -> Any:
    """The config that transformers makes."""
    return model_of(raw).config


def window_key(config: Mapping[str, Any]) -> str | None:
    """The key of the sliding window or of the chunks within which tokens attend."""
    return next((key for key in WINDOWS if config.get(key)), None)


def chunk_key(config: Mapping[str, Any]) -> str | None:
    """The size of the chunks of state-space layers, as ``Family.chunk``."""
    return next((size for key, size in CHUNKS.items() if type(config.get(key)) is int), None)


def resolved_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Its keys, with those that the class fills in."""
    config = dict(class_config(raw).to_dict())
    return config | {key: one_for_all(config[key]) for key in ROLES["I"] if key in config}


def other_names_of(raw: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Keys that the class does not keep, each with the key that it sets."""
    found = {}
    for key, value in raw.items():
        if key in config or key in IGNORED or not isinstance(value, int):
            continue
        changed = not value if isinstance(value, bool) else value + 1
        try:
            resolved = resolved_keys({**raw, key: changed})
        except InputError:
            continue
        others = [other for other, x in resolved.items() if x != config.get(other)]
        if len(others) == 1 and resolved[others[0]] == changed:
            found[key] = others[0]
    return found


def list_makers(raw: Mapping[str, Any], own: Collection[str]) -> set[str]:
    """Keys, none of the class's ``own``, of which it makes lists with an entry per layer that this config.json gives.

    A config.json without these lists is another structure, so such a key is none of this one's (``foreign_keys``).
    """
    layers = resolved_keys(raw).get("num_hidden_layers")
    lists = {key for key, value in raw.items() if isinstance(value, list) and len(value) == layers}
    without = {key: value for key, value in raw.items() if key not in lists}
    found = set()
    for key in (config_reads.named_by(class_config(raw)) & {*without}) - {*own} if lists else ():
        kept, left = resolved_keys(without), resolved_keys({k: x for k, x in without.items() if k != key})
        unset = raw[key] is None and _set_by(key, without) & {*lists, key}
        if unset or any(kept.get(name) != left.get(name) for name in lists):
            found.add(key)
    return found


def without_factors(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings without the factors of long rope, of which each head's size has its own number."""
    return {key: value for key, value in rope.items() if key not in ("short_factor", "long_factor")}


def asked_in_vain(keys: Collection[str]) -> set[str]:
    """Of the keys that modules asked for, those that may matter."""
    return {key for key in keys if key not in IGNORED | GENERATION and not key.startswith("_")}


def foreign_keys(asked: Collection[str], raw: Mapping[str, Any], harmless: Collection[str]) -> dict[str, Any]:
    """What a file says of the keys that a config's class does not have.

    ``reads`` are those that may matter: the modules ``asked`` for them in vain, or the class sets other keys by them.
    Of these, ``fills`` has what each sets where a config.json leaves that out, and ``sets`` expressions of what they
    set whatever a config.json says.
    """
    config = class_config(raw)
    keys = dict(config.to_dict())
    lists = [key for key, x in keys.items() if isinstance(x, list) and len(x) == config.num_hidden_layers]
    without = {key: value for key, value in raw.items() if key not in lists}
    reads, fills, sets = asked_in_vain(asked), {}, {}
    for key in sorted(asked_in_vain(config_reads.named_by(config)) - {*keys} - reads):
        if found := _set_by(key, {**raw, **keys}) - {*harmless}:
            reads.add(key)
            other = min(found)
            for text in (key, f"{key} + 1", f"{key} - 1"):
                if len(found) == 1 and _follows(other, text, key, {**raw, **keys}):
                    sets[other] = text
        elif found := _set_by(key, without) - {*harmless}:
            reads.add(key)
            fills[key] = sorted(lists if key in found else found)
    return {"reads": sorted(reads), **({"fills": fills} if fills else {}), **({"sets": sets} if sets else {})}


_TRIED = (1, 3, 0.5, True, "M", [1, 2])


def _set_by(key: str, raw: Mapping[str, Any]) -> set[str]:
    """The keys that the class sets by another one; that one itself where the class takes no value that is tried."""
    plain, found, taken = resolved_keys(raw), set(), False
    for value in _TRIED:
        with suppress(Exception):  # whatever the class says of it
            changed = resolved_keys({**raw, key: value})
            taken = True
            found |= {other for other in {*plain, *changed} - {key} if plain.get(other) != changed.get(other)}
    return found if taken else {key}


def _follows(other: str, text: str, key: str, raw: Mapping[str, Any]) -> bool:
    """Whether the class sets a key to an expression of another one."""
    with suppress(Exception):
        return all(resolved_keys({**raw, key: value})[other] == evaluate(text, {key: value}) for value in (5, 40))
    return False
