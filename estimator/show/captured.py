"""A command that is run within the process, and what it prints.

As a process of its own it answers a question on standard input: ``words``, a ``plan``, and ``limit``, the most bytes of
its address space. It prints JSON: the exit status, the refusal, what the command prints, and its record.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

from .cli import main


class Printed(NamedTuple):
    """What a command printed, and its exit status."""

    status: int
    output: str
    error: str
    """The line of a refusal, without the program's name."""


def captured(words: Sequence[str], plan: str | None = None) -> Printed:
    """Run a command by its words on the command line, with ``--plan`` where there is a plan, given as JSON."""
    output, error = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(output), redirect_stderr(error):
        if plan is not None:
            (path := Path(folder) / "plan.json").write_text(plan, encoding="utf-8")
            words = [words[0], "--plan", str(path), *words[1:]]
        status = main(words)
    return Printed(status, output.getvalue(), error.getvalue().strip().removeprefix("estimator: "))


def _answer(words: Sequence[str], plan: Any, limit: int) -> str:
    with suppress(ImportError, ValueError, OSError):  # not every system limits a process
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    given = None if plan is None else json.dumps(plan)
    text, record = captured(words, given), captured([words[0], "--json", *words[1:]], given)
    return json.dumps([text.status, text.error, text.output, record.output])


if __name__ == "__main__":
    print(_answer(**json.load(sys.stdin)))
