"""How files are read: up to a limit, and with one line about what is wrong."""

from __future__ import annotations

import io
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.io import files
from estimator.io.files import beside, existing, lines, parse_json, parse_yaml, read_json, read_text


@pytest.fixture(params=["file", "standard input"])
def given(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Bytes as a file, or on standard input. Returns the name to ask for."""

    def put(content: bytes) -> str:
        (tmp_path / "x").write_bytes(content)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return str(tmp_path / "x") if request.param == "file" else "-"

    return put


def test_a_text_of_the_largest_size_is_read(given: Any) -> None:
    assert read_text(Path(given(b"12345")), "a text", 5, or_stdin=True) == "12345"
    with pytest.raises(InputError, match="larger than 5 bytes; give a text"):
        read_text(Path(given(b"123456")), "a text", 5, or_stdin=True)


def test_standard_input_has_a_name_only_where_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_text("a file")
    assert read_text(Path("-"), "a text") == "a file"


def test_a_long_line_is_cut(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of the largest length are whole, its end counted; of a longer one the rest is left out, up to a bound."""
    monkeypatch.setattr(files, "LONGEST_LINE", 4)
    monkeypatch.setattr(files, "_ENDLESS", 13)
    assert [*lines(given(b"1234\n12345\n123456789012\n\nx"), "lines")] == [b"1234\n", b"12345", b"12345", b"\n", b"x"]
    with pytest.raises(InputError, match="has a line of more than"):
        [*lines(given(b"12345678901234"), "lines")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "thousands of digits"),
        (b"\xff", "not text in UTF-8"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('"\\uDFFF"', "half of a surrogate pair"),
        ('"\ud800"', "half of a surrogate pair"),
        ('{"a": {"b": 1, "b": 1}}', "'b' is given twice"),
    ],
)
def test_what_is_no_json(text: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_json(text)


def test_json() -> None:
    assert parse_json('\ufeff{"a": [1, "ä\\ud83d\\ude00"]}'.encode()) == {"a": [1, "ä\U0001f600"]}


def test_a_json_file_holds_an_object(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("[1]")
    with pytest.raises(InputError, match="holds no JSON object; give a plan"):
        read_json(tmp_path / "x", "a plan")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "the mapping at line 3 has a key twice"),
        ("a: &x [1]\nb:\n  c: *x\n", "the block at line [13] has an alias"),
        ("a: 1\nb: [\n", "no valid YAML at line 3"),
        ("a: !!bool maybe", "no valid YAML"),
        ('a: !!int ""', "no valid YAML"),
        ("a: !!timestamp x", "no valid YAML"),
        ('a: !!float "_"', "no valid YAML"),
    ],
)
def test_what_is_no_yaml(text: str, says: str) -> None:
    """The line is the one that an editor shows."""
    with pytest.raises(InputError, match=says):
        parse_yaml(text)


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a writer does not block; a file that is read is noted by its real name."""
    monkeypatch.chdir(tmp_path)  # a socket's name may have some hundred characters
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        for name, says in (
            ("pipe", "'pipe' is a named pipe, not a regular file; give a plan"),
            ("/dev/null", "'/dev/null' is a device, not a regular file; give a plan"),
            (".", "'.' is a folder, not a regular file; give a plan"),
            ("socket", "cannot read 'socket': it is no regular file; give a plan"),
            ("missing", "cannot read 'missing': No such file or directory; give a plan"),
            ("\0", "; give a plan"),
        ):
            with pytest.raises(InputError) as raised:
                files.opened(Path(name), "a plan")
            assert str(raised.value).endswith(says)
    monkeypatch.setattr(files, "READ", set())
    Path("file").write_bytes(b"abc")
    Path("link").symlink_to("file")
    with files.opened(Path("link"), "a plan") as file:
        assert file.read() == b"abc"
    assert {str(Path("file").resolve())} == files.READ
    assert files.read_text(Path("file"), "a plan", 3) == "abc"


def test_a_text_is_json_or_yaml() -> None:
    assert files.parse_json_or_yaml(' {"a": 1}') == {"a": 1}
    assert files.parse_json_or_yaml("{a: 1, b: [x]}") == {"a": 1, "b": ["x"]}
    assert files.parse_json_or_yaml("a: 1") == {"a": 1}
    assert files.parse_json_or_yaml("3") == 3
    with pytest.raises(InputError, match="'a' is given twice"):
        files.parse_json_or_yaml('{"a": 1, "a": 2}')
    with pytest.raises(files.NotYaml, match=r"^it is no valid YAML at line 2$") as raised:
        files.parse_json_or_yaml("{a: 1,\n b: ]}")
    assert raised.value.where == " at line 2"


def test_where_a_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the file that names it, then in the working folder; a folder is no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # a user may have none
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "folder").mkdir()
    for name in ("x", "there/x", "folder"):
        Path(name).write_text("")
    assert beside("x", tmp_path / "there") == tmp_path / "there" / "x"
    assert beside("folder", tmp_path / "there") == Path("folder")
    assert beside("missing", tmp_path) is None
    assert existing(Path("~")) == tmp_path
    assert existing(Path("n" * 300)) is None
    assert existing(Path("\0")) is None


@pytest.mark.parametrize("inside", [True, False])
def test_specs_are_in_the_package_or_beside_it(inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    folder = (package if inside else tmp_path) / "model_specs"
    folder.mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "io" / "files.py"))
    assert files.specs_folder() == folder
