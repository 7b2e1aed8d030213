"""What stands at the head of a GGUF file: metadata and the table of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from .ggml import TYPES


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file: type and shape, innermost dimension first."""

    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        block, size = TYPES[self.kind]
        return prod(self.shape) // block * size


@dataclass(frozen=True)
class Strings:
    """A list of strings of which only the numbers are kept."""

    count: int
    nbytes: int
    """Bytes of all its characters."""


@dataclass(frozen=True)
class Header:
    """A model as the engine sees it before it reads any weight.

    ``metadata`` has the file's keys, those of the architecture without its name in front; ``tensors`` is in the
    file's order.
    """

    architecture: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    n_vocab: int
    tokens: Strings | None = None
    """The vocabulary; ``None`` where the file has none (``no_vocab``) or the header comes from a config."""
    merges: Strings | None = None
    """Merges of a byte-pair tokenizer."""
