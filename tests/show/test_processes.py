"""The command as a process: exit status, output and standard error, whoever reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from estimator import __version__
from estimator.answers.estimate import estimate
from estimator.show.cli import main
from tests.helpers.commands import child, run

MODEL = "smollm-135m"


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", *arguments], capture_output=True, text=True, **options
    )


def test_the_module_runs() -> None:
    """Asks the contract, in a process of its own: output, standard error and exit status."""
    done = command("estimate", MODEL, "--seq", "16", "--budget", "1MiB", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == estimate(model=MODEL, seq=16, budget="1MiB").to_dict()
    done = command("estimate", "nope")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"estimator {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["estimate", MODEL], ["estimate", MODEL, "--json"], ["devices", "--json"], ["devices"]]
)
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    """Asks the contract: an answer that was not written out is no answer, so neither 0 nor 1; no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "was closed" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--keep-logits"])
def test_a_full_disk_is_one_line(option: str) -> None:
    """Asks the contract: one line, no traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "estimator.show.cli", "estimate", MODEL, option],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_terminal_without_unicode() -> None:
    """Asks the contract: a table, not a traceback, where bars cannot be written."""
    done = command("estimate", MODEL, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "GiB" in done.stdout


def test_the_package_runs() -> None:
    """``python -m estimator`` is the command."""
    done = subprocess.run([sys.executable, "-m", "estimator", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("estimator ")


SMOLLM2 = "smollm2-135m"


@pytest.mark.parametrize(
    "error",
    [TypeError("x\ny"), RecursionError(), MemoryError(), KeyError("k"), UnicodeError("u"), SystemExit(1)],
    ids=repr,
)
def test_what_nobody_foresaw_is_no_answer(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: 1 means that it does not fit, and nothing else."""
    from estimator.show.commands import estimate as command

    def broken(args: Any) -> int:
        raise error

    monkeypatch.setattr(command, "execute", broken)
    seen = run(["estimate", SMOLLM2])
    assert (seen.status, seen.err.count("\n"), seen.out) == (2, 1, "")
    if not isinstance(error, (MemoryError, SystemExit)):
        assert type(error).__name__ in seen.err
        monkeypatch.setenv("ESTIMATOR_TRACEBACK", "1")
        assert "Traceback" in run(["estimate", SMOLLM2]).err


def test_a_closed_standard_output() -> None:
    """Asks the contract: nobody reads the answer."""
    done = child("estimate", SMOLLM2, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_backend_that_matplotlib_does_not_have(tmp_path: Path) -> None:
    """Asks the contract, of a variable that job scripts set."""
    figure = str(tmp_path / "figure.png")
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", "compare", SMOLLM2, "--seqs", "64", "--output", figure],
        env={**os.environ, "MPLBACKEND": "bogus"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "MPLBACKEND" in done.stderr
