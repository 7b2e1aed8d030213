"""One file per command: ``configure`` adds its options, ``execute`` runs it and returns the exit status."""

from __future__ import annotations

import importlib
from types import ModuleType


def module_of(command: str) -> ModuleType:
    """The module of a command. ``max-seq``, ``max-batch`` and ``max-rank`` share ``inverse``."""
    name = "inverse" if command in ("max-seq", "max-batch", "max-rank") else command.replace("-", "_")
    return importlib.import_module(f".{name}", __package__)
