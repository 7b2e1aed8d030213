"""Files that tests write."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
DATA = TESTS / "data"
"""Records of what tests compare with."""
DOCS = ROOT / "docs"


def write(path: Path, content: Any) -> Path:
    """Write bytes and text as they are, and anything else as JSON; returns the path."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return path


def written(path: Path, content: Any) -> str:
    """As ``write``, for a key that takes a path as text."""
    return str(write(path, content))


def script(name: str) -> ModuleType:
    """A script of ``docs/``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
