"""Steps of sentence-transformers' trainer. The witness is its own loop on the CPU, recorded with date and versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import estimator
from estimator.answers.estimate import estimate
from estimator.answers.inverse import solve
from estimator.plans.plan import parse_plan
from tests.cases.embedding_loops import CASES, RECORD, made

MEASURED: dict[str, dict[str, int]] = json.loads(RECORD.read_text(encoding="utf-8"))["steps"]


@pytest.mark.parametrize(("name", "config", "keys"), CASES, ids=[name for name, *_ in CASES])
def test_a_step_is_what_the_trainer_takes(
    name: str, config: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    found = estimator.step(made(config, keys, tmp_path)).bytes
    assert {part: found[part] for part in MEASURED[name]} == MEASURED[name]


def test_a_first_text_is_shorter_than_a_row_on_a_gpu() -> None:
    """The first step of a process on a GPU has 8 tokens a row, fewer than the text; ``max-seq`` begins at the text."""
    keys = {"model": "all-minilm-l6-v2", "trainer": "sentence-transformers", "anchor_seq": 32, "device": "t4"}
    short, whole = (estimate({**keys, "seq": 64, "anchor_seq": tokens}).bytes["reserved"] for tokens in (32, 64))
    assert short < whole
    solution = solve("max-seq", parse_plan({**keys, "batch": 40_000}))
    assert solution.value is None
    assert solution.next_value == 32
