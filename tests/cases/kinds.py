"""What a case is: rows of the tables in this folder. Each table has one test that asks all of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Case = tuple[str, dict[str, Any], dict[str, Any]]
"""A step that is measured: its name, keys of a small model's config, keys of the plan. ``write_config`` has the other
keys of a config."""

Refused = tuple[dict[str, Any], dict[str, Any], str]
"""A plan that is refused: keys of a small model's config, keys of the plan, what the one line says."""


@dataclass(frozen=True)
class Formulas:
    """A plan whose formulas are held against its estimates."""

    name: str
    config: dict[str, Any]
    keys: dict[str, Any]
    points: list[tuple[int, int]]
    """Batches and sequence lengths."""
    symbolic: bool = False
    """With the model's sizes as symbols, too."""
    every: bool = False
    """Compiled at each point, which lie in different regimes."""
