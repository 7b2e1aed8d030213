"""Files that commands write: whole or not at all, and never in place of what is no file or is an input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.small_models import TINY
from tests.helpers.commands import refusal, run
from tests.helpers.files import write

MODEL = "smollm2-135m"
WRITERS = {
    ".txt": ["formula", MODEL, "--seq", "16"],
    ".py": ["export", MODEL, "--to", "python", "--vars", "seq"],
    ".xlsx": ["export", MODEL, "--to", "xlsx", "--vars", "seq"],
    ".csv": ["sweep", MODEL, "--seq", "16", "--batch", "1,2"],
    ".svg": ["max-seq", MODEL, "--budget", "4GiB"],
    ".html": ["explain", MODEL, "--seq", "16"],
    ".pickle": ["timeline", MODEL, "--seq", "16"],
}
"""A command for each way in which a file is written, by how the file ends."""


@pytest.mark.parametrize("ending", WRITERS)
def test_what_is_no_file_is_not_written(ending: str, tmp_path: Path) -> None:
    """Asks the contract: a pipe without a reader, a folder, a missing folder; one line, at once, before any work."""
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    (tmp_path / f"null{ending}").symlink_to("/dev/null")
    for name, words in {
        "pipe": "a named pipe",
        "folder": "a folder",
        "missing/x": "no folder",
        "null": "a device",
    }.items():
        assert words in refusal(*WRITERS[ending], "--output", tmp_path / f"{name}{ending}")
    refusal(*WRITERS[ending], "--output", "-")


@pytest.mark.share(9)
@pytest.mark.parametrize("ending", WRITERS)
def test_a_full_disk_loses_nothing(ending: str, tmp_path: Path) -> None:
    """Asks the contract: the file of before stays, no part of a new one, one line. A limit stands for the full disk."""
    old = tmp_path / f"old{ending}"
    old.write_text("before")
    code = (
        "import resource, signal, sys; from estimator.show.cli import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-P", "-c", code, *WRITERS[ending], "--output", str(old)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot write" in done.stderr
    assert old.read_text() == "before"
    assert os.listdir(tmp_path) == [old.name]


@pytest.mark.parametrize("ending", [".txt", ".py", ".csv"])
def test_an_input_is_not_written(ending: str, tmp_path: Path) -> None:
    """Asks the contract: a plan's own file, also by another name of it, is kept."""
    text = '{"model": "smollm2-135m", "seq": 16}'
    plan = Path(write(tmp_path / f"plan{ending}", text))
    (tmp_path / f"link{ending}").symlink_to(plan)
    command = [word for word in WRITERS[ending] if word not in (MODEL, "--seq", "16")]
    for name in ("plan", "link"):
        line = refusal(*command, "--plan", plan, "--output", tmp_path / f"{name}{ending}")
        assert "read by this command" in line
    assert plan.read_text() == text


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "log.txt", "plan.json", "/dev/stdin"])
def test_what_standard_output_is_redirected_to_is_not_replaced(name: str, tmp_path: Path) -> None:
    """Asks the contract: what stands in a log before is not lost, nor the plan on standard input."""
    text = '{"model": "smollm2-135m", "seq": 16}'
    (tmp_path / "plan.json").write_text(text)
    (tmp_path / "log.txt").write_text("before")
    command = [sys.executable, "-P", "-m", "estimator", "formula", "--plan", "-", "--output", name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    with (tmp_path / "plan.json").open() as plan, (tmp_path / "log.txt").open("a") as log:
        done = subprocess.run(
            command, stdin=plan, stdout=log, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard" in done.stderr
    assert (tmp_path / "log.txt").read_text() == "before"
    assert (tmp_path / "plan.json").read_text() == text


def test_a_model_is_not_written(tmp_path: Path) -> None:
    """Asks the contract of a config that a table's rows are of, which is read late."""
    config = Path(write(tmp_path / "config.csv", TINY))
    before = config.read_text()
    assert "read by this command" in refusal("sweep", config, "--seq", "8,16", "--output", config)
    assert config.read_text() == before


def test_a_file_behind_a_link_keeps_its_rights(tmp_path: Path) -> None:
    """Asks the contract: the link stays one, and so do the file's permissions."""
    file, link = tmp_path / "file.txt", tmp_path / "link.txt"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to(file)
    seen = run([*WRITERS[".txt"], "--output", str(link)])
    assert (seen.status, seen.beside, link.is_symlink()) == (0, "", True)
    assert file.read_text() != "before"
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("ending", [".txt", ".csv", ".svg"])
def test_what_is_overwritten_is_said(ending: str, tmp_path: Path) -> None:
    """One line, of a file that had content; the answer and its status are the same."""
    path = tmp_path / f"a{ending}"
    command = [*WRITERS[ending], "--output", str(path)]
    first = run(command)
    second = run(command)
    assert (first.err, second.err) == ("", f"estimator: overwrote '{path}'\n")
    assert (first.status, first.out) == (second.status, second.out)
    path.write_bytes(b"")
    assert run(command).err == ""


@pytest.mark.parametrize("kind", ["html", "xlsx"])
def test_a_model_whose_name_is_not_utf_8(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("xlsxwriter")
    folder = tmp_path / "m\udcff"
    folder.mkdir()
    write(folder / "config.json", TINY)
    seen = run(["export", str(folder), "--to", kind, "--vars", "batch", "--output", str(tmp_path / f"a\udcfe.{kind}")])
    assert (seen.status, seen.wrong()) == (0, "")
