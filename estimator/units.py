"""Sizes as people write them."""

from __future__ import annotations

import re

from pydantic import ByteSize, TypeAdapter

from .errors import InputError

_SIZE = re.compile(r"\s*[0-9]{1,15}(\.[0-9]{1,15})?\s*([kmgtpe]i?)?b\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size with a unit, as in 24GiB, 8 GB or 512MiB. Raises ``InputError``."""
    if not _SIZE.fullmatch(text):
        raise InputError(f"size '{text}' is not a number with a unit; write it like 24GiB, 8GB or 512MiB")
    value = int(TypeAdapter(ByteSize).validate_python(re.sub(r"\s", "", text)))
    if value < 1:
        raise InputError(f"size '{text}' is not positive; write it like 24GiB")
    return value
