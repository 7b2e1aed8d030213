"""What transformers makes of a config.json, and which of its keys have a part in every family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from ...errors import InputError
from ...programs.config_values import GENERATION, IGNORED, one_for_all
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


def without_factors(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings without the factors of long rope, of which each head's size has its own number."""
    return {key: value for key, value in rope.items() if key not in ("short_factor", "long_factor")}


def foreign_keys(reads: Collection[str], config: Any) -> set[str]:
    """Of the keys that were asked for in vain, and those that the code of the class names, those that may matter."""
    named = config_reads.named_by(config) - set(config.to_dict())
    return {key for key in {*reads, *named} - IGNORED - GENERATION if not key.startswith("_")}
