"""litgpt's LoRA; ``programs/test_litgpt.py`` has measured steps."""

from __future__ import annotations

from typing import Any

import pytest

from estimator import estimate


@pytest.mark.parametrize(
    ("parts", "rows"), [(["query", "value"], 2048 + 512), (["key"], 512), (["query", "key", "value"], 0), (["mlp"], 0)]
)
def test_indices_of_adapted_rows(parts: list[str], rows: int) -> None:
    """By hand: where one of query, key and value is left out, each layer has int64 indices of the others' rows."""
    keys: dict[str, Any] = {"model": "llama-3.2-1b", "implementation": "litgpt", "seq": 8}
    adapted = estimate(keys, method={"name": "lora", "target_modules": parts}).bytes["buffers"]
    assert adapted - estimate(keys).bytes["buffers"] == 16 * 8 * rows
