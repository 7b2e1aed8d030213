"""The command as a process: exit status, output and standard error, whoever reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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


@pytest.mark.share(3)
@pytest.mark.parametrize(
    "arguments", [["estimate", MODEL], ["estimate", MODEL, "--json"], ["devices", "--json"], ["devices"]]
)
def test_a_reader_that_goes_away(arguments: list[str]) -> None:
    """Asks the contract: an answer that was not written out is no answer, so neither 0 nor 1; nothing else is said.

    The status is that of a program which SIGPIPE ended, as a shell gives it.
    """
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("source", ["file", "-"])
def test_an_output_that_is_the_input(source: str, tmp_path: Path) -> None:
    """``estimator estimate --plans f --json >> f`` would read its own answers until the disk is full."""
    path = tmp_path / "plans.jsonl"
    path.write_text(f'{{"model": "{MODEL}", "seq": 16}}\n')
    words = ["estimate", "--json", "--plans", source.replace("file", str(path))]
    with path.open("ab") as out, path.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "estimator.show.cli", *words],
            stdin=stdin, stdout=out, stderr=subprocess.PIPE, text=True, timeout=20,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "where this command's output goes" in done.stderr
    assert path.read_text().count("\n") == 1


def test_very_many_words_are_refused() -> None:
    start = time.process_time()
    assert main(["estimate", MODEL, *["--seq", "5"] * 20_000]) == 2
    assert time.process_time() - start < 2


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


@pytest.mark.share(4)
@pytest.mark.parametrize(
    "settings",
    [
        b"backend: bogus\nnonsense\n",
        b"\xff\xfe\x00",
        b"text.usetex: True\nsavefig.format: bogus\npath.effects: []\n",
        None,
    ],
)
def test_settings_of_matplotlib_are_not_the_commands(settings: bytes | None, tmp_path: Path) -> None:
    """Asks the contract, of a file that lies in the current folder (``None``: a named pipe), and of variables."""
    if settings is None:
        os.mkfifo(tmp_path / "matplotlibrc")
    else:
        (tmp_path / "matplotlibrc").write_bytes(settings)
    root = str(Path(__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "estimator", "max-seq", SMOLLM2, "--budget", "4GiB", "--output", "figure.png"],
        env={**os.environ, "MPLBACKEND": "bogus", "MPLCONFIGDIR": "/proc/none", "HOME": "/dev/null"}
        | {"PYTHONPATH": root},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "figure.png").stat().st_size


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "variables",
    [
        {"_ARGCOMPLETE": "1"},
        {"COLUMNS": "abc", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "-5", "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "TERM": "\x1b[31m"},
        {"COLUMNS": "9" * 20, "PYTHONIOENCODING": "utf-16", "HF_ENDPOINT": "https://[", "TZ": "x/y"},
        {"PYTHONIOENCODING": "ascii:strict", "XDG_CACHE_HOME": "/dev/null", "ESTIMATOR_PROGRAMS": "/dev/full"},
    ],
)
def test_odd_variables(variables: dict[str, str]) -> None:
    """Asks the contract: an answer, and nothing beside it."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "estimator", "estimate", MODEL],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent), **variables},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout) > 500


FOREIGN = ("string", "json", "torch", "numpy", "pydantic")
"""Modules of these names lie in many a folder."""


def foreign_folder(folder: Path) -> Path:
    """A folder whose modules say that they were run."""
    for name in FOREIGN:
        (folder / f"{name}.py").write_text(f"import os; os.close(os.open({str(folder / 'ran')!r}, os.O_CREAT))")
    return folder


def test_modules_of_the_current_folder_are_not_run(tmp_path: Path) -> None:
    """Asks the contract, of ``python -m`` and with an empty entry in ``PYTHONPATH`` of another folder."""
    folder = foreign_folder(tmp_path)
    root = str(Path(__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "estimator", "estimate", MODEL, "--seq", "16", "--quiet"],
        env={**os.environ, "PYTHONPATH": root},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "ran").exists()


@pytest.mark.extra("trace")
def test_a_fresh_process_runs_no_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract, of what ``measure`` starts; an empty entry in ``PYTHONPATH`` would be that folder, too."""
    from estimator.io import fresh

    monkeypatch.chdir(foreign_folder(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    for module in ("measure", "loading", "llama_cpp"):
        done = fresh.run(module, {})
        assert done.returncode != 0
        assert "ModuleNotFoundError" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_ctrl_c_while_modules_are_imported(tmp_path: Path) -> None:
    """Asks the contract: one line, and the status of a process that was interrupted."""
    unignored = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # which a job in the background ignores
    (tmp_path / "pydantic.py").write_text(f"import os, signal; {unignored}; os.kill(os.getpid(), signal.SIGINT)")
    root = str(Path(__file__).parent.parent.parent)
    script = tmp_path / "estimator"
    script.write_text("from estimator.show.cli import main\nmain()")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    for words in (["-m", "estimator"], ["-P", str(script)]):
        done = subprocess.run([sys.executable, *words], env=environment, cwd=root, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "estimator: interrupted\n")


def test_the_command_looks_for_no_plugin_of_pydantic(tmp_path: Path) -> None:
    """An installed package with a plugin is not imported, and what looks for it is not either."""
    package = tmp_path / "plugged-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: plugged\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pydantic]\nplugged = plugged:plugin\n")
    (tmp_path / "plugged.py").write_text("print('imported')\nplugin = None\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONPROFILEIMPORTTIME": "1"}
    environment.pop("PYDANTIC_DISABLE_PLUGINS", None)
    done = command("estimate", "llama-3.2-1b", "--quiet", "--budget", "60GiB", env=environment)
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stdout
    assert "estimator.plans.plan" in done.stderr
    assert "importlib.metadata" not in done.stderr
