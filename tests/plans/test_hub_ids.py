"""Models by their hub ids: built-in ones without a network, and what is said of the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.io.files import specs_folder
from estimator.plans import hub
from estimator.plans.models import builtin_names, load
from tests.cases.small_models import TINY
from tests.helpers.commands import refused
from tests.helpers.refusals import assert_one_line


def test_hub_ids_of_built_in_models_need_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any case of letters, each is its own spec."""
    monkeypatch.setattr("estimator.plans.models._hub", None)
    for name in builtin_names():
        hub_id = load(name).hub_id
        assert hub_id is not None
        for written in (hub_id, hub_id.upper()):
            spec = load(written)
            assert (spec.name, spec.raw) == (name, load(name).raw)
            assert spec.warnings == (*load(name).warnings, f"{written} is read as the built-in {name}")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/llama-2-7b-chat-hf", "llama-2-7b"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
        ("google/gemma-3-4b-pt", "gemma-3-4b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen/Qwen3-4B-Base", "qwen3-4b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b-2507"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-12b"),
        ("tiiuae/Falcon3-1B-Instruct", "falcon3-1b"),
        ("Llama-3.2-1B-Instruct", "llama-3.2-1b"),
        ("Qwen/Qwen3-4B-Thinking-2507", "qwen3-4b-2507"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
    ],
)
def test_siblings_of_built_in_models(model: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the same weights tuned otherwise has the same shapes, and the result says what it was read as."""
    monkeypatch.setattr("estimator.plans.models._hub", None)
    spec = load(model)
    assert (spec.name, spec.raw) == (name, load(name).raw)
    assert f"{model} is read as the built-in {name}" in spec.warnings[-1]


def test_siblings_are_told_apart() -> None:
    """No two built-in models are one family, and other shapes are no sibling."""
    from estimator.plans.models import _by_hub_id, _family

    families = [_family(load(name).hub_id or "") for name in builtin_names()]
    assert len(set(families)) == len(families) == len(list(specs_folder().glob("*.json")))
    for other in ("Qwen/Qwen2.5-7B-Instruct-1M", "meta-llama/Llama-3.1-8B-Instruct-FP8", "google/gemma-3-4b-vision"):
        assert _family(other) not in _by_hub_id()
    assert _family("ibm-granite/granite-3.3-2b-base") not in _by_hub_id()  # a smaller vocabulary


NF4 = {"dtype": "nf4", "double_quant": True, "compute_dtype": "bfloat16", "rest_dtype": "bfloat16"}
AWQ = {"dtype": "awq", "weight_group_size": 128, "rest_dtype": "float16"}
GPTQ = {**AWQ, "dtype": "gptq"}


@pytest.mark.parametrize(
    ("model", "name", "keys", "words"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", "llama-3-8b", NF4, "Unsloth's 4-bit checkpoints"),
        ("unsloth/Qwen3-4B-unsloth-bnb-4bit", "qwen3-4b", NF4, "some linear layers stay in 16 bits"),
        ("unsloth/gemma-2-9b-it-bnb-4bit", "gemma-2-9b", NF4, "Unsloth's 4-bit checkpoints"),
        ("Llama-3.2-1B-Instruct-bnb-4bit", "llama-3.2-1b", NF4, "Unsloth's 4-bit checkpoints"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b", AWQ, "AutoAWQ's default"),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b", AWQ, "AutoAWQ's default"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "qwen2.5-7b", GPTQ, "GPTQ commonly"),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", "llama-2-7b", GPTQ, "GPTQ commonly"),
    ],
)
def test_a_quantised_checkpoint_by_its_name(
    model: str, name: str, keys: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hub it is the built-in model with the keys that its config would say, and each is an assumption."""
    monkeypatch.setattr("estimator.plans.hub._reach", unreached)
    found = estimate(model, method="lora", seq=16)
    assert found.bytes == estimate(name, method="lora", seq=16, **keys).bytes
    assert {one.key: one.value for one in found.assumptions} == keys
    assert all(words in one.why for one in found.assumptions)
    assert any(f"{model} is read as the built-in {name}, quantised" in warning for warning in found.warnings)


def unreached() -> None:
    raise OSError("no network")


def test_keys_that_a_name_does_not_say_may_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimator.plans.hub._reach", unreached)
    model = "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"
    found = estimate(model, method="lora", seq=16, weight_group_size=32)
    assert [one.key for one in found.assumptions] == ["dtype", "rest_dtype"]
    assert "dtype: 'nf4' does not go with" in refused(model, "--dtype", "nf4", "--method", "lora")


@pytest.mark.parametrize(
    "model",
    [
        "unsloth/Qwen3-0.6B-GGUF",
        "Qwen/Qwen3-8B-FP8",
        "mlx-community/Qwen3-8B-4bit",
        "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8",
        "unsloth/gpt-oss-20b-unsloth-bnb-4bit",
        "Qwen/Qwen3-30B-A3B-GPTQ-Int4",
    ],
)
def test_a_name_that_says_too_little(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other formats, and experts, are refused with the built-in model to ask about."""
    monkeypatch.setattr("estimator.plans.hub._reach", unreached)
    line = refused(model)
    assert "its name does not say how" in line
    assert re.search(r"ask about (qwen|gpt-oss-20b)\S* with a dtype: --dtype nf4, in llama.cpp --dtype q4_k_m$", line)


def test_a_path_comes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the same name is what is meant."""
    monkeypatch.chdir(tmp_path)
    folder = Path("meta-llama/Llama-3.1-8B")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    assert load("meta-llama/Llama-3.1-8B").raw == TINY


def test_a_result_says_what_its_model_was_read_as() -> None:
    """The model stays as it was given, in PyTorch and in llama.cpp."""
    for keys in ({}, {"runtime": "llama.cpp"}):
        result = estimate("meta-llama/Llama-3.2-1B", **keys)
        assert result.model == "meta-llama/Llama-3.2-1B"
        assert "meta-llama/Llama-3.2-1B is read as the built-in llama-3.2-1b" in result.warnings
        assert result.bytes == estimate("llama-3.2-1b", **keys).bytes


@pytest.mark.parametrize("model", ["Qwen/Qwen0-0.6B", "a/b", "a b/c", "-/-", "ü/ü", "m" * 3000 + "/x"])
def test_a_hub_id_without_a_hub(model: str) -> None:
    """Asks the contract: offline, a hub id says what to give in its place."""
    assert "config.json" in refused("--batch", "1", "--", model)


def test_a_hub_id_offline() -> None:
    """Asks the contract, with the hub's own offline switch in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "estimator.show.cli", "estimate", "no-such-owner/no-such-model"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "estimator models" in done.stderr
    assert_one_line(done.stderr.removesuffix("\n"))


@pytest.mark.parametrize("error", ["RepositoryNotFoundError", "GatedRepoError", "RemoteEntryNotFoundError"])
def test_what_the_hub_answers(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the contract: the hub's own refusals are passed on in one line, and it is asked once."""
    import huggingface_hub
    from huggingface_hub import errors

    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> str:
        asked.append(arguments)
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        raise getattr(errors, error)("a long\ntext", response=response)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr("estimator.plans.hub._reach", lambda: None)
    assert "404" in refused(f"owner/{error}")
    assert len(asked) == 1


class Hub(BaseHTTPRequestHandler):
    """A server that is not what a hub should be: the owner's name in the address says how."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        owner = self.path.split("/")[1]
        if owner == "slow":
            time.sleep(4)
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str({"large": 5 << 30, "odd": 9}.get(owner, len(CONTENT))))
        self.end_headers()

    def do_GET(self) -> None:
        if self.path.startswith(("/endless", "/api")):  # the hub's library asks for the second before all others
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))
        self.do_HEAD()
        if self.path.startswith("/dripping"):
            for byte in CONTENT[:8]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.5)
        self.wfile.write(b"not JSON!" if self.path.startswith("/odd") else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


CONTENT = json.dumps(TINY).encode()


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The address of a ``Hub``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(model: str, endpoint: str, home: Path, seconds: int = 20, **more: str) -> subprocess.CompletedProcess[str]:
    """What the command says of a model on a hub whose cache is in ``home``."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "no_proxy": "*"}
    variables["HF_HUB_CACHE"] = str(home / "hub")
    code = (
        f"import sys; from estimator.plans import hub; hub.SECONDS = {seconds}; "
        "from estimator.show.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "estimate", model, "--seq", "16", "--json"],
        env={**os.environ, **variables, **more},
        capture_output=True,
        text=True,
    )


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("model", "seconds", "words"),
    [
        ("large/x", 20, "5,368,709,120 bytes"),
        ("odd/x", 20, "JSON"),
        ("endless/x", 20, "an answer of more than 1,000,000 bytes"),
        ("slow/x", 1, "cannot reach"),
        ("dripping/x", 1, "cannot reach"),
    ],
)
def test_a_hub_that_hurts(model: str, seconds: int, words: str, endpoint: str, tmp_path: Path) -> None:
    """Asks the contract: a size is asked first, all takes at most so long, and one line says what is wrong."""
    done = asked(model, endpoint, tmp_path, seconds)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr


@pytest.mark.share(9)
def test_a_cache_of_the_hub(endpoint: str, tmp_path: Path) -> None:
    """One that cannot be written is done without; a damaged file is named, and asked for again."""
    done = asked("good/x", endpoint, tmp_path, HF_HUB_CACHE="/proc/none")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["warnings"] == []
    assert asked("good/x", endpoint, tmp_path).returncode == 0
    file = next(tmp_path.rglob("config.json"))
    file.resolve().write_text("{")
    done = asked("good/x", endpoint, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.name in json.loads(done.stdout)["warnings"][0]
    assert asked("other/x", "https://[", tmp_path).stderr.count("\n") == 1


def test_files_about_images_are_those_that_the_hub_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """In transformers' order, without those that are missing or wrong; none from a hub that does not answer."""
    files: dict[str, Any] = {"a.json": {"size": 1}, "c.json": {"size": 3}}

    def config_of(model: str, file: str) -> tuple[dict[str, Any], str]:
        if file == "down.json":
            raise hub.Unreachable("no answer")
        if file not in files:
            raise InputError("no such file")
        return files[file], "a note"

    monkeypatch.setattr(hub, "config_of", config_of)
    assert [*hub.processor_of("x", ("a.json", "b.json", "c.json"))] == [
        ("a.json", {"size": 1}),
        ("c.json", {"size": 3}),
    ]
    assert [*hub.processor_of("x", ("a.json", "down.json", "c.json"))] == [("a.json", {"size": 1})]
