"""One file per command: ``configure`` adds its options, ``execute`` runs it and returns the exit status."""

from __future__ import annotations

import importlib
from types import ModuleType

INVERSE = ("max-seq", "max-batch", "max-rank", "max-target-seq", "max-images", "max-image-size")
"""Questions for the largest value of a key."""


def module_of(command: str) -> ModuleType:
    """The module of a command. Those of ``INVERSE`` share one."""
    name = "inverse" if command in INVERSE else command.replace("-", "_")
    return importlib.import_module(f".{name}", __package__)
