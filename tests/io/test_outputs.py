"""Files that are written: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from estimator.errors import InputError
from estimator.io import files, outputs
from estimator.io.outputs import append_line, place_of, replacing


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


def test_where_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a link, where the folder and the file that is there may be written."""
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    assert place_of(tmp_path / "link") == file.resolve()
    assert place_of(tmp_path / "new") == (tmp_path / "new").resolve()
    for name, says in (
        ("-", "no file is named -; name one"), (str(tmp_path), "it is a folder; name another file"),
        (str(tmp_path / "pipe"), "it is a named pipe; name another file"), ("/dev/null", "it is a device"),
        (str(tmp_path / "no" / "x"), f"there is no folder '{tmp_path / 'no'}' to put it in; name another file"),
        ("x\0", "embedded null"),
    ):  # fmt: skip
        with pytest.raises(InputError) as raised:
            place_of(Path(name))
        assert says in str(raised.value)
    for asked, named in ((tmp_path.resolve(), "new"), (tmp_path.resolve(), "file"), (file.resolve(), "file")):
        monkeypatch.setattr(os, "access", lambda path, mode, asked=asked: Path(path) != asked)
        with pytest.raises(InputError, match="it is read-only, or its folder is; name another file"):
            place_of(tmp_path / named)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != (os.W_OK if Path(path).is_dir() else os.R_OK))
    assert place_of(file) == file.resolve()  # of the folder both are asked, of the file whether it may be written
    about = file.stat()
    monkeypatch.setattr(outputs, "redirected", lambda *_: {(about.st_dev, about.st_ino)})
    with pytest.raises(InputError, match="is this command's standard input or output; name another file"):
        place_of(file)
    assert place_of(tmp_path / "new") == (tmp_path / "new").resolve()


def test_what_is_written_takes_the_place_and_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("before")
    file.chmod(0o640)
    with replacing(file) as part:
        assert (part.suffix, part.parent, part.read_bytes()) == (".json", tmp_path.resolve(), b"")
        part.write_text("after")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("after", 0o640)
    assert os.listdir(tmp_path) == ["file.json"]
    with pytest.raises(InputError, match=r"cannot write '.*file\.json': full; name another file"), replacing(file):
        raise OSError(28, "full")
    assert file.read_text() == "after"


def test_the_files_of_standard_streams(tmp_path: Path) -> None:
    """Of those that are open, and regular files."""
    with (tmp_path / "file").open("w") as file:
        about = os.fstat(file.fileno())
        assert files.redirected(file.fileno(), 99_999) == {(about.st_dev, about.st_ino)}
    with open(os.devnull, "rb") as device:
        assert files.redirected(device.fileno()) == set()
