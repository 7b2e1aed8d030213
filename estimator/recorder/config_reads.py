"""Which keys a model reads from its config although the config's class does not have them. Needs transformers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from transformers import PretrainedConfig


@contextmanager
def noted() -> Iterator[set[str]]:
    """Within it, the keys that transformers asks for and that are not there: ``getattr(config, "head_dim", None)``.

    A key that is never asked for changes nothing, whatever its value in a config.json. What a config asks of itself is
    left out: its class is asked for that (``named_by``).
    """
    asked: set[str] = set()

    def missing(config: Any, name: str) -> Any:
        module = sys._getframe(1).f_globals["__name__"]
        if module.startswith("transformers.") and module != PretrainedConfig.__module__:
            asked.add(name)
        raise AttributeError(f"'{type(config).__name__}' object has no attribute '{name}'")

    with mock.patch.object(PretrainedConfig, "__getattr__", missing, create=True):
        yield asked


def named_by(config: Any) -> set[str]:
    """The keys that the code of a config's class names: it may take one from a config.json and keep it otherwise."""
    code = [
        value.__code__
        for cls in type(config).__mro__
        if cls.__module__ == type(config).__module__
        for value in vars(cls).values()
        if hasattr(value, "__code__")
    ]
    return {text for one in code for text in one.co_consts if isinstance(text, str) and text.isidentifier()}
