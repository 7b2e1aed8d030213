"""Folders of odd names, in tables, messages and figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.text import printable
from tests.cases.hostile_input import NAMES
from tests.cases.small_models import write_config
from tests.helpers.commands import refused, run


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_shown_as_they_are(name: str, tmp_path: Path) -> None:
    """Asks the contract: whatever a folder is called, tables, JSON and messages name it, one line each."""
    folder = Path(write_config(tmp_path / name, {}))
    seen = run(["estimate", str(folder), "--seq", "8"])
    assert (seen.status, seen.wrong()) == (0, "")
    assert printable(str(folder)) in seen.out.replace("\n", "")
    assert "\x1b" not in seen.out
    seen = run(["estimate", str(folder), "--seq", "8", "--json"])
    assert json.loads(seen.out)["model"] == (
        str(folder) if name.isascii() or name == "ключ" else printable(str(folder))
    )
    assert seen.out.encode()
    (folder / "config.json").write_text("[]")
    assert printable(" ".join(name.split())) in refused(folder)


def test_names_in_figures(tmp_path: Path) -> None:
    """Asks the contract: dollars are no formula, bytes that are no text are escaped; nothing is said beside."""
    for name in ("a$\\frac$b", "bytes\udcff\x1b[31mключ漢"):
        folder, figure = Path(write_config(tmp_path / name, {})), tmp_path / "figure.svg"
        seen = run(["compare", str(folder), "--seqs", "8,16", "--methods", "full,lora", "--output", str(figure)])
        assert (seen.status, seen.beside) == (0, "")
        assert printable(name) in figure.read_text()
