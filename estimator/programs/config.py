"""The numbers of a config.json that change memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from ..errors import InputError, shown
from ..ledger import Size
from ..ledger.sizes import symbol
from .families import module_table
from .keys import Keys
from .module_table import ModuleTable
from .sizes import Run, Sizes, runs_of
from .step import Step

_ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh")
"""The activations with a rule; each saves its input only."""


@dataclass(frozen=True)
class Config:
    """The numbers of one model that change memory, with transformers' defaults filled in."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    attention_dropout: float
    sliding_window: int | None
    windowed_layers: tuple[bool, ...]
    """For each layer, whether it has the sliding window."""
    sizes_type: ClassVar[type[Sizes]] = Sizes
    open_sizes: ClassVar[bool] = True
    """Whether the sizes can be symbols in formulas."""

    @cached_property
    def modules(self) -> ModuleTable:
        """The table of the model's modules."""
        return module_table(self.family, self.numbers(()), self.num_hidden_layers)

    def numbers(self, runs: tuple[Run, ...]) -> Sizes:
        """The model's sizes as numbers."""
        return self.sizes_type(
            self.vocab_size,
            self.hidden_size,
            self.intermediate_size,
            self.num_key_value_heads,
            self.num_attention_heads // self.num_key_value_heads,
            self.head_dim,
            runs,
            **self._switches(),
        )

    def sizes(
        self, signature: Callable[[int], Hashable], step: Step, batch: Size, seq: Size, symbolic: bool = False
    ) -> Sizes:
        """Sizes for a program. Neighbouring layers form a run if ``signature`` of their indices is equal.

        ``symbolic``: all sizes are symbols, the number of layers if all are equal, and the head's size unless it
        decides which attention kernel runs.
        """
        open_heads = not step.device.selects_attention or step.attention == "eager"
        runs = self._runs(signature)
        if not symbolic:
            return self.numbers(runs)
        if len(runs) == 1 and self.num_hidden_layers > 4:
            runs = (Run(0, symbol("L"), runs[0].windowed),)
        numbers = self.numbers(runs)
        return replace(
            numbers,
            vocab=symbol("V"),
            hidden=symbol("H"),
            intermediate=symbol("I"),
            kv_heads=1 if numbers.kv_heads == 1 else symbol("K"),
            groups=1 if numbers.groups == 1 else symbol("G"),
            head_dim=symbol("D") if open_heads else self.head_dim,
        )

    def values(self) -> dict[str, int]:
        """The values of the symbols in ``sizes(symbolic=True)``."""
        return {
            "V": self.vocab_size,
            "H": self.hidden_size,
            "I": self.intermediate_size,
            "K": self.num_key_value_heads,
            "G": self.num_attention_heads // self.num_key_value_heads,
            "D": self.head_dim,
            "L": self.num_hidden_layers,
        }

    def _switches(self) -> dict[str, Any]:
        return {
            "qkv_bias": self.qkv_bias,
            "output_bias": self.output_bias,
            "mlp_bias": self.mlp_bias,
            "tied": self.tie_word_embeddings,
            "attention_dropout": self.attention_dropout,
            "wide_heads": self.head_dim > 256,
        }

    def _runs(self, signature: Callable[[int], Hashable]) -> tuple[Run, ...]:
        kinds = [(self.windowed_layers[i], signature(i)) for i in range(self.num_hidden_layers)]
        return tuple(Run(start, count, kinds[start][0], kinds[start]) for start, count in runs_of(kinds))


def parse_config(raw: Mapping[str, Any], where: str) -> Config:
    """Read a config.json's keys with transformers' defaults. Raises ``InputError``.

    Sources: ``configuration_{llama,mistral,qwen2,qwen3}.py`` of transformers 5.
    """
    family = raw["model_type"]
    keys = Keys(raw, where)
    number, flag = keys.number, keys.flag
    hidden, heads, layers = number("hidden_size"), number("num_attention_heads"), number("num_hidden_layers")
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
    activation = raw.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise InputError(f"{where}: hidden_act {shown(activation)} has no rule; known are {', '.join(_ACTIVATIONS)}")
    dropout = raw.get("attention_dropout") or 0.0
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise InputError(f"{where}: attention_dropout is {shown(dropout)}; it must be at least 0 and below 1")

    window: int | None = None
    windowed = (False,) * layers
    if family == "mistral" and ("sliding_window" not in raw or raw["sliding_window"] is not None):
        window = number("sliding_window", 4096)
        windowed = (True,) * layers
    elif family in ("qwen2", "qwen3"):
        if flag("use_sliding_window", False) and ("sliding_window" not in raw or raw["sliding_window"] is not None):
            window = number("sliding_window", 4096)
        windowed = _layer_types(keys, layers, window)
    bias = flag("attention_bias", False) if family in ("llama", "qwen3") else False
    return Config(
        family=family,
        vocab_size=number("vocab_size"),
        hidden_size=hidden,
        intermediate_size=number("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        qkv_bias=bias or family == "qwen2",
        output_bias=bias,
        mlp_bias=family == "llama" and flag("mlp_bias", False),
        tie_word_embeddings=flag("tie_word_embeddings", False),
        attention_dropout=float(dropout),
        sliding_window=window,
        windowed_layers=windowed,
    )


def _layer_types(keys: Keys, layers: int, window: int | None) -> tuple[bool, ...]:
    kinds = keys.kinds("layer_types", layers)
    if kinds is None:
        first = keys.number("max_window_layers", 28, least=0)
        return tuple(window is not None and i >= first for i in range(layers))
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise InputError(f"{keys.where}: layer type {shown(kind)} is not full_attention or sliding_attention")
    if window is None and "sliding_attention" in kinds:
        raise InputError(f"{keys.where}: layer_types asks for sliding_attention, but use_sliding_window is off")
    return tuple(kind == "sliding_attention" for kind in kinds)
