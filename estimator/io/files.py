"""Every file that a user names is opened here: once, checked while it is open, and read up to a limit.

Such a file may be anything: a named pipe that never answers, a device without an end, bytes that are no text, a JSON
object with a key twice. Each of these is refused in one line. Nothing is executed or unpickled.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import InputError

STANDARD_INPUT = "-"
"""The name of standard input on the command line. A plan's keys cannot name it."""
LONGEST_LINE = 1_000_000
"""The most bytes in a line of ``--plans``; a plan takes some hundred."""
_ENDLESS = 1 << 26
"""Bytes after which the end of a line is no longer looked for."""

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}
"""What a file is that is no regular one."""
READ: set[str] = set()
"""The files that were opened here, since a command began."""


def specs_folder() -> Path:
    """The folder of the built-in specs: in the package where that is installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "model_specs"
    return inside if inside.is_dir() else package.parent / "model_specs"


def existing(path: Path) -> Path | None:
    """The path with ``~`` expanded, or ``None`` if no file or folder has or can have this name."""
    try:
        path = path.expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def beside(name: str, folder: Path) -> Path | None:
    """A file that another names: in that one's folder, else in the working folder; ``None`` where it is in neither."""
    found = (existing(path) for path in (folder / name, Path(name)))
    return next((path for path in found if path is not None and path.is_file()), None)


def named_by(where: str, name: str, folder: Path) -> Path:
    """The file that ``where`` names, as ``beside`` finds it. Raises ``InputError`` where it is missing."""
    if (path := beside(name, folder)) is None:
        if name.lstrip()[:1] in ("{", "["):  # which may hold a token
            raise InputError(
                f"{where} gives a text in brackets for a file's name, which is no JSON object; give a file"
            )
        raise InputError(
            f"{where} names the file '{name}', which is missing; put it in '{folder}', or take the key out"
        )
    return path


def opened(path: Path, wanted: str) -> io.BufferedReader:
    """A regular file, open for reading. Raises ``InputError``, whose message asks for ``wanted``.

    The check is of the open descriptor, so no other file can take its place. A pipe without a writer does not block.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and error.errno == errno.ENXIO:  # open() fails so for a socket
            reason = "it is no regular file"
        raise InputError(f"cannot read '{path}': {reason}; give {wanted}") from None
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise InputError(f"'{path}' is {KINDS.get(kind, 'no regular file')}, not a regular file; give {wanted}")
    if identity(handle) in redirected(1, 2):
        os.close(handle)
        raise InputError(f"'{path}' is where this command's output goes, which would grow for ever; write elsewhere")
    READ.add(os.path.realpath(path))
    return os.fdopen(handle, "rb")


def identity(handle: int) -> tuple[int, int]:
    """The device and the number of an open file, the same by whatever name it was opened."""
    about = os.fstat(handle)
    return about.st_dev, about.st_ino


def redirected(*handles: int) -> set[tuple[int, int]]:
    """The regular files that the standard streams with these numbers are redirected to."""
    found = set()
    for handle in handles:
        with suppress(OSError):
            if stat.S_ISREG(os.fstat(handle).st_mode):
                found.add(identity(handle))
    return found


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises ``InputError`` where there is none."""
    if sys.stdin is None:
        raise InputError("standard input is closed; name a file in place of -")
    if redirected(0) & redirected(1, 2):
        raise InputError("standard input is where this command's output goes, which would grow for ever")
    return cast(BinaryIO, sys.stdin.buffer)


def read_text(path: Path, wanted: str, limit: int = 1_000_000, or_stdin: bool = False) -> str:
    """The text of a file of at most ``limit`` bytes. Raises ``InputError``, whose message asks for ``wanted``.

    With ``or_stdin`` the name ``-`` stands for standard input.
    """
    if or_stdin and str(path) == STANDARD_INPUT:
        content = _input_once(sys.stdin, limit)
    else:
        with opened(path, wanted) as file:
            try:
                content = file.read(limit + 1)
            except OSError as error:
                raise InputError(f"cannot read '{path}': {error.strerror or error}; give {wanted}") from None
    if len(content) > limit:
        raise InputError(f"'{path}' is larger than {limit:,} bytes; give {wanted}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is not text in UTF-8; give {wanted}") from None


@lru_cache(maxsize=1)
def _input_once(stream: Any, limit: int) -> bytes:
    """The first bytes of standard input (``stream``), read once: a command may ask for the same bytes twice."""
    return standard_input().read(limit + 1)


def lines(name: str, wanted: str) -> Iterator[bytes]:
    """The lines of a file, or of standard input for ``-``. A longer line is cut after ``LONGEST_LINE + 1`` bytes.

    Raises ``InputError``, whose message asks for ``wanted``, also for a line of more than ``_ENDLESS`` bytes.
    """
    with nullcontext(standard_input()) if name == STANDARD_INPUT else opened(Path(name), wanted) as file:
        while line := file.readline(LONGEST_LINE + 1):
            yield line
            skipped = len(line)
            while len(line) == LONGEST_LINE + 1 and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE + 1)
                skipped += len(line)
                if skipped > _ENDLESS:
                    raise InputError(f"'{name}' has a line of more than {_ENDLESS >> 20} MiB; write one plan per line")


class NotJson(InputError):
    """Text that is no JSON."""


def read_json(path: Path, wanted: str = "a JSON file such as config.json", or_stdin: bool = False) -> dict[str, Any]:
    """A JSON object from a file. Raises ``InputError`` for anything else."""
    text = read_text(path, wanted, or_stdin=or_stdin)
    try:
        data = parse_json(text)
    except InputError as error:
        raise InputError(f"'{path}': {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"'{path}' holds no JSON object; give {wanted}")
    return data


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ``NotJson``, and ``InputError`` for a key given twice or half a character."""
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        data = json.loads(decoded, object_pairs_hook=_unique)
        # Half of a surrogate pair is no character: it can neither be printed nor be written as valid JSON.
        if "\\ud" in decoded or "\\uD" in decoded or not decoded.isascii():
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except InputError:
        raise
    except UnicodeDecodeError:
        raise NotJson("not text in UTF-8; is it cut off?") from None
    except UnicodeEncodeError:
        raise InputError("it has half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not valid JSON at line {error.lineno}, column {error.colno}; is it cut off?") from None
    except RecursionError:
        raise NotJson("not valid JSON: it is nested too deeply") from None
    except ValueError:
        raise NotJson("not valid JSON: it has a number of thousands of digits") from None
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise InputError(f"'{key}' is given twice; keep one of them")
        mapping[key] = value
    return mapping


class NotYaml(InputError):
    """Text that is no YAML; ``where`` says at which line, as in `` at line 3``, if that is known."""

    def __init__(self, where: str) -> None:
        super().__init__(f"it is no valid YAML{where}")
        self.where = where


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ``NotYaml``.

    Raises ``InputError`` for a key given twice, and for an alias, a few of which can expand to gigabytes. libyaml's
    parser, which PyYAML's wheels have, is ten times as fast as PyYAML's own.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        def get_single_node(self) -> yaml.Node | None:
            root: yaml.Node | None = super().get_single_node()
            waiting, seen = [(root, root)], set()
            while waiting:
                node, parent = waiting.pop()
                if id(node) in seen:
                    line = 1 if parent is None else parent.start_mark.line + 1
                    raise InputError(f"the block at line {line} has an alias, as in *name; write its value out")
                seen.add(id(node))
                if isinstance(node, yaml.SequenceNode):
                    waiting += [(item, node) for item in node.value]
                elif isinstance(node, yaml.MappingNode):
                    waiting += [(item, node) for pair in node.value for item in pair]
            return root

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            if len(mapping) < len(node.value):
                line = node.start_mark.line + 1
                raise InputError(f"the mapping at line {line} has a key twice; keep one of them")
            return mapping

    try:
        return yaml.load(text, Loader=Loader)
    except InputError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        # the last four are PyYAML's own, of a value that is none of its tag, such as !!bool maybe
        mark = getattr(error, "problem_mark", None)
        raise NotYaml("" if mark is None else f" at line {mark.line + 1}") from None


def parse_json_or_yaml(text: str) -> Any:
    """The value of a JSON or a YAML text. Raises as ``parse_yaml`` does."""
    if text.lstrip().startswith("{"):
        try:
            return parse_json(text)
        except NotJson:  # a YAML mapping in braces
            pass
    return parse_yaml(text)
