"""Commands, run in this process as the command line would run them, and what a job script would see of them."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from estimator.show.cli import main
from tests.helpers.refusals import assert_one_line

SECONDS = 5.0
"""Processor time that a command may take."""
MEGABYTES = 500
"""Address space of a process that may take little."""


@dataclass(frozen=True)
class Seen:
    """What one command did."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def beside(self) -> str:
        """What stands on standard error beside an answer, but that a file was overwritten."""
        lines = self.err.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("estimator: overwrote '"))

    def wrong(self) -> str:
        """What is wrong with it; empty where nothing is."""
        if self.status not in (0, 1, 2):
            return f"exit status {self.status}"
        if "Traceback" in self.err + self.out or "defect" in self.err:
            return "a defect"
        answers = self.status != 2 or self.out.startswith("Not sure")
        if not answers and (self.err.count("\n") != 1 or not self.err[:-1].isprintable() or len(self.err) > 500):
            return "not one line"
        if answers and self.beside:
            return "standard error beside an answer"
        if "defect of the estimator" in self.out:
            return "a defect in a line of plans"
        return f"{self.seconds:.1f} seconds" if self.seconds > SECONDS else ""


def run(arguments: list[str], stdin: bytes = b"") -> Seen:
    """A command, with something on its standard input."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments)
    finally:
        sys.stdin = before
    return Seen(status, out.getvalue(), err.getvalue(), time.process_time() - start)


def output(*arguments: object, status: int = 0) -> str:
    """What a command prints that has an answer: nothing on standard error, and this exit status."""
    seen = run([str(argument) for argument in arguments])
    assert (seen.status, seen.beside) == (status, "")
    return seen.out


def answer(*arguments: object, status: int = 0) -> dict[str, Any]:
    """The result object of ``estimator estimate ARGUMENTS --json``."""
    result: dict[str, Any] = json.loads(output("estimate", *arguments, "--json", status=status))
    return result


def refusal(*arguments: object, stdin: bytes = b"") -> str:
    """The one line of a command that is refused: exit status 2, nothing printed, nothing that looks like a defect."""
    seen = run([str(argument) for argument in arguments], stdin)
    assert (seen.status, seen.out, seen.wrong()) == (2, "", "")
    assert seen.err.startswith("estimator: ")
    assert_one_line(seen.err.removesuffix("\n"))
    return seen.err


def refused(*arguments: object, stdin: bytes = b"") -> str:
    """The one line of ``estimator estimate ARGUMENTS``, which is refused."""
    return refusal("estimate", *arguments, stdin=stdin)


def ask(*arguments: object, status: int = 0) -> Any:
    """What a command says: the object where it is asked for JSON, the one line where it is refused."""
    if status == 2:
        return refusal(*arguments)
    out = output(*arguments, status=status)
    return json.loads(out) if "--json" in arguments else out


def child(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with little address space and little time."""
    code = (
        "import resource, sys; from estimator.show.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEGABYTES << 20},) * 2); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=30, **options)
