"""Files that are written: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from estimator.errors import InputError
from estimator.io.outputs import append_line, replacing


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    """Asks the contract: Ctrl-C within."""
    (tmp_path / "file").write_text("before")

    def interrupted() -> None:
        with replacing(tmp_path / "file") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "file").read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


def test_lines_are_added_whole(tmp_path: Path) -> None:
    """Asks the contract: a line that was cut off before does not swallow the next; a pipe does not block."""
    file = tmp_path / "lines"
    file.write_text('{"cut of')
    append_line(file, "{}")
    append_line(file, "[]")
    assert file.read_text() == '{"cut of\n{}\n[]\n'
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing/x", ".", "n" * 300):
        with pytest.raises(InputError, match="cannot write"):
            append_line(tmp_path / name, "{}")
