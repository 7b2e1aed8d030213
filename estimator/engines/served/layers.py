"""What each layer of a model keeps of a request: keys and values, a window of them, what is latent, or a state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from ...programs import Config
from .weights import kv_heads, mamba2

Kind = Literal["full", "window", "chunk", "latent", "state"]
ATTENTION = re.compile(r"\.(\d+)\.(?:.*\.)?(?:k_proj|qkv_proj|query_key_value|c_attn|Wqkv|kv_a_proj_with_mqa)\.weight$")
"""Parameters of the layers that keep keys and values of their own. Layers that use another layer's have none."""
STATES = re.compile(r"\.(\d+)\.(?:.*\.)?(mamba|mixer|linear_attn|conv)\.(?:conv1d|conv)\.weight$")
INDEX_SCALE = 4
"""Bytes beside a token's key of a sparse attention's index, which is in float8."""
ROUTER_OF_CHUNKS = 4
"""Of so many layers of Llama 4 the last sees all tokens."""


def having(parameters: re.Pattern[str], config: Config) -> list[int]:
    """The layers that have such parameters."""
    return sorted({int(match[1]) for name in config.parameters if (match := parameters.search(name))})


def heads_of(i: int, config: Config, raw: Mapping[str, Any]) -> tuple[int, int]:
    """Heads of keys and their size, of a layer."""
    if raw.get("global_head_dim") and raw["layer_types"][i] == "full_attention":
        heads = raw.get("num_global_key_value_heads") if raw.get("attention_k_eq_v") else None
        return heads or raw["num_key_value_heads"], raw["global_head_dim"]
    size = raw.get("head_dim") if "global_head_dim" in raw else None
    heads = raw["num_key_value_heads"] if size else kv_heads(config, raw)
    return heads, size or config.head_dim


def seen_of(i: int, config: Config, raw: Mapping[str, Any]) -> tuple[Kind, int | None]:
    """Whether a layer sees all tokens, and how many else."""
    if chunk := raw.get("attention_chunk_size"):
        return ("full", None) if (i + 1) % ROUTER_OF_CHUNKS == 0 else ("chunk", chunk)
    windowed = config.windowed_layers[i] if i < len(config.windowed_layers) else False
    if not windowed or config.sliding_window is None:
        return "full", None
    return "window", config.sliding_window + (config.family == "cohere2")


def state_of(raw: Mapping[str, Any], ranks: int, drafted: int = 0) -> tuple[int, int]:
    """Numbers in a layer's state of one request: the last inputs of its convolution, and the recurrent state."""
    if "conv_L_cache" in raw:
        return raw["hidden_size"] // ranks * (raw["conv_L_cache"] - 1), 0
    if "linear_num_value_heads" in raw:
        key, value = raw["linear_key_head_dim"], raw["linear_value_head_dim"]
        keys, values = raw["linear_num_key_heads"], raw["linear_num_value_heads"]
        convolved = (2 * keys * key + values * value) // ranks * (raw["linear_conv_kernel_dim"] - 1 + drafted)
        return convolved, values // ranks * key * value
    size = mamba2(raw)
    groups = size.groups if size.groups % ranks == 0 else ranks
    convolved = (size.heads * size.head + 2 * groups * size.state) // ranks * (size.kernel - 1 + drafted)
    return convolved, size.heads // ranks * size.head * size.state
