"""Steps of sentence-transformers' trainer. The witness is its own loop on the CPU, recorded with date and versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import estimator
from tests.cases.embedding_loops import CASES, RECORD, made

MEASURED: dict[str, dict[str, int]] = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]


@pytest.mark.parametrize(("name", "config", "keys"), CASES, ids=[name for name, *_ in CASES])
def test_a_step_is_what_the_trainer_takes(
    name: str, config: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    found = estimator.step(made(config, keys, tmp_path)).bytes
    assert {part: found[part] for part in MEASURED[name]} == MEASURED[name]
