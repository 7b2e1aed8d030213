"""Files of recorded programs: those that come with the package, and those of the user's cache.

A file is named after the ``model_type`` that its programs are of, a dot and a word for the structure. The programs of
an earlier release of transformers are in a folder of its name.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..outputs import replacing
from ..programs.releases import NEWEST

if TYPE_CHECKING:
    from ..programs.program_files import Unread

VARIABLE = "ESTIMATOR_PROGRAMS"
"""The environment variable that names the folder of the user's programs."""
_TYPE = re.compile(r"[A-Za-z0-9_-]{1,60}")


def shipped_folder() -> Path:
    """The folder of the programs that come with the package."""
    package = Path(__file__).parent.parent
    inside = package / "model_specs"
    return (inside if inside.is_dir() else package.parent / "model_specs") / "programs"


def user_folder() -> Path:
    """The folder of the programs that ``estimator record`` writes, which need not be there yet."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "llm-memory-estimator" / "programs"


def of_release(folder: Path, release: str) -> Path:
    """The folder of a release's programs, in one of all programs."""
    return folder if release == NEWEST else folder / release


def program_files(model_type: str = "*", release: str = NEWEST) -> list[Path]:
    """The files with programs of a ``model_type``, or of all, the package's first."""
    if model_type != "*" and not _TYPE.fullmatch(model_type):
        return []
    found: list[Path] = []
    for folder in (of_release(shipped_folder(), release), of_release(user_folder(), release)):
        try:
            found += sorted(path for path in folder.glob(f"{model_type}.*.json") if path.is_file())
        except OSError:  # a folder that may not be read has no programs
            continue
    return found


def programs_of(model_type: str, release: str = NEWEST) -> list[Unread]:
    """The programs of a ``model_type``. Raises ``InputError`` for a damaged file.

    A file of the user's that another version wrote has none; ``estimator record --list`` says so.
    """
    from ..programs.program_files import OtherFormat

    found: list[Unread] = []
    for path in program_files(model_type, release):
        own = "" if path.is_relative_to(shipped_folder()) else str(path)
        try:
            found += [replace(one, file=own) for one in load(path)] if own else load(path)
        except OtherFormat:
            if not own:
                raise
    return found


def load(path: Path) -> list[Unread]:
    """The programs in a file. Raises ``InputError``."""
    try:
        return _loaded(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}; remove it") from None


@lru_cache(maxsize=64)
def _loaded(path: Path, _: int) -> list[Unread]:
    from ..programs.program_files import load_together

    return load_together(path)


def model_types(release: str = NEWEST) -> list[str]:
    """The ``model_type`` of each family with programs."""
    return sorted({path.name.partition(".")[0] for path in program_files(release=release)})


def write(text: str, model_type: Any, word: str, output: Path | None, release: str = NEWEST) -> Path:
    """Write a file of programs, into the user's folder where no other is named. Raises ``InputError``."""
    if not isinstance(model_type, str) or not _TYPE.fullmatch(model_type):
        raise InputError("the config's model_type is no name for a file; name one with --output")
    path = output or of_release(user_folder(), release) / f"{model_type}.{word}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror}; name another file with --output") from None
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def structure_of(structure: Mapping[str, Any]) -> str:
    """A word for a structure: eight hexadecimal digits."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()[:8]
