"""Weights on disk: the shapes and dtypes that the headers of safetensors files say. No tensor is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..errors import InputError
from ..files import opened

_MOST_FILES = 1000
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""PyTorch's floating dtypes by safetensors' names."""
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias", ".attn.bias", "attention.bias")
"""Ends of names under which earlier releases of transformers saved buffers."""


@dataclass(frozen=True)
class Checkpoint:
    """What the files of a folder hold."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """safetensors' dtype and the shape, by the tensor's name."""
    files: int
    nbytes: int
    """Bytes of the files, headers included."""

    @property
    def dtype(self) -> str | None:
        """The floating dtype that most numbers have; ``None`` where integers are more, as in a quantised checkpoint."""
        numbers: Counter[str] = Counter()
        for name, (dtype, shape) in self.tensors.items():
            if not name.endswith(_BUFFERS):
                numbers[dtype] += prod(shape)
        return _DTYPES.get(numbers.most_common(1)[0][0]) if numbers else None

    @property
    def parameters(self) -> int | None:
        """The number of parameters; ``None`` for a quantised checkpoint, whose tensors are packed."""
        if any(dtype not in _DTYPES for name, (dtype, _) in self.tensors.items() if not name.endswith(_BUFFERS)):
            return None
        return sum(prod(shape) for name, (_, shape) in self.tensors.items() if not name.endswith(_BUFFERS))


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder; ``None`` where it has no safetensors files of a model.

    Raises ``InputError`` for a file that is cut off or no safetensors file, and for a tensor that two files hold.
    """
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not files:
        return None
    if len(files) > _MOST_FILES:
        raise InputError(f"folder '{folder}' holds {len(files)} safetensors files; at most {_MOST_FILES} are read")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in files:
        for name, found in _header(path).items():
            if name in tensors:
                raise InputError(f"tensor '{name}' is in two files of '{folder}'; leave one model's files there")
            tensors[name] = found
    return Checkpoint(tensors, len(files), sum(path.stat().st_size for path in files))


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open

    opened(path, "a safetensors file").close()  # a pipe would never answer
    try:
        with safe_open(str(path), framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            return {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}; download it again") from None
