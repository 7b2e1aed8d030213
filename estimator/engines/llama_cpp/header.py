"""The header of a GGUF file: metadata and the table of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from .ggml import row_bytes


@dataclass(frozen=True)
class TensorInfo:
    """The type of a tensor in the file, and its shape, innermost dimension first."""

    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return row_bytes(self.kind, prod(self.shape))


@dataclass(frozen=True)
class Strings:
    """A list of strings, of which only the count and the size are kept."""

    count: int
    nbytes: int
    """Bytes of all characters."""


@dataclass(frozen=True)
class Header:
    """A model as the engine sees it before it reads the weights.

    ``metadata`` has the architecture's keys, without its name in front. ``tensors`` has the file's order.
    """

    architecture: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    n_vocab: int
    tokens: Strings | None = None
    """The vocabulary; ``None`` where the file has none (``no_vocab``) or the header comes from a config."""
    merges: Strings | None = None
    """The merges of a byte-pair tokenizer."""
