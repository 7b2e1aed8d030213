"""The header of a GGUF file, read with every length checked against the file before it is believed.

Format: ``docs/gguf.md`` of ggml, ``ggml/src/gguf.cpp``. The gguf package's reader makes NumPy arrays of every token
(9 seconds for a vocabulary of 262,144), so the header is walked here; the package is the tests' witness.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import InputError, shown
from .ggml import TYPES
from .header import Header, Strings, TensorInfo

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TENSOR_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64",
    29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4",
}  # fmt: skip
"""``enum ggml_type``."""
_KEPT = 4096
"""Elements up to which an array of numbers is kept; longer ones (scores, token types) are skipped."""


@dataclass
class _Cursor:
    """A place in the file. Nothing is read past its end."""

    data: mmap.mmap
    where: str
    at: int = 0

    def need(self, size: int, what: str) -> int:
        """Step over ``size`` bytes; returns where they start. Raises ``InputError`` at the file's end."""
        start = self.at
        if size > len(self.data) - start:
            raise InputError(
                f"'{self.where}': {what} goes past the end of the file ({len(self.data):,} bytes); is it cut off?"
            )
        self.at += size
        return start

    def scalar(self, code: str, what: str) -> Any:
        """One number."""
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self.data, self.need(layout.size, what))[0]

    def text(self, what: str) -> str:
        """A string."""
        length = self.scalar("Q", what)
        start = self.need(length, what)
        return self.data[start : start + length].decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        """A value of a type."""
        if kind == _STRING:
            return self.text(what)
        if kind == _ARRAY:
            return self._array(what)
        if kind not in _SCALARS:
            raise InputError(f"'{self.where}': {what} has type {kind}, which GGUF does not know; is the file damaged?")
        return self.scalar(_SCALARS[kind], what)

    def _array(self, what: str) -> Any:
        kind, count = self.scalar("I", what), self.scalar("Q", what)
        if kind == _STRING:
            start = self.at
            length = struct.Struct("<Q")
            for _ in range(min(count, len(self.data) // 8 + 1)):
                self.need(length.unpack_from(self.data, self.need(8, what))[0], what)
            if count > len(self.data) // 8:
                self.need(len(self.data), what)
            return Strings(count, self.at - start - 8 * count)
        if kind not in _SCALARS:
            raise InputError(f"'{self.where}': {what} is an array of type {kind}, which GGUF does not know")
        layout = struct.calcsize("<" + _SCALARS[kind])
        start = self.need(count * layout, what)
        if count > _KEPT:
            return None
        return list(struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, start))


def read(path: Path) -> Header:
    """A file's header. Raises ``InputError`` for what the engine would refuse to load."""
    if path.exists() and not path.is_file():
        raise InputError(f"'{path}' is no regular file; give a GGUF file")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise InputError(f"'{path}' is empty; give a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(_Cursor(data, str(path)))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from None


def _header(cursor: _Cursor) -> Header:
    where = cursor.where
    start = cursor.need(4, "its magic number")
    if cursor.data[start : start + 4] != b"GGUF":
        raise InputError(f"'{where}' is no GGUF file: it does not start with GGUF")
    version = cursor.scalar("I", "its version")
    if version not in (2, 3):
        raise InputError(f"'{where}' is GGUF version {shown(version)}; the engine reads 2 and 3")
    n_tensors, n_keys = cursor.scalar("Q", "the number of tensors"), cursor.scalar("Q", "the number of keys")
    # A key takes 13 bytes at least, a tensor 24.
    if 13 * n_keys + 24 * n_tensors > len(cursor.data):
        raise InputError(
            f"'{where}' claims {n_tensors:,} tensors and {n_keys:,} keys, more than its {len(cursor.data):,} bytes "
            "can hold; is it damaged?"
        )
    keys: dict[str, Any] = {}
    for i in range(n_keys):
        key = cursor.text(f"key {i + 1} of {n_keys}")
        if key in keys:
            raise InputError(f"'{where}' has the key {shown(key)} twice; is it damaged?")
        keys[key] = cursor.value(cursor.scalar("I", shown(key)), shown(key))
    tensors, places = _tensors(cursor, n_tensors)
    alignment = keys.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise InputError(f"'{where}': general.alignment is {shown(alignment)}; it must be a power of two")
    data = -(-cursor.at // alignment) * alignment
    for name, tensor in tensors.items():
        excess = data + places[name] + tensor.nbytes - len(cursor.data)
        if excess > 0:
            raise InputError(
                f"'{where}': tensor {shown(name)} ends {excess:,} bytes past the end of the file; is it cut off?"
            )
    return _of(where, keys, tensors)


def _tensors(cursor: _Cursor, count: int) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    found: dict[str, TensorInfo] = {}
    places: dict[str, int] = {}
    where = cursor.where
    for i in range(count):
        what = f"tensor {i + 1} of {count}"
        name = cursor.text(what)
        if name in found:
            raise InputError(f"'{where}' has the tensor {shown(name)} twice; is it damaged?")
        dimensions = cursor.scalar("I", what)
        if not 1 <= dimensions <= 4:
            raise InputError(f"'{where}': tensor {shown(name)} has {dimensions} dimensions; GGUF allows 1 to 4")
        shape = tuple(cursor.scalar("Q", what) for _ in range(dimensions))
        number = cursor.scalar("I", what)
        if number not in _TENSOR_TYPES:
            raise InputError(f"'{where}': tensor {shown(name)} has type {number}, which this version does not know")
        kind = _TENSOR_TYPES[number]
        if not all(1 <= size < 1 << 62 for size in shape) or prod(shape) >= 1 << 62:
            raise InputError(f"'{where}': tensor {shown(name)} has shape {list(shape)}; is the file damaged?")
        block = TYPES[kind][0]
        if shape[0] % block:
            raise InputError(
                f"'{where}': tensor {shown(name)} has rows of {shape[0]:,} elements, which blocks of {block} "
                f"({kind.upper()}) do not divide; quantise it to a type with smaller blocks"
            )
        places[name] = cursor.scalar("Q", what)
        found[name] = TensorInfo(kind, shape)
    return dict(sorted(found.items(), key=lambda item: places[item[0]])), places


def _of(where: str, keys: dict[str, Any], tensors: dict[str, TensorInfo]) -> Header:
    if isinstance(parts := keys.get("split.count"), int) and parts > 1:
        raise InputError(
            f"'{where}' is one of {parts} parts; merge them with `llama-gguf-split --merge` and give that file"
        )
    architecture = keys.get("general.architecture")
    if not isinstance(architecture, str):
        raise InputError(f"'{where}' does not say its architecture (general.architecture); is it a model?")
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InputError(f"'{where}' has no token embedding (token_embd.weight); give a language model's file")
    prefix = f"{architecture}."
    metadata = {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}
    tokens = keys.get("tokenizer.ggml.tokens")
    if keys.get("tokenizer.ggml.model", "no_vocab") == "no_vocab" or not isinstance(tokens, Strings):
        tokens = None
    n_vocab = metadata.get("vocab_size", embedding.shape[1]) if tokens is None else tokens.count
    if not isinstance(n_vocab, int) or n_vocab != embedding.shape[1]:
        raise InputError(
            f"'{where}': the vocabulary has {shown(n_vocab)} entries, but the token embedding {embedding.shape[1]:,} "
            "rows; the engine refuses that"
        )
    merges = keys.get("tokenizer.ggml.merges")
    return Header(
        architecture,
        metadata,
        tensors,
        n_vocab,
        tokens,
        merges if isinstance(merges, Strings) else None,
    )
