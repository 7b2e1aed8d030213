"""Methods that factor a weight: how, by PEFT's own function; ``cases/factors_and_rotations.py`` has measured steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator import estimate
from estimator.methods.lokr import factorization
from estimator.methods.oft import divisor
from estimator.methods.registry import METHODS
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from tests.cases.method_examples import EXAMPLES
from tests.cases.small_models import TINY, write_config


@pytest.mark.extra("trace")
@pytest.mark.parametrize("factor", [-1, 1, 4, 7, 16, 1000])
def test_factors_of_a_dimension(factor: int) -> None:
    """Witness: PEFT."""
    from peft.tuners.lokr import layer

    for dimension in (1, 2, 7, 16, 36, 97, 100, 576, 4096, 11008):
        assert factorization(dimension, factor) == layer.factorization(dimension, factor)


@pytest.mark.extra("trace")
@pytest.mark.parametrize("wanted", [1, 3, 4, 5, 12, 90, 96, 97])
def test_a_divisor_near_what_is_asked(wanted: int) -> None:
    """Witness: PEFT."""
    from peft.tuners.oft.layer import OFTLayer

    for features in (7, 48, 90, 96, 97, 576):
        assert divisor(features, wanted) == OFTLayer.adjust_oft_parameters(None, features, wanted)


def test_methods_whose_rank_formulas_may_keep() -> None:
    """Those of which ``max-rank`` asks the largest, and no other with a rank: a block's size follows from it there."""
    opened = {name for name, options in METHODS.items() if options.model_construct(name=name).open_values()}
    assert opened == {"adalora", "delora", "hira", "lars", "loha", "lora", "lora-fa", "shira"}


@pytest.mark.parametrize("name", ["loha", "lokr"])
def test_rows_are_dropped_where_it_is_asked(name: str, tmp_path: Path) -> None:
    """A mask of rows, and what it is multiplied with, are saved then alone."""
    keys: dict[str, Any] = {"model": write_config(tmp_path, TINY), "batch": 2, "seq": 9, "dtype": "float32"}
    plain, dropped = (
        estimate(keys, method={"name": name, "r": 4, "rank_dropout": share}).bytes["saved"] for share in (0.0, 0.3)
    )
    assert plain < dropped


HIDDEN, INNER, LAYERS, KEYS = 576, 1536, 30, 192
"""SmolLM2 135M: sizes, layers, and the outputs of the projection of keys, as that of values."""


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ({"name": "trainable_tokens", "token_indices": [1, 5, 7]}, 3 * HIDDEN),
        ({"name": "ia3"}, LAYERS * (2 * KEYS + INNER)),
        ({"name": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}, LAYERS * 4 * (3 * HIDDEN + KEYS)),
        ({"name": "shira", "r": 4, "target_modules": ["q_proj", "v_proj"]}, LAYERS * 4 * (3 * HIDDEN + KEYS)),
        ({"name": "ln_tuning"}, (2 * LAYERS + 1) * HIDDEN),
        ({"name": "prompt_tuning", "num_virtual_tokens": 9}, 9 * HIDDEN),
        ({"name": "prefix_tuning", "num_virtual_tokens": 9}, 9 * LAYERS * 2 * KEYS),
    ],
    ids=lambda one: one["name"] if isinstance(one, dict) else "",
)
def test_what_trains(method: dict[str, Any], trained: int) -> None:
    """By hand: the rows, vectors and factors of the methods' papers, and nothing else of the model."""
    assert estimate("smollm2-135m", method=method, seq=16).trainable_parameters == trained


@pytest.mark.extra("trace")
@pytest.mark.share(6)
@pytest.mark.parametrize(
    "block", [block for name in EXAMPLES if METHODS[name].peft for block in EXAMPLES[name]], ids=str
)
def test_adapters_are_those_that_peft_makes(block: dict[str, Any], tmp_path: Path) -> None:
    """Witness: PEFT, around the model on the meta device: parameters that train, and those that the adapter adds."""
    from estimator.witnesses.reference.model import build_model

    sizes = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4}
    model = write_config(tmp_path, {**TINY, **sizes})
    plan = parse_plan({"model": model, "method": block, "batch": 1, "seq": 8, "dtype": "float32"})
    found = estimate(plan)
    real = build_model(resolve(plan))
    parameters = {id(p): p for p in real.parameters()}.values()
    assert found.trainable_parameters == sum(p.numel() for p in parameters if p.requires_grad)
    assert found.bytes["parameters"] == sum(p.numel() * p.element_size() for p in parameters)
