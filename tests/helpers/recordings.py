"""The same question to the shipped programs alone, and to a recording of the installed transformers alone."""

from __future__ import annotations

from typing import Any

import pytest

import estimator
from estimator.errors import InputError
from estimator.plans import models


def refuse(raw: Any, where: str, asked: str, reason: str, release: str, head: str) -> Any:
    """In place of ``models._live``: nothing is recorded."""
    raise InputError(f"{where}: {reason}")


def answer(plan: dict[str, Any], shipped: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """The bytes and the moment of the peak: from the shipped programs alone, or from a recording."""
    with monkeypatch.context() as patch:
        if shipped:
            patch.setattr(models, "_live", refuse)
        else:
            patch.setattr(models, "programs_of", lambda *_: [])
        models._builtin.cache_clear()  # a built-in model keeps its programs
        result = estimator.estimate(**plan)
    models._builtin.cache_clear()
    return result.bytes, result.peak_at
