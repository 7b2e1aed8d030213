"""The engines by name. A new one is a folder here, and a row of ``FOLDERS``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from .engine import Engine

FOLDERS = {
    "torch-cpu": "torch_cpu",
    "torch-cuda": "torch_cuda",
    "llama.cpp": "llama_cpp",
}
"""The folder of each engine, by the name that a plan's ``runtime`` has for it."""


@cache
def engine_of(runtime: str) -> Engine:
    """The engine of a name. Its rules are imported when it is first asked for."""
    made: Any = import_module(f".{FOLDERS[runtime]}.engine", __package__)
    engine: Engine = made.ENGINE
    return engine
