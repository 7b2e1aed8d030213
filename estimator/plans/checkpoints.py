"""Weights on disk: the shapes and dtypes that the headers of safetensors files say. No tensor is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..io.files import opened

_MOST_FILES = 1000
_MOST_BYTES = 50_000_000
"""The most bytes of all headers: some 400,000 tensors, and four seconds of work."""
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""PyTorch's floating dtypes by safetensors' names."""
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias", ".attn.bias", "attention.bias")
"""Ends of names under which earlier releases of transformers saved buffers."""


class Checkpoint(NamedTuple):
    """What the files of a folder hold."""

    numbers: Mapping[str, int]
    """How many numbers there are of safetensors' dtypes, those of buffers left out."""
    files: int
    nbytes: int
    """Bytes of the files, headers included."""

    @property
    def dtype(self) -> str | None:
        """The floating dtype that most numbers have; ``None`` where integers are more, as in a quantised checkpoint."""
        return _DTYPES.get(max(self.numbers, key=self.numbers.__getitem__)) if self.numbers else None

    @property
    def parameters(self) -> int | None:
        """The number of parameters; ``None`` for a quantised checkpoint, whose tensors are packed."""
        return sum(self.numbers.values()) if self.numbers.keys() <= _DTYPES.keys() else None


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder; ``None`` where it has no safetensors files of a model.

    Raises ``InputError`` for a file that is cut off or no safetensors file, and for a tensor that two files hold.
    """
    files = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if not files:
        return None
    if len(files) > _MOST_FILES:
        raise InputError(f"folder '{folder}' holds {len(files)} safetensors files; at most {_MOST_FILES} are read")
    try:
        about = [path.stat() for path in files]
    except OSError as error:
        raise InputError(f"cannot read the files of '{folder}': {error.strerror}; download them again") from None
    return _read(folder, tuple(files), tuple((one.st_size, one.st_mtime_ns, one.st_ino) for one in about))


@lru_cache(maxsize=1)
def _read(folder: Path, files: Sequence[Path], about: Sequence[tuple[int, int, int]]) -> Checkpoint:
    """The checkpoint in files of which ``about`` says the size, the time and the number. A plan asks for it twice."""
    names: set[str] = set()
    numbers: Counter[str] = Counter()
    headers = 0
    for path in files:
        with opened(path, "a safetensors file") as file:  # a pipe would never answer
            length = int.from_bytes(file.read(8), "little")
        headers += length if length <= path.stat().st_size else 0  # one that is longer than its file is damaged
        if headers > _MOST_BYTES:
            raise InputError(
                f"the headers of the safetensors files in '{folder}' have more than {_MOST_BYTES:,} bytes; leave one "
                "model's files there"
            )
        for name, dtype, shape in _tensors(path):
            if name in names:
                raise InputError(f"tensor '{name}' is in two files of '{folder}'; leave one model's files there")
            names.add(name)
            if not name.endswith(_BUFFERS):
                numbers[dtype] += prod(shape)
    return Checkpoint(numbers, len(files), sum(size for size, _, _ in about))


def _tensors(path: Path) -> Iterator[tuple[str, str, Sequence[int]]]:
    """The name, safetensors' dtype and shape of each tensor of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                tensor = file.get_slice(name)
                yield name, str(tensor.get_dtype()), tensor.get_shape()
    except (SafetensorError, OSError) as error:
        raise InputError(f"'{path}' is not a whole safetensors file: {error}; download it again") from None
