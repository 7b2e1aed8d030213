"""The seed paper (LARS, arXiv 2604.22783) against LoRA, LoRA-FA and IA3: the page and the figures it rests on."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from tests.helpers.files import DOCS


@pytest.fixture(scope="module")
def lars() -> Any:
    spec = importlib.util.spec_from_file_location("make_lars", DOCS / "make_lars.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.share(7)
def test_page_is_current(lars: Any) -> None:
    """Asks the rules and the recorded runs: the page says what they say now."""
    assert (DOCS / "lars.md").read_text() == lars.page()


def test_bytes_per_token_and_layer(lars: Any) -> None:
    """Witness: a trace of CPU steps and its GPU counterpart, published with this project's facts: the frozen
    base's 4 (2H + 2q + 2k + 3I + heads + 2) bytes, and what LoRA adds on either device."""
    base = 4 * (2 * 2048 + 2 * 2048 + 2 * 512 + 3 * 8192 + 32 + 2)
    assert lars.per_token_and_layer(lars.METHODS["LARS"], "cpu") == base == 135_304
    repeated = 2 * 4 * (2048 - 512)  # keys and values for every query head, which the GPU's kernel wants
    assert lars.per_token_and_layer(lars.METHODS["LARS"], "cuda") == base + repeated
    with_dropout = {device: lars.per_token_and_layer(lars.METHODS[lars.BASELINE], device) for device in lars.DEVICES}
    assert with_dropout == {"cpu": base + 164_064, "cuda": base + repeated + 102_624}
    assert lars.per_token_and_layer(lars.METHODS["LoRA, no dropout"], "cpu") == base + 49_376


def test_the_claims_are_within_what_activations_allow(lars: Any) -> None:
    """Asks the paper's averages: neither is more than the limit of long inputs, and both are in its range."""
    for device, claim in (("cpu", -0.5195), ("cuda", -0.3354)):
        lora = lars.per_token_and_layer(lars.METHODS[lars.BASELINE], device)
        limit = lars.per_token_and_layer(lars.METHODS["LARS"], device) / lora - 1
        short = lars.answer(lars.METHODS["LARS"], device, batch=1, seq=1024).bytes["peak"]
        plain = lars.answer(lars.METHODS[lars.BASELINE], device, batch=1, seq=1024).bytes["peak"]
        assert limit < claim < short / plain - 1


def test_lora_fa_needs_no_more_than_lars(lars: Any) -> None:
    """Asks the rules: what the page says of the baseline that the paper leaves out."""
    for device in lars.DEVICES:
        for batch, seq in lars.SHAPES:
            peaks = [
                lars.answer(lars.METHODS[name], device, batch=batch, seq=seq).bytes["peak"]
                for name in ("LoRA-FA, no dropout", "LARS")
            ]
            assert peaks[0] <= peaks[1] * 1.001


def test_recorded_runs() -> None:
    """Witness: measurement. Every recorded run is predicted to the byte."""
    runs = json.loads((DOCS / "measured" / "lars.json").read_text())
    assert len(runs) >= 12
    for run in runs:
        for key in ("saved", "peak"):
            assert run["predicted"][key] == run["measured"][key]
