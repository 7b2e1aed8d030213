"""Lengths that a plan does not give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator import InputError
from estimator.answers.estimate import estimate
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.small_models import write_config
from tests.helpers.files import write


@pytest.mark.parametrize(
    ("model", "keys", "seq"),
    [
        ("gpt2", {}, 1024),
        ("gpt2", {"generate": {"max_new_tokens": 25}}, 1000),
        ("gpt2", {"generate": {"max_new_tokens": 5000}}, 1),
        ("gpt2", {"runtime": "llama.cpp"}, 2048),
        ("opt-125m", {}, 2048),
        ("smollm2-135m", {}, 2048),
        ({"model_type": "llama", "max_position_embeddings": 32}, {}, 2048),
        ({"model_type": "bert", "max_position_embeddings": 32}, {"head": "masked-lm"}, 32),
        ({"model_type": "roberta", "max_position_embeddings": 32}, {"head": "masked-lm"}, 30),
    ],
)
def test_no_more_tokens_than_learned_positions(model: Any, keys: dict[str, Any], seq: int, tmp_path: Path) -> None:
    """Learned positions end: of GPT-2's 1,024 all are taken, of RoBERTa's none up to the padding token's."""
    name = model if isinstance(model, str) else write_config(tmp_path, model)
    plan = parse_plan({"model": name, **keys})
    assert plan.seq == seq
    assert "seq" not in plan.model_fields_set  # `max-seq` looks for it


def test_the_batch_before_has_its_images(tmp_path: Path) -> None:
    """A row of 100 tokens has 40 of an image, and so has the shorter row of the batch before it."""
    config, keys = WITH_IMAGES["llava with pixtral"]
    plan = {"model": str(write(tmp_path / "config.json", config)), **keys, "runtime": "torch-cuda"}
    resolved = resolve(parse_plan(plan))
    assert resolved.plan.shorter_seq == 40
    assert resolve(parse_plan({**plan, "previous_seq": 50})).plan.shorter_seq == 50
    assert resolve(parse_plan({**plan, "runtime": "torch-cpu"})).plan.previous_seq is None
    assert estimate(plan).bytes["process"] > 0
    with pytest.raises(InputError, match="seq: 39 is less than the 40 tokens of a row's images"):
        estimate({**plan, "seq": 39})


def test_a_model_without_text_has_no_length_of_it() -> None:
    """On a GPU a shorter batch is replayed first, whose length nobody gave; one that somebody gave has no effect."""
    assert estimate({"model": "whisper-tiny", "device": "rtx-4090"}).fits
    with pytest.raises(InputError, match="seq: 300 does not go with head: speech-seq2seq"):
        estimate({"model": "whisper-tiny", "device": "rtx-4090", "seq": 300})
