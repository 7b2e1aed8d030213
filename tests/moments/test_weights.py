"""The weights of a base model, which a process loads, saves and merges."""

from __future__ import annotations

from typing import Any

import pytest

from estimator import estimate
from estimator.moments.weights import weights_of
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve


@pytest.mark.consistency
@pytest.mark.parametrize("base", [{"dtype": "nf4"}, {"dtype": "nf4", "double_quant": True}, {"dtype": "int8"}])
def test_quantised_weights_have_constants(base: dict[str, Any]) -> None:
    """What is loaded is what a step finds, but for adapters."""
    plan = {"model": "smollm2-135m", "method": "lora", "seq": 9, **base}
    weights, found = weights_of(resolve(parse_plan(plan))), estimate(plan).bytes
    assert weights.constants == found["buffers"] > 0
    assert weights.nbytes == found["parameters"] - found["adapters"] + found["buffers"]


@pytest.mark.consistency
@pytest.mark.parametrize("base", [{"dtype": "nf4", "kbit_preparation": True}, {"dtype": "bfloat16"}], ids=str)
def test_what_is_trained_is_the_steps_own(base: dict[str, Any]) -> None:
    """Preparation for k bits makes float32 of what is loaded in 16 bits."""
    plan = {"model": "smollm2-135m", "method": "lora", "seq": 9, **base}
    trained = weights_of(resolve(parse_plan(plan))).trained
    assert sum(p.storage.nbytes for p in trained.parameters) == estimate(plan).bytes["parameters"]


def test_weights_that_are_not_quantised_have_none() -> None:
    """Witness: Hugging Face's model.safetensors of SmolLM2-135M, 134,515,008 parameters."""
    weights = weights_of(resolve(parse_plan({"model": "smollm2-135m", "seq": 9, "dtype": "bfloat16"})))
    assert (weights.constants, weights.nbytes) == (0, 2 * 134_515_008)
    assert not weights.experts
