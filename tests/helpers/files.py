"""Files that tests write."""

from __future__ import annotations

import datetime
import importlib.util
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
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


def write_record(path: Path, packages: Sequence[str], release: str = "", **found: Mapping[str, Any]) -> None:
    """Write what was measured, such as ``steps`` by their names, with the day and the packages' releases.

    With ``release`` it is a part of a file that has several, each under its name.
    """
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "versions": {package: version(package) for package in packages},
        **found,
    }
    if release:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        record = {**known, release: record}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")


def script(name: str) -> ModuleType:
    """A script of ``docs/``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
