"""A terminal of a given width."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from estimator.show.cli import main


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in a terminal of so many columns and gives its output, checked for width."""

    def run(*arguments: str, columns: int = 80, status: int = 0) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(arguments) == status
        out, err = capsys.readouterr()
        assert err == ""
        for line in out.splitlines():
            assert len(line) <= columns or re.fullmatch(r"\s*([a-z]+://)?[a-z0-9.-]+/\S+", line), line
        return out

    return run
