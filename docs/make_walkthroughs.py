"""Run what the walk-throughs show and write down what it prints: ``python docs/make_walkthroughs.py``.

In a ``console`` block a line that begins with ``$`` is a command (lines that begin with ``>`` go on with it), in a
``pycon`` block one that begins with ``>>>``. All other lines of these blocks are output, and are written anew. The
blocks of a page share one folder and one Python session; the folder is empty at the start. Terminals are 80 wide.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGES = (DOCS / "index.md", DOCS / "serving.md", *sorted((DOCS / "walkthroughs").glob("*.md")))
BLOCK = re.compile(r"(?<=^```)(console|pycon)\n(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ .*(?:\n> .*)*", re.MULTILINE)
SHELL = 'estimator() { "$PYTHON" -m estimator "$@"; }; python() { "$PYTHON" "$@"; }\n'


def command(typed: str, folder: str) -> str:
    """A command as it was typed, and what it prints."""
    keep = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
    told = {"PYTHON": sys.executable, "PYTHONPATH": str(DOCS.parent), "PYTHONUTF8": "1", "COLUMNS": "80"}
    line = SHELL + typed.removeprefix("$ ").replace("\n> ", "\n")
    shell = ["bash", "-c", f"exec 2>&1\n{line}"]
    ran = subprocess.run(shell, cwd=folder, env=keep | told, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    return f"{typed}\n" + "".join(f"{text.rstrip()}\n" for text in ran.stdout.splitlines())


def session(block: str, names: dict[str, Any], folder: str) -> str:
    """The statements of a Python session, and what each prints."""
    shown = ""
    for example in doctest.DocTestParser().get_examples(block):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.chdir(folder):
            exec(compile(example.source, "<walk-through>", "single"), names)
        first, *more = example.source.splitlines()
        shown += "".join([f">>> {first}\n", *(f"... {line}\n" for line in more), printed.getvalue()])
    return shown


def page(text: str) -> str:
    """A page with the output of its blocks as it is now."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(block: re.Match[str]) -> str:
            kind, body = block.groups()
            if kind == "pycon":
                return f"{kind}\n{session(body, names, folder)}"
            return f"{kind}\n" + "".join(command(typed, folder) for typed in COMMAND.findall(body))

        return BLOCK.sub(run, text)


def main() -> None:
    """Write the pages."""
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
