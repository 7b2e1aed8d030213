"""Values of a config.json: what is no number, no switch or no list is one line that names the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from estimator.engines.llama_cpp import convert
from estimator.engines.llama_cpp.config_keys import ConfigKeys
from estimator.errors import InputError
from estimator.plans.models import load
from tests.cases.hostile_input import MODELS

READ: dict[str, Callable[[ConfigKeys], Any]] = {
    "number": lambda keys: keys.number("key", least=2),
    "flag": lambda keys: keys.flag("key", True),
    "factor": lambda keys: keys.factor("key", 0.5),
    "kinds": lambda keys: keys.kinds("key", 2),
}
TAKEN: list[tuple[str, Any, Any]] = [
    ("number", 2, 2), ("number", 10**8, 10**8), ("flag", False, False), ("flag", None, True), ("factor", 3, 3.0),
    ("factor", 0.25, 0.25), ("factor", None, 0.5), ("kinds", ["a", "b"], ["a", "b"]), ("kinds", None, None),
]  # fmt: skip
REFUSED: list[tuple[str, Any, str]] = [
    ("number", None, "key is missing"),
    ("number", True, "must be a whole number"),
    ("number", 2.0, "must be a whole number"),
    ("number", 1, "must be between 2 and 100000000"),
    ("number", 10**8 + 1, "must be between 2 and 100000000"),
    ("flag", 1, "must be true or false"),
    ("factor", True, "must be a number"),
    ("factor", "1", "must be a number"),
    ("kinds", ["a"], "must list one type for each of the 2 layers"),
    ("kinds", ["a", 1], "must list one type for each of the 2 layers"),
    ("kinds", "ab", "must list one type for each of the 2 layers"),
]


@pytest.mark.parametrize(("kind", "value", "read"), TAKEN)
def test_what_is_taken(kind: str, value: Any, read: Any) -> None:
    assert READ[kind](ConfigKeys({"key": value}, "config.json")) == read


@pytest.mark.parametrize(("kind", "value", "words"), REFUSED)
def test_what_is_refused(kind: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"^config.json: key .*{words}|^config.json: {words}"):
        READ[kind](ConfigKeys({"key": value}, "config.json"))


def test_a_default_takes_the_place_of_a_number_alone() -> None:
    assert ConfigKeys({}, "config.json").number("key", 7) == 7
    assert ConfigKeys({"key": 3}, "config.json").number("key", 7) == 3


ALWAYS_THERE = {
    *("max_position_embeddings", "num_key_value_heads", "head_dim", "q_lora_rank", "n_shared_experts", "n_group"),
    *("topk_group", "first_k_dense_replace", "routed_scaling_factor", "block_auto_adjust_ff_dim", "num_local_experts"),
    *("num_experts_per_tok", "embedding_multiplier", "logits_scaling", "residual_multiplier"),
}
"""Keys that ``save_pretrained`` writes whatever their values are, and whose defaults are not the class's here."""


def made(raw: dict[str, Any]) -> Any:
    """The keys and the tensors of a model's file, or why there is none."""
    try:
        header = convert.header(raw, "config.json", "q8_0")
    except InputError as error:
        return str(error)
    return dict(header.metadata), {name: (one.shape, one.kind) for name, one in header.tensors.items()}


@pytest.mark.extra("trace")
@pytest.mark.parametrize("model", MODELS)
def test_a_key_that_a_file_leaves_out_has_the_default_of_the_class(model: str) -> None:
    """Witness: transformers' config classes, whose keys ``convert_hf_to_gguf.py`` reads."""
    from transformers import CONFIG_MAPPING

    raw = load(model).raw
    defaults = CONFIG_MAPPING[raw["model_type"]]().to_dict()
    for key in raw.keys() & defaults.keys() - ALWAYS_THERE:
        if type(defaults[key]) in (bool, int, float):
            left_out = made({name: value for name, value in raw.items() if name != key})
            if "is missing" not in left_out:
                assert left_out == made({**raw, key: defaults[key]}), key


def test_kinds_of_layers_that_are_said_otherwise() -> None:
    """By hand: every fifth layer of Gemma 3n is a full one, and LFM2's configs of before list those with attention."""
    raw = load("gemma-3n-e2b").raw
    assert made({key: value for key, value in raw.items() if key != "layer_types"}) == made(raw)
    raw = load("lfm2-350m").raw
    rest = {key: value for key, value in raw.items() if key not in ("layer_types", "full_attn_idxs")}
    full = [i for i, kind in enumerate(raw["layer_types"]) if kind == "full_attention"]
    assert made({**rest, "full_attn_idxs": full}) == made(raw)
    assert made(rest) == "config.json: layer_types is missing; add it to the config"
    assert made({}).startswith("config.json: no model_type; runtime llama.cpp knows llama, ")
