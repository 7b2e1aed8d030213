"""The README: its commands run from a clone as they are written, its example files are there, its counts are of now."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from estimator.engines.devices import catalogue
from estimator.plans.models import builtin_names
from estimator.show.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TYPED = re.findall(r"^estimator .*", README, re.MULTILINE) + re.findall(r"`(estimator [^`]+)`", README)
COMMANDS = [shlex.split(line, comments=True)[1:] for line in TYPED]
EXAMPLES = sorted((ROOT / "docs" / "examples").iterdir())
ASKED = [words for words in COMMANDS if any("docs/examples/" in word for word in words)]


# `advise` of the training file takes seconds, and `check` asks the same file.
@pytest.mark.parametrize("words", [words for words in ASKED if words[0] != "advise"], ids=" ".join)
def test_a_command_about_an_example(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training file does not fit; all others fit, or have no budget."""
    monkeypatch.chdir(ROOT)
    assert main(words) == (1 if words[0] == "check" else 0)
    printed = capsys.readouterr().out
    if "--plans" in words:
        results = [json.loads(line) for line in printed.splitlines()]
        assert [result.get("error") for result in results] == [None] * 4


def test_every_example_is_named_in_the_readme() -> None:
    named = {word for words in ASKED for word in words}
    assert EXAMPLES
    assert [path for path in EXAMPLES if path.relative_to(ROOT).as_posix() not in named] == []


def test_files_in_the_readmes_commands_are_in_the_clone_or_written() -> None:
    """A path that is read, and not the value of ``--output``."""
    for words in COMMANDS:
        read = [word for before, word in pairwise(words) if before != "--output"]
        files = [word for word in read if Path(word).suffix in (".json", ".jsonl", ".yaml", ".gguf", ".csv")]
        assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_readmes_counts_are_of_now() -> None:
    (models,) = re.findall(r"\*\*Models\*\*: (\d+) built in", README)
    (devices,) = re.findall(r"\*\*Devices\*\*: (\d+) GPUs", README)
    assert (int(models), int(devices)) == (len(builtin_names()), len(catalogue()))
