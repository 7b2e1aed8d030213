"""How long a command takes to start and answer, against ``import sympy``: ``python benchmarks/startup.py``.

Whole processes run in turn, so that what else the machine does slows all alike. Their CPU times are compared, pair by
pair, and the median ratio is what counts. With ``--write`` the row of this release in ``startup.tsv`` is written anew.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from estimator import __version__

TABLE = Path(__file__).with_suffix(".tsv")
_ESTIMATE = ("-P", "-m", "estimator", "estimate")
_TRAINER = (*_ESTIMATE, "llama-3.2-1b", "--batch", "4", "--seq", "1024", "--device", "rtx-4090", "--trainer")
COMMANDS = {
    "cpu": (*_ESTIMATE, "llama-3.2-1b", "--method", "lora", "--seq", "1024"),
    "gpu": (*_ESTIMATE, "llama-3.2-1b", "--method", "lora", "--seq", "1024", "--device", "rtx-4090"),
    "hybrid": (*_ESTIMATE, "qwen3.5-27b", "--method", "full", "--seq", "1024"),
    "sft": (*_TRAINER, "trl-sft"),
    "dpo": (*_TRAINER, "trl-dpo"),
}
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
"""Processes keep their bytecode, as installed packages do: to compile the sources anew is no part of a start."""
_MEMORY = "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"


def cpu_seconds(*arguments: str) -> float:
    """CPU seconds of a fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, env=ENVIRONMENT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak_mib(*arguments: str) -> int:
    """Peak resident set of a fresh interpreter, in MiB."""
    code = f"import subprocess; subprocess.run({[sys.executable, *arguments]!r}, capture_output=True); {_MEMORY}"
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout)


def measured(release: str, pairs: int) -> dict[str, str]:
    """A row of the table: each command's share of what ``import sympy`` takes, and the memory of the first."""
    for command in COMMANDS.values():
        cpu_seconds(*command)  # which compiles what is not compiled yet
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(pairs):
        sympy = cpu_seconds("-c", "import sympy")
        for name, command in COMMANDS.items():
            times[name].append(cpu_seconds(*command) / sympy)
    row = {name: f"{statistics.median(found):.2f}" for name, found in times.items()}
    python = ".".join(map(str, sys.version_info[:2]))
    return {"release": release, "python": python, **row, "mib": str(peak_mib(*COMMANDS["cpu"]))}


def main() -> None:
    """Measure, print the table with the new row, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the row of this release into startup.tsv")
    parser.add_argument("--release", default=__version__, help="what the row is called")
    parser.add_argument("--pairs", type=int, default=15)
    args = parser.parse_args()
    row = measured(args.release, args.pairs)
    head, *known = [line.split("\t") for line in TABLE.read_text().splitlines()]
    older = [dict(zip(head, line, strict=True)) for line in known if line[0] != args.release]
    rows = [[one.get(key, "") for key in row] for one in (*older, row)]  # a release may lack a command
    table = Table(*row)
    for one in rows:
        table.add_row(*one)
    Console().print(table)
    if args.write:
        TABLE.write_text("\n".join("\t".join(one) for one in [list(row), *rows]) + "\n")


if __name__ == "__main__":
    main()
