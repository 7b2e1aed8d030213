"""Formulas in a config's words, where they hold, and what a run begins with: by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from estimator.answers.config_names import named, names_in
from estimator.answers.estimate import estimate
from estimator.answers.formulas import Regime
from estimator.answers.result import _phase_note
from estimator.answers.run_moments import _first_step
from estimator.answers.validation import _grid
from estimator.errors import InputError
from estimator.ledger import Size
from estimator.ledger.sizes import symbol

B, S, H, K, G, R = (symbol(name) for name in ("B", "S", "H", "K", "G", "r"))


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (5, "5"),
        (2 * B * S, "2*batch*seq"),
        (3 * B * S * H + 4 * B * S * R - B * S, "batch*seq*(3*hidden_size + 4*r - 1)"),
        (2 * H * H + H * R - 7, "2*hidden_size**2 + hidden_size*r - 7"),
        (B * S * S * H + B, "batch*seq**2*hidden_size + batch"),
        (K, "num_key_value_heads"),
        (K * G, "num_attention_heads"),
        (G, "num_attention_heads/num_key_value_heads"),
        (G * G, "num_attention_heads**2/num_key_value_heads**2"),
        (K * K * G, "num_attention_heads*num_key_value_heads"),
    ],
    ids=str,
)
def test_sizes_in_words_of_a_config(size: Size, text: str) -> None:
    assert named(size) == text
    values = {"B": 2, "S": 3, "H": 5, "K": 7, "G": 4, "r": 6}
    names = names_in([size], values)
    assert names.get("num_attention_heads", 28) == 28
    assert eval(text, {}, {**names, "num_key_value_heads": 7}) == (
        size if isinstance(size, int) else size.substitute(values)
    )


@pytest.mark.parametrize(
    ("regime", "condition"),
    [
        (Regime(), "B >= 2 and S >= 2"),
        (Regime(batch_one=True, seq_one=True), "B == 1 and S == 1"),
        (Regime(images_one=True), "B >= 2 and S >= 2 and M == 1"),
        (Regime(images_one=False), "B >= 2 and S >= 2 and M >= 2"),
        (Regime(window_reached=True, window=16), "B >= 2 and S >= 2 and S >= 16"),
        (Regime(window_reached=False, window=16), "B >= 2 and S >= 2 and S < 16"),
        (Regime(new_tokens=2), "B >= 2 and S >= 2 and N == 2"),
        (Regime(new_tokens=3), "B >= 2 and S >= 2 and N >= 3"),
    ],
    ids=str,
)
def test_where_formulas_hold(regime: Regime, condition: str) -> None:
    assert regime.condition() == condition


@pytest.mark.parametrize(
    ("regime", "grid"),
    [
        (Regime(), ([2, 3], [2, 21, 59], (5, 40))),
        (Regime(batch_one=True), ([1], [2, 21, 59], (1, 40))),
        (Regime(seq_one=True), ([2, 3], [1], (5, 1))),
        (Regime(batch_one=True, seq_one=True), ([1], [1], None)),
        (Regime(window=16, window_reached=True), ([2, 3], [16, 35, 73], (5, 54))),
        (Regime(window=1, window_reached=True), ([2, 3], [2, 21, 59], (5, 40))),
        (Regime(window=6, window_reached=False), ([2, 3], [2, 3, 5], (5, 4))),
    ],
    ids=str,
)
def test_points_that_tell_a_polynomial(regime: Regime, grid: Any) -> None:
    """Of degree one in the batch and two in the sequence, and one more point."""
    assert _grid(regime) == grid
    with pytest.raises(InputError, match="a sliding window of 5 leaves too few lengths below it"):
        _grid(Regime(window=5, window_reached=False))


@pytest.mark.parametrize(
    ("moments", "nbytes"),
    [
        ({"loss backward": 50, "optimizer step": 20}, 14 + 50),
        ({"forward": 40, "loss backward": 49, "optimizer step": 20}, 14 + 30 + 20),
        ({"optimizer step": 20}, 14 + 30 + 20),
        ({"loss backward": 50}, None),
    ],
    ids=str,
)
def test_the_first_step_of_a_run(moments: dict[str, int], nbytes: int | None) -> None:
    """States of 30 bytes are made by its update, which takes 20 beside them."""
    result: Any = SimpleNamespace(bytes={"parameters": 10, "buffers": 4, "optimizer": 30}, moments=moments)
    assert [one.bytes for one in _first_step(result, "host")] == ([] if nbytes is None else [nbytes])


@pytest.mark.parametrize(
    ("trainer", "peak_at", "words"),
    [
        ("trl-grpo", "decode", "generation holds the peak of the live bytes; fewer completions at once"),
        ("trl-grpo", "policy prefill", "generation holds the peak of the live bytes; fewer completions at once"),
        ("trl-rloo", "scoring", "scoring holds the peak of the live bytes; a smaller batch with more"),
        ("trl-distillation", "decode", "generation holds the peak of the live bytes; a smaller batch takes less"),
        ("trl-grpo", "loss backward", "the update holds the peak of the live bytes; a smaller batch with more"),
    ],
)
def test_what_a_phase_takes_less_with(trainer: str, peak_at: str, words: str) -> None:
    plan: Any = SimpleNamespace(trainer=trainer, task="train")
    (said,) = _phase_note(plan, peak_at)
    assert said.startswith(f"of generation, scoring and the update, {words}")
    assert _phase_note(SimpleNamespace(trainer=trainer, task="infer"), peak_at) == []  # type: ignore[arg-type]
    assert _phase_note(SimpleNamespace(trainer="trl-sft", task="train"), peak_at) == []  # type: ignore[arg-type]


def test_a_host_holds_what_all_its_processes_do() -> None:
    """By hand: four processes, of which each says what it holds."""
    sharding = {"name": "fsdp2", "world_size": 4, "cpu_offload": True}
    found = estimate("smollm2-135m", seq=64, sharding=sharding, device="rtx-4090")
    assert found.bytes["host_all"] == 4 * found.bytes["host_peak"] > 0
    assert any("of 4 processes; each pinned block is a power of two" in warning for warning in found.warnings)
