"""What stands for libraries allocates what it did when ``tests/data/reference_allocations.json`` was written."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from tests.cases.reference_allocations import RECORD, lines


def test_allocations(one_thread: None) -> None:
    assert lines() == json.loads(RECORD.read_text(encoding="utf-8"))
