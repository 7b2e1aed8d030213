"""What is wrong with a config.json of Llama, Mistral, Qwen2 or Qwen3, by its keys.

Sources: ``configuration_{llama,mistral,qwen2,qwen3}.py`` of transformers 5. Sizes must be given: the classes' defaults
are those of one model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError, shown
from ..programs.keys import Keys

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def check_config(raw: Mapping[str, Any], where: str) -> None:
    """Raise ``InputError`` for a value that no model has."""
    family = raw["model_type"]
    keys = Keys(raw, where)
    number, flag = keys.number, keys.flag
    hidden, heads, layers = number("hidden_size"), number("num_attention_heads"), number("num_hidden_layers")
    for key in ("vocab_size", "intermediate_size"):
        number(key)
    kv_default = {"llama": heads, "mistral": 8}.get(family, 32)
    if "num_key_value_heads" in raw and raw["num_key_value_heads"] is None:
        kv_default = heads
    kv_heads = number("num_key_value_heads", kv_default)
    if heads % kv_heads:
        raise InputError(f"{where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if family == "llama" and hidden % heads:
        raise InputError(f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    head_dim = number("head_dim", 128 if family == "qwen3" else max(hidden // heads, 1))
    if head_dim % 2:
        raise InputError(f"{where}: head_dim is {head_dim}; rotary embeddings need an even one")
    if not isinstance(raw.get("hidden_act", "silu"), str):
        raise InputError(f"{where}: hidden_act {shown(raw['hidden_act'])} is no name of an activation")
    dropout = raw.get("attention_dropout") or 0.0
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise InputError(f"{where}: attention_dropout is {shown(dropout)}; it must be at least 0 and below 1")
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        flag(key, False)
    if family == "mistral":
        if raw.get("sliding_window") is not None:
            number("sliding_window")
    elif family != "llama":
        window = flag("use_sliding_window", False) and raw.get("sliding_window", 1) is not None
        if window:
            number("sliding_window", 4096)
        _check_layer_types(keys, layers, window)


def _check_layer_types(keys: Keys, layers: int, window: bool) -> None:
    kinds = keys.kinds("layer_types", layers)
    if kinds is None:
        keys.number("max_window_layers", 28, least=0)
        return
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise InputError(f"{keys.where}: layer type {shown(kind)} is not full_attention or sliding_attention")
    if not window and "sliding_attention" in kinds:
        raise InputError(f"{keys.where}: layer_types asks for sliding_attention, but use_sliding_window is off")
