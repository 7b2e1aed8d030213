"""A config.json's keys, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError, shown
from ...programs.config_values import LARGEST_SIZE, LIMITS


@dataclass(frozen=True)
class ConfigKeys:
    """A config's keys. A key whose value is null counts as missing."""

    raw: Mapping[str, Any]
    where: str
    """What to call the config in messages."""

    def number(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number. Raises ``InputError``."""
        value = self.raw.get(key)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"{self.where}: {key} is missing; add it to the config")
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{self.where}: {key} is {shown(value)}; it must be a whole number")
        largest = LIMITS.get(key, LARGEST_SIZE)
        if not least <= value <= largest:
            raise InputError(f"{self.where}: {key} is {shown(value)}; it must be between {least} and {largest}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A switch. Raises ``InputError``."""
        value = self.raw.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {key} is {shown(value)}; it must be true or false")
        return value

    def factor(self, key: str, default: float = 0.0) -> float:
        """A number. Raises ``InputError``."""
        value = self.raw.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{self.where}: {key} is {shown(value)}; it must be a number")
        return float(value)

    def kinds(self, key: str, layers: int) -> list[str] | None:
        """A list with one word per layer, or ``None``. Raises ``InputError``."""
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers or not all(isinstance(kind, str) for kind in value):
            raise InputError(f"{self.where}: {key} must list one type for each of the {layers} layers")
        return value
