"""The page's folder and its server. The witness is what a browser would be given."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from estimator.errors import InputError
from estimator.plans.plan import Plan
from estimator.show.captured import captured
from estimator.show.page import build, serve
from tests.helpers import engines


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """A network of so many addresses, and a cache that is empty."""
    sent: dict[str, bytes] = {}

    def answered(url: str, timeout: float) -> Any:
        if url not in sent:
            raise OSError("unreachable")
        return io.BytesIO(sent[url])

    monkeypatch.setattr(build, "urlopen", answered)
    monkeypatch.setenv("ESTIMATOR_PROGRAMS", str(tmp_path / "cache" / "programs"))
    return sent


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        for name in names:
            wheel.writestr(zipfile.ZipInfo(name), name)
    return content.getvalue()


def test_an_archive_is_fetched_once(network: dict[str, bytes]) -> None:
    content = archive("a.py")
    where = {"url": "https://x/a.whl", "sha256": hashlib.sha256(content).hexdigest()}
    network[where["url"]] = content
    assert dict(build._members(where)) == {"a.py": b"a.py"}
    network.clear()
    assert dict(build._members(where)) == {"a.py": b"a.py"}


def test_a_changed_archive_is_refused(network: dict[str, bytes], tmp_path: Path) -> None:
    where = {"url": "https://x/a.whl", "sha256": hashlib.sha256(archive("a.py")).hexdigest()}
    network[where["url"]] = archive("b.py")
    with pytest.raises(InputError, match="is not what the page was made with"):
        dict(build._members(where))
    kept = tmp_path / "cache" / "page" / where["sha256"]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"damaged")
    network[where["url"]] = archive("a.py")
    assert dict(build._members(where)) == {"a.py": b"a.py"}
    assert kept.read_bytes() == archive("a.py")


def test_without_a_network(network: dict[str, bytes], tmp_path: Path) -> None:
    printed = captured(["page", "--output", str(tmp_path / "page")])
    assert printed.status == 2
    assert printed.error.startswith("cannot fetch 'https://registry.npmjs.org/pyodide/")
    assert "\n" not in printed.error


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    printed = captured(["page", "--output", str(tmp_path / "file")])
    assert (printed.status, printed.output) == (2, "")


@pytest.mark.share(6)
@pytest.mark.parametrize("port", ["-1", "65536", "x", "1e9"])
def test_a_port_that_is_none(port: str) -> None:
    printed = captured(["page", "--port", port])
    assert printed.status == 2
    assert "port" in printed.error


def test_the_same_files_make_the_same_archive() -> None:
    assert build._zipped([("a", b"1")]) == build._zipped([("a", b"1")])


def test_what_the_form_is_made_of() -> None:
    described = json.loads(json.dumps(build._described()))
    assert described["schema"]["properties"].keys() == Plan.model_fields.keys()
    assert set(described["first"]) - {"r", "target_modules"} <= Plan.model_fields.keys()
    assert {"smollm2-135m"} <= {one["name"] for one in described["models"]}


def test_a_browser_that_leaves_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "large").write_bytes(b"x" * 50_000_000)
    with serve.server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port)) as browser:
            browser.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            browser.recv(1000)
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.shutdown()
    assert capsys.readouterr().err == ""


def test_what_the_server_says(tmp_path: Path) -> None:
    (tmp_path / "a.mjs").write_text("1")
    (tmp_path / "a.wasm").write_bytes(b"\0asm")
    with serve.server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.server_address[0] == "127.0.0.1"
        for name, kind in (("a.mjs", "text/javascript"), ("a.wasm", "application/wasm")):
            with urlopen(f"http://127.0.0.1:{server.server_port}/{name}") as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Content-Security-Policy"] == serve.POLICY
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{server.server_port}/%00")
        server.shutdown()


@pytest.mark.parametrize("text", ["smollm2-135m", "it's", "a\nb", "x\x1b[31m'\\\x85", "~/é", ""])
def test_a_copied_command_has_no_control_character(text: str) -> None:
    """Witness: bash, which gives the text back. A line break that is pasted would run what stands before it."""
    script = (Path(serve.__file__).parent / "copies.js").read_text("utf-8").partition("function commandLine")[0]
    run = [engines.tool("node"), "-e", f"{script} process.stdout.write(quoted({json.dumps(text)}))"]
    quoted = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", quoted)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    shell = subprocess.run([engines.tool("bash"), "-c", f"printf %s {quoted}"], capture_output=True, env=environment)
    assert shell.stdout == text.encode()
