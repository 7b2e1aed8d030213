"""What a repository's name says of weights that it publishes again: how they are quantised.

The hub's own config.json goes first. The name counts where the hub is not reached.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_4BIT = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
_NF4 = "Unsloth's 4-bit checkpoints have NF4, double quantisation and products in bfloat16"
_REPLACES = "Its config.json replaces it"


class Packing(NamedTuple):
    """How a repository holds the linear layers' weights."""

    quantization: Mapping[str, Any] | None
    """What its config.json is taken to say as ``quantization_config``; ``None`` where names do not say enough."""
    why: str = ""
    """Who packs weights like this."""
    dtype: str | None = None
    """The dtype of the other weights; ``None`` for the model's own."""


_PACKINGS: Mapping[str, Packing] = {
    r"bnb-4bit|bnb-nf4": Packing(_4BIT, f"{_NF4}. {_REPLACES}"),
    r"unsloth-bnb-4bit": Packing(
        _4BIT,
        f"{_NF4}. Of this kind some linear layers stay in 16 bits, and only the config.json names them: up to a tenth "
        "more by Unsloth's account (unsloth.ai/blog/dynamic-4bit)",
    ),
    r"awq(?:-int4|-4bit)?|int4-awq": Packing(
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
        f"AutoAWQ's default is groups of 128 with zero points, beside float16. {_REPLACES}",
        "float16",
    ),
    r"gptq(?:-int4|-4bit)?|int4-gptq": Packing(
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        f"GPTQ commonly has groups of 128, beside float16. {_REPLACES}",
        "float16",
    ),
    r"gguf|gptq-(?:int8|8bit)|fp8(?:-dynamic)?|(?:nv|mx)?fp4|int[48]|w4a16|w8a(?:8|16)|[2-8]bit|bnb-8bit|exl2": Packing(
        None
    ),
}
"""Packings by the ends of names, in lower case."""


def packing_of(model: str) -> tuple[str, Packing] | None:
    """A hub id or a name without the words for its packing, and the packing; ``None`` for an id that says none."""
    ends = ((re.search(rf"-(?:{end})$", model.lower()), packing) for end, packing in _PACKINGS.items())
    found = [(match.start(), packing) for match, packing in ends if match]
    if not found:
        return None
    start, packing = min(found, key=lambda one: one[0])  # of -unsloth-bnb-4bit, all of it
    return model[:start], packing
