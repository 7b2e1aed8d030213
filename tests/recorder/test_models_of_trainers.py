"""Which models a trainer has. Witness: by hand, on objects with a trainer's attributes."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import transformers

from estimator.programs.trainer_calls import REWARD
from estimator.recorder.trainer_step import models_of


def test_models_by_what_they_are() -> None:
    """The one that trains once, under whatever name; a reference, others by their attributes, and scores in turn."""
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with torch.device("meta"):
        model, reference, teacher, first, second = (transformers.LlamaForCausalLM(config) for _ in range(5))
    trainer = SimpleNamespace(
        model=model, model_wrapped=model, ref_model=reference, teacher_model=teacher, args=None, beta=0.1,
        reward_funcs=[first, len, second],
    )  # fmt: skip
    found = models_of(trainer)
    expected = {"model": model, "reference": reference, "teacher_model": teacher, REWARD: first, f"{REWARD}1": second}
    assert list(map(id, found.values())) == list(map(id, expected.values()))
    assert found.keys() == expected.keys()
    assert models_of(SimpleNamespace(model=model)).keys() == {"model"}
