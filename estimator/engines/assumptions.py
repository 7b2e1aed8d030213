"""What an answer takes for granted, because nobody publishes it or the question leaves it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Assumption:
    """One figure, rule or default that an answer rests on although the question does not say it."""

    key: str
    """A key of the plan, or of the file it was read from. ``device``: an application's limit; ``system``: the system's
    part of the RAM."""
    value: Any
    """What was assumed; sizes are bytes."""
    why: str
    """What is assumed and why, the source, and what overrides it: short sentences, the last one without a full stop."""

    def __hash__(self) -> int:
        return hash((self.key, self.why))  # a value may be a list
