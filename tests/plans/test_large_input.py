"""Input that is large: ten thousand layers, thousands of lengths. An answer, or the bound, and soon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from tests.cases.hostile_input import CONFIG
from tests.cases.small_models import write_config
from tests.helpers.commands import Seen, run
from tests.helpers.files import write

MODEL = "smollm2-135m"


def timed(*arguments: Any) -> Seen:
    seen = run(["estimate", *map(str, arguments)])
    assert seen.wrong() == ""
    return seen


@pytest.mark.share(9)
def test_ten_thousand_layers(tmp_path: Path) -> None:
    """Asks the contract: an answer where layers repeat, a refusal with the bound where they do not."""
    deep = Path(write_config(tmp_path / "deep", {"num_hidden_layers": 10_000}))
    assert timed(deep, "--seq", "8").status == 0
    by_pattern = Path(write_config(tmp_path / "by_pattern", {"num_hidden_layers": 2_000}))
    assert timed(by_pattern, "--seq", "8", "--method", "lora", "--target-modules", ".*q_proj").status == 0
    half = Path(write_config(tmp_path / "half", {"num_hidden_layers": 5_000}))
    assert "800,000 allocations" in timed(half, "--seq", "8", "--method", "lora", "--device", "rtx-4090").err
    thousand = Path(write_config(tmp_path / "thousand", {"num_hidden_layers": 1_000}))
    assert timed(thousand, "--seq", "8", "--method", "lora", "--device", "rtx-4090").status == 0
    kinds = ["full_attention", "sliding_attention"] * 5_000
    alternating = Path(write_config(tmp_path / "alternating", {}))
    write(alternating / "config.json", {**CONFIG, "num_hidden_layers": 10_000, "layer_types": kinds})
    assert "256 are the most" in timed(alternating, "--seq", "8").err


def test_two_thousand_lengths() -> None:
    """Asks the contract."""
    lengths = {str(3 * i + 5): i % 7 + 1 for i in range(2000)}
    start = time.process_time()
    assert estimate(model=MODEL, lengths={"histogram": lengths}, budget="3GiB").run is not None
    assert time.process_time() - start < 5
