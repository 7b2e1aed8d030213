"""Methods, savings, optimizers and precisions together: 200 random plans, and 30 of them measured.

What does not go together is refused with a line; what is left has to be answered, and rightly.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from estimator.errors import InputError
from estimator.estimate import Result, estimate, resolve
from estimator.measure import run_step
from estimator.methods import METHODS
from estimator.plan import Plan, parse_plan
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import FAMILIES, write_config
from tests.helpers.measured_steps import assert_near

COUNT, MEASURED = 200, 30
SEED = 3
CHOICES: dict[str, tuple[Any, ...]] = {
    "dtype": ("float32", "float32", "bfloat16", "float16", "nf4", "int8"),
    "attention": ("sdpa", "eager"),
    "checkpointing": ("none", "none", "layer", "every-2", "attention", "matmul"),
    "loss": ("standard", "standard", "chunked", "liger", "cce"),
    "mlp_chunks": (1, 1, 3),
    "saved_activations": ("as-is", "as-is", "int8", "int4"),
    "optimizer": ("adamw", "adamw", "sgd", "sgd-momentum", "adamw-8bit", "adamw-fused", "adafactor", "lion", "muon"),
    "keep_logits": (True, False),
    "gradient_accumulation_steps": (1, 1, 2),
    "attention_mask": (False, False, True),
    "autocast": (None, None, None, "float16"),
}


def random_plans(seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Config keys and plan keys, without end."""
    chance = random.Random(seed)
    while True:
        family = chance.choice(list(FAMILIES))
        config = {
            "model_type": family,
            "num_hidden_layers": chance.choice([2, 3, 5, 6]),
            "vocab_size": chance.choice([311, 640]),
            "tie_word_embeddings": chance.random() < 0.3,
        }
        plan = {key: chance.choice(values) for key, values in CHOICES.items()}
        plan["method"] = chance.choice(EXAMPLES[chance.choice(list(METHODS))])
        plan |= {"batch": chance.choice([1, 2, 3]), "seq": chance.choice([9, 24, 40])}
        yield config, plan


def valid_plans(folder: Path, count: int, seed: int) -> Iterator[tuple[dict[str, Any], Plan, Result]]:
    """Plans that are not refused. A refusal is one line that says something."""
    refusals: list[str] = []
    for number, (config, keys) in enumerate(random_plans(seed)):
        model = write_config(folder / str(number), config)
        try:
            plan = parse_plan({"model": model, **keys})
            result = estimate(plan)
        except InputError as error:
            refusals.append(str(error))
            continue
        yield config, plan, result
        count -= 1
        if not count:
            break
    assert all(20 < len(text) < 500 and "\n" not in text for text in refusals)


@pytest.mark.consistency
def test_compositions(tmp_path: Path) -> None:
    """Asks the contract: sums hold, nothing is negative, and more tokens never need less."""
    methods = set()
    for _, plan, result in valid_plans(tmp_path, COUNT, SEED):
        methods.add(plan.method.name)
        sizes = result.bytes
        assert all(isinstance(size, int) and size >= 0 for size in sizes.values())
        assert sizes["resident"] == sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
        assert sizes["peak"] == sizes["resident"] + sizes["peak_above_resident"]
        assert sizes["adapters"] <= sizes["parameters"]
        assert result.moments[result.peak_at] == sizes["peak_above_resident"] == max(result.moments.values())
        for key in ("batch", "seq"):
            more = estimate(plan.model_copy(update={key: getattr(plan, key) + 1})).bytes
            assert more["saved"] >= sizes["saved"], (plan, key)
            assert more["peak"] >= sizes["peak"], (plan, key)
            assert more["resident"] == sizes["resident"]
    assert len(methods) > len(METHODS) // 2


@pytest.mark.extra("quantised")
@pytest.mark.parametrize("number", range(MEASURED))
def test_measured(number: int, tmp_path: Path) -> None:
    """Witness: measurement. The peak within 0.5 %, and what is held exactly."""
    ((_, plan, result),) = valid_plans(tmp_path, 1, 1000 + number)
    assert_near(result, run_step(resolve(plan)))
