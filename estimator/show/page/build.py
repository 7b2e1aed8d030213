"""Writes the page's folder: Python for the browser with the wheels it needs, at fixed releases, and this package."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.request import urlopen

from ...answers.catalogue import devices, models
from ...errors import InputError
from ...figures.process_parts import PARTS
from ...io.files import specs_folder
from ...io.outputs import replacing
from ...methods.registry import METHODS
from ...plans.flat import BLOCKS
from ...plans.plan import Plan
from ...plans.recorded_programs import user_folder
from ..topics import TOPIC_OF, TOPICS

_HERE = Path(__file__).parent
_PACKAGE = _HERE.parent.parent
LOCK: Mapping[str, Mapping[str, str]] = json.loads((_HERE / "lock.json").read_text(encoding="utf-8"))
"""The releases that the page is made of: where each is, and its SHA-256."""
_RUNTIME = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
"""The files of Pyodide that a page loads."""
_FIRST = (
    *("model", "device", "method", "r", "target_modules", "dtype", "checkpointing", "batch", "seq", "optimizer"),
    *("attention", "budget"),
)
"""The keys that the form shows at first. All others follow in their topics."""
_STATIC = ("index.html", "worker.js")
_JOINED = {
    "page.css": (_PACKAGE / "export" / "page.css", _HERE / "page.css"),
    "page.js": (
        _PACKAGE / "export" / "drawing.js",
        *(_HERE / f"{name}.js" for name in ("engine", "form", "answer", "questions", "copies", "page")),
    ),
}
"""Files of the page, and what each is put together from. What exported pages have, too, lies beside them."""
_REGEX = '''"""Python's expressions in the place of ``regex``: a worker that takes too long is ended by its page."""

from re import compile, error
'''
LATER = "model_specs"
"""The folder of the recorded programs, each of which is sent when a plan asks for it. A file lists their sizes."""
_SECONDS = 60


def write(folder: Path) -> None:
    """Write the page's files into a folder, which is made. Raises ``InputError``."""
    for name, content in _files():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write '{folder}': {error.strerror}; name another folder") from None
        with replacing(folder / name) as part:
            part.write_bytes(content)


def _files() -> Iterator[tuple[str, bytes]]:
    """The page's files by their names in its folder."""
    for name in _STATIC:
        yield name, (_HERE / name).read_bytes()
    for name, parts in _JOINED.items():
        yield name, b"\n".join(path.read_bytes() for path in parts)
    yield "plan.json", json.dumps(_described(), separators=(",", ":")).encode()
    later = {
        path.relative_to(specs_folder()).as_posix(): path.read_bytes() for path in specs_folder().glob("*/**/*.json")
    }
    yield from ((f"{LATER}/{name}", content) for name, content in later.items())
    yield f"{LATER}.json", json.dumps({name: len(content) for name, content in later.items()}).encode()
    runtime = dict(_members(LOCK["pyodide"]))
    yield from ((f"pyodide/{name}", runtime[f"package/{name}"]) for name in _RUNTIME)
    yield "python.zip", _zipped(_python())


def _described() -> dict[str, Any]:
    """What the form is made of: the plan's schema, the topics of its keys, the built-in models and the devices."""
    listed = {"models": list(map(asdict, models())), "devices": list(map(asdict, devices()))}
    return {
        "schema": Plan.model_json_schema(),
        "topics": dict(TOPICS),
        "topic_of": dict(TOPIC_OF),
        "first": _FIRST,
        "methods": list(METHODS),
        "blocks": list(BLOCKS),
        "parts": PARTS,
        **listed,
    }


def _python() -> Iterator[tuple[str, bytes]]:
    """The modules and data that Python imports in the browser."""
    for path in sorted(_PACKAGE.rglob("*")):
        elsewhere = {"__pycache__", "model_specs"} & set(path.parts)
        if path.is_file() and path.suffix in (".py", ".json", ".yaml") and not elsewhere:
            yield f"estimator/{path.relative_to(_PACKAGE).as_posix()}", path.read_bytes()
    for path in sorted(specs_folder().glob("*.json")):
        yield f"estimator/model_specs/{path.name}", path.read_bytes()
    for name, where in LOCK.items():
        for member, content in _members(where) if name != "pyodide" else ():
            inside = member.partition("/lib/")[2] if name == "pyyaml" else member  # its part that is Python's alone
            if inside.endswith((".py", ".so")):
                yield inside, content
    yield "regex.py", _REGEX.encode()


def _members(where: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The files in an archive of ``LOCK``. Raises ``InputError``."""
    url, content = where["url"], _fetched(where)
    if url.endswith(".whl"):
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
        return
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                yield str(PurePosixPath(member.name)), file.read()


def _fetched(where: Mapping[str, str]) -> bytes:
    """An archive, from the user's cache where it is there. Raises ``InputError``."""
    url, wanted = where["url"], where["sha256"]
    kept = None
    with suppress(InputError, OSError):  # a user without a home has no cache
        kept = user_folder().parent / "page" / wanted
        if hashlib.sha256(content := kept.read_bytes()).hexdigest() == wanted:
            return content
    try:
        with urlopen(url, timeout=_SECONDS) as answer:
            content = bytes(answer.read())
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot fetch '{url}', which the page needs: {error}; try again with a network") from None
    if hashlib.sha256(content).hexdigest() != wanted:
        raise InputError(f"'{url}' is not what the page was made with; something on the way has changed it")
    if kept is not None:
        with suppress(InputError, OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as part:
                part.write_bytes(content)
    return content


def compressed(folder: Path) -> int:
    """Bytes of the page's files as a host that compresses sends them, but for programs."""
    files = (path for path in folder.rglob("*") if path.is_file() and LATER not in path.relative_to(folder).parts)
    return sum(len(gzip.compress(path.read_bytes())) for path in files)


def _zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A ZIP archive, which is the same for the same files."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return found.getvalue()
