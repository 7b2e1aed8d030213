"""What is known of a config's class while its family is recorded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ...programs.switches import Switch
from .cases import Case

DERIVED = (
    ("selected", "min(index_topk, S)"),
    (
        "ff_dim",
        "block_multiple_of * int((int(block_ffn_dim_multiplier * int(2 * intermediate_size / 3)) + block_multiple_of"
        " - 1) / block_multiple_of)",
    ),
)
"""Sizes that follow from keys and the sequence by more than a polynomial, as the modelling files compute them."""


@dataclass
class Structure:
    """What is known of a config's class."""

    raw: dict[str, Any]
    case: Case
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
    """Of ``DERIVED``, those whose keys the config has."""
    pattern: list[int] = field(default_factory=list)
    """For each layer of a recording, the layer of the config whose entries in lists it has."""
    lists: list[str] = field(default_factory=list)
    """Keys with an entry per layer."""
    chosen: list[int] = field(default_factory=list)
    """Where layers share what others made: the layers of the config that a recording has at least."""
    chosen_by: int = 1
    """By how many of these a deeper recording has more. Of several, each takes what the first of them made."""
    attention: str = ""
    """What transformers picks for the class."""
    chunk: str | None = None
    """As ``Family.chunk``."""
    other_names: dict[str, str] = field(default_factory=dict)
    """Keys that the class takes for others."""
