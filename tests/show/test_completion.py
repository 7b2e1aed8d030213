"""A shell's completion of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.show.cli import main
from estimator.show.commands import INVERSE


def completed(line: str, tmp_path: Path) -> set[str]:
    """What the shell is given for a command line, by argcomplete's own interface to it."""
    file = tmp_path / "completions"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(file),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    done = subprocess.run([sys.executable, "-m", "estimator"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {word.strip() for word in file.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("estimator max-", {"max-context", "max-gpu-layers", *INVERSE}),
        ("estimator estimate qwen2.5-7b", {"qwen2.5-7b"}),
        ("estimator estimate x --dev", {"--device", "--devices", "--device-map"}),
        ("estimator estimate x --device rtx-309", {"rtx-3090", "rtx-3090-ti"}),
        ("estimator compare x --methods full,ia", {"full,ia3"}),
        ("estimator estimate x --method vera --d-", {"--d-initial"}),
        ("estimator estimate x --loss c", {"chunked", "cce", "chunked-nll", "ce-chunked-output"}),
    ],
)
def test_completion(line: str, words: set[str], tmp_path: Path) -> None:
    """Commands, models, options, devices, methods in a list, a method's options, choices."""
    assert completed(line, tmp_path) == words


@pytest.mark.parametrize(("name", "value"), [("COMP_POINT", "a"), ("COMP_POINT", ""), ("_ARGCOMPLETE", "yes")])
def test_variables_that_no_shell_sets_so_are_ignored(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, number in {"_ARGCOMPLETE": "1", "COMP_LINE": "estimator -", "COMP_POINT": "11", name: value}.items():
        monkeypatch.setenv(key, number)
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("estimator ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each names the command and what asks it."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_ARGCOMPLETE" in script
    assert "estimator" in script
