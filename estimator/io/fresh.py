"""A fresh process that runs a module of the package, which takes a question on standard input and prints its answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

_PACKAGE = __package__.partition(".")[0]
_RUN = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_module(sys.argv[2], run_name='__main__')"


def run(
    module: str, question: Any, environment: Mapping[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module by its name within the package.

    Libraries are never looked for in the current folder, whose ``torch.py`` would run.
    ``environment``: variables in place of this process's. Raises ``InputError`` after ``timeout`` seconds.
    """
    found = {**os.environ, **(environment or {})}
    if "PYTHONPATH" in found:  # an empty entry is the current folder
        found["PYTHONPATH"] = os.pathsep.join(filter(os.path.isabs, found["PYTHONPATH"].split(os.pathsep)))
    root = str(Path(__file__).parent.parent.parent)
    command = [sys.executable, "-P", "-c", _RUN, root, f"{_PACKAGE}.{module}"]
    try:
        return subprocess.run(
            command, input=json.dumps(question), capture_output=True, text=True, timeout=timeout, env=found
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"the process did not end within {timeout:g} seconds; ask for less") from None


def reason(process: subprocess.CompletedProcess[str]) -> str:
    """The last line that a failed process wrote on standard error, else its exit status."""
    return (process.stderr.strip() or f"exit status {process.returncode}").splitlines()[-1]
