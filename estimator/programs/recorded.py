"""The numbers of a model whose program is recorded, and where its programs come from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from ..ledger import Size
from .module_table import ModuleTable, NamedModule
from .program import Program, Stored
from .sizes import Run, runs_of
from .step import Step


class Source(Protocol):
    """Where a model's programs come from."""

    @property
    def attention(self) -> str:
        """The attention implementation that transformers picks for the model."""

    @property
    def origin(self) -> str:
        """A sentence that says from which releases the programs are; empty where the answer need not say it."""

    def modules(self) -> tuple[NamedModule[Any], ...]:
        """The model's modules, in the order of ``named_modules()``, each with the number of its layer."""

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        """The program of a forward pass. Raises ``InputError`` where there is none."""


@dataclass(frozen=True)
class RecordedSizes:
    """What a recorded model is built from: a program, its runs of equal layers, and where its other programs are."""

    source: Source
    program: Program
    runs: tuple[Run, ...]
    hidden: Size
    kv_heads: Size
    head_dim: Size
    given: tuple[Stored, ...] = ()
    """The inputs of a module of the user's own, which a step makes. Empty for a language model."""

    def layers(self, windowed: bool | None = None) -> Size:
        """The number of all layers, or of those with (``True``) or without (``False``) a sliding window."""
        return sum((run.count for run in self.runs if windowed in (None, run.windowed)), 0)


@dataclass(frozen=True)
class RecordedConfig:
    """The numbers of a recorded model that methods and answers ask for."""

    family: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    sliding_window: int | None
    windowed_layers: tuple[bool, ...]
    """For each layer, whether it has the sliding window."""
    source: Source
    given: tuple[Stored, ...] = ()
    """The inputs of a module of the user's own. Empty for a language model."""
    attention_dropout: float = 0.0
    open_sizes = False
    """Whether the sizes can be symbols in formulas."""

    @cached_property
    def modules(self) -> ModuleTable:
        """The table of the model's modules."""
        return ModuleTable(self.source.modules())

    def sizes(
        self, signature: Callable[[int], Hashable], step: Step, batch: Size, seq: Size, symbolic: bool = False
    ) -> RecordedSizes:
        """Sizes for a program. Neighbouring layers form a run if they call the same and their signatures are equal."""
        program = self.source.at(step, batch, seq)
        windowed = (
            self.windowed_layers if len(self.windowed_layers) == len(program.layers) else (False,) * len(program.layers)
        )
        kinds = [(kind, windowed[i], signature(i)) for i, kind in enumerate(program.kinds)]
        runs = tuple(Run(start, count, windowed[start]) for start, count in runs_of(kinds))
        return RecordedSizes(
            self.source, program, runs, self.hidden_size, self.num_key_value_heads, self.head_dim, self.given
        )

    def values(self) -> dict[str, int]:
        """The values of the symbols in formulas of open sizes."""
        return {}


def no_language_model(name: str, source: Source, given: tuple[Stored, ...] = ()) -> RecordedConfig:
    """What answers ask of a module or a step of the user's own. A language model's numbers are zero."""
    return RecordedConfig(
        family=name,
        vocab_size=0,
        hidden_size=0,
        num_hidden_layers=0,
        num_attention_heads=0,
        num_key_value_heads=0,
        head_dim=0,
        tie_word_embeddings=False,
        sliding_window=None,
        windowed_layers=(),
        source=source,
        given=given,
    )
