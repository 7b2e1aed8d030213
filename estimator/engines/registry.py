"""The engines by name. A new one is a folder here, and a row of ``FOLDERS``.

A folder has ``options.py`` with ``KEYS``, what a plan may say of the engine, and ``engine.py`` with ``ENGINE``. That is
imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from .engine import Engine
from .keys import Keys, Refusals

FOLDERS = {
    "torch-cpu": "torch_cpu",
    "torch-cuda": "torch_cuda",
    "llama.cpp": "llama_cpp",
    "vllm": "vllm",
    "sglang": "sglang",
    "mlx": "mlx",
    "executorch": "executorch",
    "litert": "litert",
    "mlc": "mlc",
}
"""The folder of each engine, by the name that a plan's ``runtime`` has for it. The first is the default."""


@cache
def engine_of(runtime: str) -> Engine:
    """The engine of a name."""
    engine: Engine = import_module(f".{FOLDERS[runtime]}.engine", __package__).ENGINE
    return engine


KEYS: Mapping[str, Keys] = {
    name: import_module(f".{folder}.options", __package__).KEYS for name, folder in FOLDERS.items()
}
"""What a plan may say of each engine."""
RUNTIMES = tuple(name for name, keys in KEYS.items() if not keys.instead)
"""The engines that a plan can name."""


SERVERS = tuple(name for name in RUNTIMES if KEYS[name].serves)
"""The engines that serve requests. The first is the default."""


def meant(data: Mapping[str, Any]) -> Engine:
    """The engine that a plan's keys name, or mean where they name none. A wrong name is refused later."""
    named = data.get("runtime")
    return engine_of(named if isinstance(named, str) and named in RUNTIMES else claimed(data) or RUNTIMES[0])


def claimed(data: Mapping[str, Any]) -> str | None:
    """The engine that a plan's keys mean without naming it: the last in order that claims them."""
    return next((name for name in reversed(RUNTIMES) if KEYS[name].claims(data)), None)


def commanded(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan's keys, with those that a command line in the model's place means; keys beside it replace its own.

    Raises ``InputError``.
    """
    text = data.get("model")
    if not isinstance(text, str) or " " not in text:
        return data
    meant_by = next(filter(None, (keys.commanded(text) for keys in KEYS.values())), None)
    if meant_by is None:
        return data
    beside = {key: value for key, value in data.items() if key != "model"}
    blocks = {
        key: {**value, **beside[key]}
        for key, value in meant_by.items()
        if isinstance(value, Mapping) and isinstance(beside.get(key), Mapping)
    }
    return {**meant_by, **beside, **blocks}


def refused_on(runtime: str) -> list[Refusals]:
    """What does not go with an engine: its own rows, and those of what the others alone have."""
    return [keys.refused if name == runtime else keys.refused_elsewhere for name, keys in KEYS.items()]
