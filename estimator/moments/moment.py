"""One moment of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["host", "device", "disk"]


@dataclass(frozen=True)
class Moment:
    """The bytes of a process at one moment, above those that it had before the model was loaded."""

    moment: str
    where: Where
    """``host`` is the process's memory, ``device`` a GPU's, ``disk`` the files that are written."""
    bytes: int
    why: str
    """What the bytes are, and what binds."""
    droppable: int = 0
    """Of the bytes: pages of files, which the kernel drops where memory is short."""

    beside: bool = False
    """The bytes are outside the process, beside those of every other moment."""

    @property
    def held(self) -> int:
        """The bytes that cannot be dropped."""
        return self.bytes - self.droppable
