"""The numbers of a model whose program is written by hand: one of litgpt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ..ledger import Size
from .families import module_table
from .module_table import ModuleTable
from .sizes import Run, Sizes, runs_of
from .step import Step


@dataclass(frozen=True)
class Config:
    """The numbers of one model that change memory."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    sliding_window: int | None
    windowed_layers: tuple[bool, ...]
    """For each layer, whether it has the sliding window."""
    open_sizes: ClassVar[bool] = False
    """Whether the sizes can be symbols in formulas."""

    @cached_property
    def modules(self) -> ModuleTable:
        """The table of the model's modules."""
        return module_table(self.numbers(()), self.num_hidden_layers)

    @property
    def parameters(self) -> Mapping[str, tuple[Size, ...]]:
        """Names and shapes of the parameters that a method may adapt by name: none."""
        return {}

    @property
    def counts(self) -> tuple[int, int, int, int, int, int]:
        """The numbers that ``Sizes`` begins with."""
        groups = self.num_attention_heads // self.num_key_value_heads
        return (
            *(self.vocab_size, self.hidden_size, self.intermediate_size),
            *(self.num_key_value_heads, groups, self.head_dim),
        )

    def numbers(self, runs: tuple[Run, ...]) -> Sizes:
        """The model's sizes as numbers."""
        return Sizes(*self.counts, runs)

    def sizes(
        self, signature: Callable[[int], Hashable], step: Step, batch: Size, seq: Size, symbolic: bool = False
    ) -> Sizes:
        """Sizes for a program, which are numbers. Neighbouring layers form a run if ``signature`` of their indices is
        equal.
        """
        return self.numbers(self._runs(signature))

    def values(self) -> dict[str, int]:
        """The values of the symbols in formulas of open sizes."""
        return {}

    def _runs(self, signature: Callable[[int], Hashable]) -> tuple[Run, ...]:
        kinds = [(self.windowed_layers[i], signature(i)) for i in range(self.num_hidden_layers)]
        return tuple(Run(start, count, kinds[start][0], kinds[start]) for start, count in runs_of(kinds))
