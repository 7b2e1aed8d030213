"""What commands print: command lines, and in ``tests/data/printed`` all that each prints on a terminal.

A file is a group of command lines. Below each is its output; ``!`` begins a line of standard error, ``=`` an exit
status that is not 0, ``>`` a file that was written. Of long outputs the first lines are kept, and a checksum of what
follows.

``python -m tests.cases.printed`` writes the files anew, or those of the groups that it is given: only in a change that
means to print something else, or to ask more. What is printed is that of an environment without PyTorch.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

from estimator.show.cli import main
from tests.cases.printed_lines import FILES, GROUPS
from tests.helpers.extras import without
from tests.helpers.files import DATA

PRINTED = DATA / "printed"
PROMPT = "$ estimator "
SNAPSHOT = "two_steps.pickle"
KEPT = 3500
"""Characters of an output that are kept as they are; of a longer one as many in whole lines."""
_ENVIRONMENT = {"COLUMNS": "80", "LINES": "24"}


@contextlib.contextmanager
def desk() -> Iterator[None]:
    """A folder with the files that command lines are about, which is the current one."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in FILES.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        printed(f"timeline tiny --method lora --seq 48 --runtime torch-cuda --output {SNAPSHOT}")
        yield


def printed(line: str) -> str:
    """All that a command line prints and writes, on a terminal of 80 columns, in the current folder."""
    before = {*os.listdir()}
    given, out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(3))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.dict(os.environ, _ENVIRONMENT),
        patch.object(sys, "stdin", given),
        without("torch"),
    ):
        status = main(shlex.split(line))
    out.seek(0)
    err.seek(0)
    found = _kept(out.read())
    found += "".join(f"! {one}" for one in err)
    found += f"= {status}\n" if status else ""
    for name in sorted({*os.listdir()} - before):
        found += f"> {name}\n"
        if not name.endswith((".pickle", ".xlsx")):  # a workbook has the time
            found += _kept(Path(name).read_text(encoding="utf-8"))
        if name != SNAPSHOT:
            Path(name).unlink()
    return found


def _kept(text: str) -> str:
    """A text's first lines, without white space at their ends, and a checksum of those that are left out."""
    lines = [f"{line.rstrip()}\n" for line in text.splitlines()]
    size = kept = 0
    while kept < len(lines) and size + len(lines[kept]) <= KEPT:
        size, kept = size + len(lines[kept]), kept + 1
    rest = "".join(lines[kept:])
    more = f"... {len(lines) - kept} more lines, checksum {zlib.crc32(rest.encode())}\n"
    return "".join(lines[:kept]) + (more if rest else "")


@cache
def recorded(group: str) -> dict[str, str]:
    """What is recorded of a group, by command lines."""
    text = (PRINTED / f"{group}.txt").read_text(encoding="utf-8")
    parts = ("\n" + text).split("\n" + PROMPT)[1:]
    return {line: rest for line, _, rest in (part.partition("\n") for part in parts)}


def write(group: str) -> None:
    """Record a group."""
    PRINTED.mkdir(exist_ok=True)
    with desk():
        found = [f"{PROMPT}{line}\n{printed(line)}".rstrip("\n") + "\n" for line in GROUPS[group]]
    (PRINTED / f"{group}.txt").write_text("\n".join(found), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or GROUPS:
        write(name)
