"""Models by their hub ids: built-in ones without a network, and what is said of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.plans.models import builtin_names, load, specs_folder
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
            assert spec.warnings == (f"{written} is read as the built-in {name}",)


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
    ],
)
def test_siblings_of_built_in_models(model: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of the same weights tuned otherwise has the same shapes, and the result says what it was read as."""
    monkeypatch.setattr("estimator.plans.models._hub", None)
    spec = load(model)
    assert (spec.name, spec.raw) == (name, load(name).raw)
    assert f"{model} is read as the built-in {name}" in spec.warnings[0]


def test_siblings_are_told_apart() -> None:
    """No two built-in models are one family, and other shapes are no sibling."""
    from estimator.plans.models import _by_hub_id, _family

    families = [_family(load(name).hub_id or "") for name in builtin_names()]
    assert len(set(families)) == len(families) == len(list(specs_folder().glob("*.yaml")))
    for other in ("Qwen/Qwen2.5-7B-Instruct-1M", "meta-llama/Llama-3.1-8B-Instruct-FP8", "google/gemma-3-4b-vision"):
        assert _family(other) not in _by_hub_id()
    assert _family("ibm-granite/granite-3.3-2b-base") not in _by_hub_id()  # a smaller vocabulary


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
    """Asks the contract: the hub's own refusals are passed on in one line."""
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*arguments: Any, **options: Any) -> str:
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        raise getattr(errors, error)("a long\ntext", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr("estimator.plans.models._reach_hub", lambda: None)
    assert "404" in refused(f"owner/{error}")
