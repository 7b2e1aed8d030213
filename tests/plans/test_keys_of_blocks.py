"""Keys of a plan's blocks and of its method, written beside the plan's own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.engines.registry import KEYS
from estimator.errors import InputError
from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS, IN_BLOCK_ALONE, nested
from estimator.plans.plan import Plan

MODEL = "smollm-135m"


def test_keys_of_blocks_stand_beside_the_plans() -> None:
    """From Python as on the command line: a model's name first, a block's keys among the plan's."""
    nest = estimate({"model": MODEL, "method": {"name": "lora", "r": 16}, "seq": 64})
    assert estimate(MODEL, method="lora", r=16, seq=64) == nest
    assert estimate(MODEL, method={"name": "lora"}, r=16, seq=64) == nest
    assert estimate({"model": MODEL, "method": {"name": "lora", "r": 4}}, r=16, seq=64) == nest
    options = METHODS["lora"].model_validate({"name": "lora", "r": 4})
    assert estimate(MODEL, method=options, r=16, seq=64) == nest
    assert estimate(MODEL, seq=64, max_new_tokens=9) == estimate(model=MODEL, seq=64, generate={"max_new_tokens": 9})
    assert estimate(MODEL, n_ctx=512) == estimate(model=MODEL, llama_cpp={"n_ctx": 512})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"r": 16}, "unknown key 'method.r' of method full; name one that has it: lora"),
        ({"method": "ia3", "r": 16}, "unknown key 'method.r' of method ia3; name one that has it: lora"),
        ({"method": {"name": "lora", "r": 8}, "r": 16}, "'r' is given twice"),
        ({"generate": {"num_beams": 2}, "num_beams": 3}, "'num_beams' is given twice"),
        ({"bacth": 2}, "unknown key 'bacth' (did you mean batch"),
        ({"target_module": ["q_proj"], "method": "lora"}, "did you mean target_modules"),
    ],
)
def test_keys_that_belong_nowhere(keys: dict[str, Any], says: str) -> None:
    """They are refused with the nearest that there is."""
    with pytest.raises(InputError, match=re.escape(says)):
        estimate(MODEL, **keys)


def test_a_model_is_given_once() -> None:
    """By its place or by its name."""
    with pytest.raises(InputError, match="given twice"):
        estimate(MODEL, model=MODEL)


def test_no_key_has_two_places() -> None:
    """The plan, its blocks and the methods share no key, so that one beside the others is never ambiguous. Engines may,
    since a plan has one of them.

    ``num_layers`` is the method's where the method has it: PEFT fills it in, and mlx-lm trains other methods.
    """
    of_methods = {key for method in METHODS.values() for key in method.model_fields} - {"name", "num_layers"}
    keys = {name: set(block.model_fields) - {*IN_BLOCK_ALONE} for name, block in BLOCKS.items()}
    engines = {name for engine in KEYS.values() for name in engine.fields.model_fields} & keys.keys()
    of_engines = set().union(*(keys.pop(name) for name in engines))
    places = [set(Plan.model_fields), of_methods, of_engines, *keys.values()]
    assert len(set().union(*places)) == sum(map(len, places))


def test_a_key_of_several_engines_is_the_plan_s_own_s() -> None:
    """Both servers have it; without a word about either it is the first's."""
    plan = {"model": "llama-3.2-1b", "device": "h100-80gb", "task": "serve", "kv_cache_dtype": "fp8"}
    assert nested({}, plan)["vllm"] == {"kv_cache_dtype": "fp8"}
    assert nested({}, {**plan, "runtime": "sglang"})["sglang"] == {"kv_cache_dtype": "fp8"}
    assert nested({"sglang": {"tp_size": 2}}, plan)["sglang"] == {"tp_size": 2, "kv_cache_dtype": "fp8"}
