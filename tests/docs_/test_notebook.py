"""The notebook is run, and prints what it shows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.files import DOCS

nbclient = pytest.importorskip("nbclient")


def printed(notebook: Any) -> list[str]:
    cells = (cell.get("outputs", []) for cell in notebook.cells)
    return ["".join(out["text"] for out in outputs if out.get("name") == "stdout") for outputs in cells]


@pytest.mark.witness
@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_it_prints_what_it_shows(path: Path) -> None:
    import nbformat

    shown = nbformat.read(path, as_version=4)
    again = copy.deepcopy(shown)
    nbclient.NotebookClient(again, timeout=600, kernel_name="python3").execute()
    assert printed(again) == printed(shown)
