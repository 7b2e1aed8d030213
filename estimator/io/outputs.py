"""Every file that is written for a user: beside its place first, and renamed when it is whole.

So a reader never finds half a file. What was there before stays where anything fails: a full disk, a defect, Ctrl-C.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError
from .files import KINDS, STANDARD_INPUT, redirected

REPLACED: set[str] = set()
"""The files with content in whose place others were put here, since a command began."""


def place_of(path: Path) -> Path:
    """Where a file of this name is written: behind symbolic links. Raises ``InputError`` where it cannot be."""
    if str(path) == STANDARD_INPUT:
        raise InputError("no file is named -; name one, or leave the option out and redirect standard output")
    try:
        place = Path(os.path.realpath(path))
        mode = place.stat().st_mode if place.exists() else None
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"cannot write '{path}': it is {KINDS.get(stat.S_IFMT(mode), 'no file')}; name another file")
    if mode is not None and (place.stat().st_dev, place.stat().st_ino) in redirected(0, 1, 2):
        raise InputError(f"'{path}' is this command's standard input or output; name another file")
    if not place.parent.is_dir():
        raise InputError(f"cannot write '{path}': there is no folder '{path.parent}' to put it in; name another file")
    if not os.access(place.parent, os.W_OK | os.X_OK) or (mode is not None and not os.access(place, os.W_OK)):
        raise InputError(f"cannot write '{path}': it is read-only, or its folder is; name another file")
    return place


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new, empty file with the suffix of ``path``, which takes its place where nothing is raised.

    Raises ``InputError`` where it cannot be written, and for an ``OSError`` within.
    """
    place = place_of(path)
    part = place.with_name(f".{secrets.token_hex(8)}{place.suffix}")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield part
        if place.exists():
            shutil.copymode(place, part)
        with part.open("r+b") as file:
            os.fsync(file.fileno())  # some file systems say only here that the disk is full
        full = place.exists() and place.stat().st_size > 0
        part.replace(place)
        if full:
            REPLACED.add(str(place))
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of lines, which may not be there yet: all of it, or nothing. Raises ``InputError``."""
    content = f"{line}\n".encode()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None
    with os.fdopen(handle, "r+b", buffering=0) as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"cannot write '{path}': it is {KINDS.get(stat.S_IFMT(about.st_mode), 'no file')}")
        if about.st_size:
            file.seek(-1, os.SEEK_END)
            content = (b"" if file.read(1) == b"\n" else b"\n") + content  # a line that was cut off stays alone
        try:
            if file.write(content) != len(content):
                raise OSError("the disk is full")
        except OSError as error:
            os.ftruncate(handle, about.st_size)
            raise _refused(path, error) from None


def _refused(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot write '{path}': {getattr(error, 'strerror', None) or error}; name another file")
