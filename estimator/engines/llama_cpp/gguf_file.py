"""Reads the header of a GGUF file, which may be damaged or hostile: every length is checked before anything is read.

Format: ``docs/gguf.md`` of ggml, ``ggml/src/gguf.cpp``. The gguf package's reader takes 9 seconds for a vocabulary of
262,144 tokens, so the header is read here, and tests compare it with the package's. The limits below are of what
headers hold. The file's size is no limit, since a sparse file of some kilobytes can have any size.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

from ...errors import InputError, shown
from ...io.files import opened
from .ggml import TYPES
from .header import Header, Strings, TensorInfo

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
TENSOR_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 9: "q8_1", 10: "q2_k", 11: "q3_k",
    12: "q4_k", 13: "q5_k", 14: "q6_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s",
    20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64",
    29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4",
}  # fmt: skip
"""``enum ggml_type``."""
HEADER_BYTES = 1 << 26
"""The most bytes of a header. The largest known, with 260,000 tokens and 450,000 merges, have 16 MB."""
MOST_KEYS = 4096
"""The most keys; models have some fifty."""
MOST_TENSORS = 1 << 16
"""The most tensors: 128 in each of 512 layers, the engine's limit."""
KEY_BYTES = 65535
"""The most bytes of a key's name (``docs/gguf.md``)."""
NAME_BYTES = 63
"""The most bytes of a tensor's name (``GGML_MAX_NAME``)."""
_KEPT = 512
"""Arrays of at most so many numbers are kept, enough for one per layer; others (scores, token types) are skipped."""
_TEXT = 4096
"""Texts of at most so many bytes are kept; others (chat templates) are skipped."""
_WINDOW = 1 << 18
_LENGTH = struct.Struct("<Q")


@dataclass
class _Cursor:
    """A position in the file, with a part of the file, the window, in memory."""

    file: BufferedReader
    where: str
    size: int
    """Bytes of the file."""
    at: int = 0
    """The position, in bytes."""
    start: int = 0
    """The window's position."""
    window: bytes = b""

    def need(self, size: int, what: str) -> int:
        """Move behind the next ``size`` bytes; returns where they start. Raises ``InputError`` where the file, or the
        most that a header may have, ends before.
        """
        start = self.at
        if size > self.size - start:
            raise InputError(
                f"'{self.where}': {what} goes past the end of the file ({self.size:,} bytes); is it cut off?"
            )
        if size > HEADER_BYTES - start:
            raise InputError(
                f"'{self.where}': {what} ends more than {HEADER_BYTES >> 20} MiB into the file, where no header is; "
                "is it damaged?"
            )
        self.at += size
        return start

    def take(self, size: int, what: str) -> bytes:
        """The next bytes."""
        start = self.need(size, what)
        self.show(start, size)
        return self.window[start - self.start : start - self.start + size]

    def show(self, start: int, size: int) -> None:
        """Read bytes of the file into the window, unless they are there."""
        if not self.start <= start <= start + size <= self.start + len(self.window):
            self.file.seek(start)
            self.start, self.window = start, self.file.read(max(size, _WINDOW))
            if len(self.window) < size:  # the file was cut while it was read
                raise InputError(f"'{self.where}' ends before its {self.size:,} bytes; does something write it?")

    def scalar(self, code: str, what: str) -> Any:
        """One number."""
        layout = struct.Struct("<" + code)
        return layout.unpack(self.take(layout.size, what))[0]

    def text(self, what: str, most: int) -> str:
        """A string of at most ``most`` bytes."""
        length = self.scalar("Q", what)
        if length > most:
            self.need(length, what)
            raise InputError(f"'{self.where}': {what} has a name of {length:,} bytes; {most:,} are the most")
        return self.take(length, what).decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        """A value of type ``kind``; ``None`` for one that is not kept."""
        if kind == _STRING:
            length = self.scalar("Q", what)
            if length > _TEXT:
                self.need(length, what)
                return None
            return self.take(length, what).decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(what)
        if kind not in _SCALARS:
            raise InputError(f"'{self.where}': {what} has type {kind}, which GGUF does not know; is the file damaged?")
        return self.scalar(_SCALARS[kind], what)

    def _array(self, what: str) -> Any:
        kind, count = self.scalar("I", what), self.scalar("Q", what)
        if kind == _STRING:
            return self._strings(count, what)
        if kind not in _SCALARS:
            raise InputError(f"'{self.where}': {what} is an array of type {kind}, which GGUF does not know")
        layout = struct.calcsize("<" + _SCALARS[kind])
        if count > _KEPT:
            self.need(count * layout, what)
            return None
        return list(struct.unpack(f"<{count}{_SCALARS[kind]}", self.take(count * layout, what)))

    def _strings(self, count: int, what: str) -> Strings:
        start = self.at
        self.need(8 * count, what)  # each has at least its length
        self.at, left, unpack = start, count, _LENGTH.unpack_from
        while left:
            self.need(8, what)
            self.show(self.at - 8, 8)
            place, last = self.at - 8 - self.start, len(self.window) - 8
            while left and place <= last:
                place += 8 + unpack(self.window, place)[0]
                left -= 1
            self.at = start
            self.need(self.start + place - start, what)
        return Strings(count, self.at - start - 8 * count)


Tables = tuple[dict[str, Any], dict[str, TensorInfo]]
"""A file's keys, and its tensors in the order of their data."""


def read(path: Path) -> Header:
    """The header of a file, or of the parts whose first one it is.

    Raises ``InputError`` for files that the engine would refuse to load.
    """
    keys, tensors = tables(path)
    count = keys.get("split.count")
    if isinstance(count, int) and count > 1:
        _add_parts(path, count, keys, tensors)
    return _of(str(path), keys, tensors)


def _add_parts(path: Path, count: int, keys: Mapping[str, Any], tensors: dict[str, TensorInfo]) -> None:
    """Add the tensors of the other parts of a model (``llama_model_loader``, ``llama_split_path``)."""
    found = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    first = f"{found[1] if found else path.stem}-00001-of-{count:05d}.gguf"
    if path.name != first or keys.get("split.no") != 0:
        raise InputError(
            f"'{path}' is part {shown(keys.get('split.no', -1))} of {count}, counted from 0; give the first one, "
            f"{first}"
        )
    total, width = keys.get("split.tensors.count"), keys.get(f"{keys.get('general.architecture')}.embedding_length")
    for number in range(1, count):
        part = path.with_name(f"{found[1]}-{number + 1:05d}-of-{count:05d}.gguf" if found else "")
        if not part.is_file():
            raise InputError(f"'{part}' is missing, part {number + 1} of {count}; put it beside the first one")
        own, more = tables(part)
        told = own.get("split.no"), own.get("split.count"), own.get("split.tensors.count")
        twice = next(iter(more.keys() & tensors.keys()), None)
        norms = {tensor.shape[0] for name, tensor in more.items() if name.endswith(".attn_norm.weight")}
        if told != (number, count, total) or twice is not None or not norms <= {width}:
            why = f"it says that it is part {shown(told[0])} of {shown(told[1])} with {shown(told[2])} tensors in all"
            if told == (number, count, total):
                again = f"it has the tensor {shown(twice)} again"
                why = f"its layers are {min(norms)} wide, not {shown(width)}" if twice is None else again
            raise InputError(f"'{part}' belongs to another model than '{path.name}': {why}; put the model's own there")
        tensors |= more
    if len(tensors) != total:
        raise InputError(
            f"'{path}' and its parts have {len(tensors)} tensors, not the {shown(total)} that it tells of; is one of "
            "them another model's?"
        )


def tables(path: Path) -> Tables:
    """The keys and the tensors of one file. Raises ``InputError``."""
    with opened(path, "a GGUF file") as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise InputError(f"'{path}' is empty; give a GGUF file")
            return _tables(_Cursor(file, str(path), size))
        except OSError as error:
            raise InputError(f"cannot read '{path}': {error.strerror or error}") from None


def _tables(cursor: _Cursor) -> Tables:
    where = cursor.where
    if cursor.take(4, "its magic number") != b"GGUF":
        raise InputError(f"'{where}' is no GGUF file: it does not start with GGUF")
    version = cursor.scalar("I", "its version")
    if version not in (2, 3):
        raise InputError(f"'{where}' is GGUF version {shown(version)}; the engine reads 2 and 3")
    n_tensors, n_keys = cursor.scalar("Q", "the number of tensors"), cursor.scalar("Q", "the number of keys")
    if n_keys > MOST_KEYS or n_tensors > MOST_TENSORS:
        raise InputError(
            f"'{where}' claims {n_tensors:,} tensors and {n_keys:,} keys; no model has more than {MOST_TENSORS:,} and "
            f"{MOST_KEYS:,}; is it damaged?"
        )
    keys: dict[str, Any] = {}
    for i in range(n_keys):
        key = cursor.text(f"key {i + 1} of {n_keys}", KEY_BYTES)
        if key in keys:
            raise InputError(f"'{where}' has the key {shown(key)} twice; is it damaged?")
        keys[key] = cursor.value(cursor.scalar("I", shown(key)), shown(key))
    tensors, places = _tensors(cursor, n_tensors)
    alignment = keys.get("general.alignment", 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise InputError(f"'{where}': general.alignment is {shown(alignment)}; it must be a power of two")
    data, offset = -(-cursor.at // alignment) * alignment, 0
    for name, tensor in tensors.items():
        if places[name] != offset:  # gguf.cpp: each tensor begins where the one before it ends, padded
            raise InputError(
                f"'{where}': tensor {shown(name)} begins at byte {places[name]:,} of the data, not {offset:,}, which "
                "llama.cpp refuses; is it damaged?"
            )
        excess = data + offset + tensor.nbytes - cursor.size
        if excess > 0:
            raise InputError(
                f"'{where}': tensor {shown(name)} ends {excess:,} bytes past the end of the file; is it cut off?"
            )
        offset += -(-tensor.nbytes // alignment) * alignment
    return keys, tensors


def _tensors(cursor: _Cursor, count: int) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    found: dict[str, TensorInfo] = {}
    places: dict[str, int] = {}
    where = cursor.where
    for i in range(count):
        what = f"tensor {i + 1} of {count}"
        name = cursor.text(what, NAME_BYTES)
        if name in found:
            raise InputError(f"'{where}' has the tensor {shown(name)} twice; is it damaged?")
        dimensions = cursor.scalar("I", what)
        if not 1 <= dimensions <= 4:
            raise InputError(f"'{where}': tensor {shown(name)} has {dimensions} dimensions; GGUF allows 1 to 4")
        shape = tuple(cursor.scalar("Q", what) for _ in range(dimensions))
        number = cursor.scalar("I", what)
        if number not in TENSOR_TYPES:
            raise InputError(f"'{where}': tensor {shown(name)} has type {number}, which this version does not know")
        kind = TENSOR_TYPES[number]
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
    return found, places


def _of(where: str, keys: dict[str, Any], tensors: dict[str, TensorInfo]) -> Header:
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
    merges = merges if isinstance(merges, Strings) else None
    return Header(architecture, metadata, tensors, n_vocab, tokens, merges)
