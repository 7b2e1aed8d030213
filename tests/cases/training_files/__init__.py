"""Public training files, restated as keys and values with their addresses, and what each must be read as."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FORMATS = sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))
"""The names of the tables, one for each format."""


@cache
def cases(name: str) -> list[dict[str, Any]]:
    """The cases of a table: ``address``, ``config`` and ``expect``, some with an ``adapter_config``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast, where yaml has it
    found: list[dict[str, Any]] = yaml.load((Path(__file__).parent / f"{name}.yaml").read_text("utf-8"), loader)
    return found
