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
class Header:
    """A model as the engine sees it before it reads any weight.

    ``metadata`` has the file's keys, those of the architecture without its name in front; ``tensors`` is in the
    file's order.
    """

    architecture: str
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    n_vocab: int
    tokenizer: bool = True
    """The file has a vocabulary (``tokenizer.ggml.model`` is not ``no_vocab``)."""
