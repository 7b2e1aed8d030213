"""litgpt's GPT, recorded. ``tests/programs/test_litgpt.py`` compares its programs with measured steps."""

from __future__ import annotations

import random

import pytest

from estimator.plans.litgpt import before, config, model, models
from estimator.programs.step import Step

pytest.importorskip("litgpt")
pytest.importorskip("docs.making.litgpt")

from estimator.recorder.hugging_face import HuggingFaceModel

ROWS = {**models(), **{f"{name}-0.4.12": before(row, "lora") for name, row in models().items()}}


@pytest.mark.parametrize("name", ROWS)
def test_a_program_from_a_file_is_the_module_s(name: str) -> None:
    """Witness: a recording of today, of a model with fewer layers, at a batch and a length drawn from its name."""
    rng = random.Random(name)
    row = {**ROWS[name], "n_layer": rng.randint(2, 5)}
    step = Step("litgpt", rng.choice(["bfloat16", "float32", "float16"]))
    batch, seq = rng.choice([1, 3]), rng.randint(2, 90)
    assert model(name, row).config.source.at(step, batch, seq) == HuggingFaceModel(config(row), "config").at(
        step, batch, seq
    )
