"""Configs of larger models whose causal class is of their ``text_config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from estimator.plans.models import load
from estimator.programs.live import Live
from estimator.programs.recorded import RecordedConfig
from tests.cases.causal_classes import CLASSES


@pytest.mark.parametrize("model_type", ["dots3_note", "emu3", "llama4", "mllama"])
def test_the_class_is_the_one_that_transformers_picks(model_type: str, tmp_path: Path) -> None:
    """Its parts may have to fit one another, and its text may be of no causal class of its own."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CLASSES[model_type], "model_type": model_type}))
    config = load(str(path)).config
    assert isinstance(config, RecordedConfig)
    assert isinstance(config.source, Live)
    assert [type(config.source.build("float32")).__name__] == CLASSES[model_type]["architectures"]
