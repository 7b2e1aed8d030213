"""Files of recorded programs: those that come with the package, and those of the user's cache.

A file is named after the ``model_type`` that its programs are of, a dot and a word for the structure. The programs of
an earlier release of transformers are in a folder of its name, and so are those of models with another head than a
causal language model's.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io.files import specs_folder
from ..io.outputs import replacing
from ..programs.heads import CAUSAL
from ..programs.releases import NEWEST

if TYPE_CHECKING:
    from ..programs.family import Family

VARIABLE = "ESTIMATOR_PROGRAMS"
"""The environment variable that names the folder of the user's programs."""
MOST_FILES = 100
"""The most files of the user's with programs of one ``model_type``, of which each structure has one; five times as many
of all."""
_TYPE = re.compile(r"[A-Za-z0-9_-]{1,60}")


def shipped_folder() -> Path:
    """The folder of the programs that come with the package."""
    return specs_folder() / "programs"


def user_folder() -> Path:
    """The folder of the programs that ``estimator record`` writes, which need not be there yet.

    Raises ``InputError`` where the user has no home: nobody may put files into a folder that all users share.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    variable, inside = {
        "win32": ("LOCALAPPDATA", "AppData/Local"),
        "darwin": ("", "Library/Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    named = os.environ.get(variable, "")
    try:
        base = Path(named) if os.path.isabs(named) else Path.home() / inside
    except RuntimeError:  # a number of a user that no file knows, as in many a container
        raise InputError(f"this user has no home folder; name one for programs in the variable {VARIABLE}") from None
    return base / "llm-memory-estimator" / "programs"


def of_release(folder: Path, release: str, head: str = CAUSAL) -> Path:
    """The folder of a release's programs of models with a head, in one of all programs."""
    folder = folder if release == NEWEST else folder / release
    return folder if head == CAUSAL else folder / head


def program_files(model_type: str = "*", release: str = NEWEST, head: str = CAUSAL) -> list[Path]:
    """The files with programs of a ``model_type``, or of all, the package's first."""
    if model_type != "*" and not _TYPE.fullmatch(model_type):
        return []
    found: list[Path] = []
    for folder in (shipped_folder, user_folder):
        with suppress(InputError, OSError):  # a folder that may not be read has no programs
            inside = of_release(folder(), release, head)
            names = [name for name in os.listdir(inside) if name.endswith(".json")]  # a glob takes ten times as long
            own = sorted(name for name in names if model_type in ("*", name.partition(".")[0]))
            if folder is user_folder:
                own = own[: MOST_FILES if model_type != "*" else 5 * MOST_FILES]
            found += [path for name in own if (path := inside / name).is_file()]
    return found


def programs_of(model_type: str, release: str = NEWEST, head: str = CAUSAL) -> list[Family]:
    """The programs of a ``model_type``. Files of the user's that cannot be read have none: see ``ignored``."""
    found: list[Family] = []
    for path in program_files(model_type, release, head):
        if path.is_relative_to(shipped_folder()):
            found += load(path)
        else:
            with suppress(InputError):
                found += _own(path)
    return found


def ignored(model_type: str, release: str = NEWEST) -> list[str]:
    """A note for each damaged file of the user's with programs of a ``model_type``.

    Nothing is said of a file that another version wrote; ``estimator record --list`` names it.
    """
    from ..programs.program_files import OtherFormat

    notes = []
    for path in program_files(model_type, release):
        if not path.is_relative_to(shipped_folder()):
            try:
                _own(path)
            except OtherFormat:
                continue
            except InputError as error:
                notes.append(f"a file of recorded programs is ignored: {error}")
    return notes


def _own(path: Path) -> list[Family]:
    """The programs in a file of the user's, which are read whole. Raises ``InputError``."""
    found = load(path)
    for one in found:
        one.whole  # noqa: B018
    return [replace(one, file=str(path), read=partial(getattr, one, "whole")) for one in found]


def load(path: Path) -> list[Family]:
    """The programs in a file. Raises ``InputError``."""
    try:
        return _loaded(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}; remove it") from None


@lru_cache(maxsize=64)
def _loaded(path: Path, _: int) -> list[Family]:
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
