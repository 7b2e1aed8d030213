"""What an answer takes for granted because nobody publishes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """One figure or rule that an answer rests on although it was neither measured nor published."""

    key: str
    """What the assumption is about: ``device``, an application's limit; ``system``, the system's part of the RAM."""
    value: int | float | str
    """What was assumed; sizes are bytes."""
    why: str
    """What is assumed and why, the source, and what overrides it: short sentences, the last one without a full stop."""
