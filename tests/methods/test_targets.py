"""Which modules are meant by names. The witness is PEFT's own matching."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from estimator.methods.base import Targets

PATHS = [
    f"model.{layers}.{index}.{module}"
    for layers, index, module in product(
        ("layers", "blocks.layers", "decoder.h"), (0, 1, 12), ("self_attn.q_proj", "mlp.up_proj", "mlp.experts.3.w1")
    )
] + ["lm_head", "model.embed_tokens", "q_proj", "model.q_proj.layers", "model.layers.q_proj"]
TARGETS: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "layers.1.mlp.up_proj", "lm_head"]},
    {"target_modules": r".*\.(0|12)\..*proj"},
    {"target_modules": ["model.layers.1.self_attn.q_proj", "w1"]},
]
EXCLUDED: list[dict[str, Any]] = [
    {},
    {"exclude_modules": ["self_attn.q_proj"]},
    {"exclude_modules": r".*\.1\..*"},
    {"exclude_modules": ["layers.0.self_attn.q_proj", "h.12.mlp.up_proj"]},
]
LAYERS: list[dict[str, Any]] = [
    {},
    {"layers_to_transform": [1]},
    {"layers_to_transform": [0, 12], "layers_pattern": ["layers"]},
    {"layers_to_transform": [12, 3], "layers_pattern": ["h", "experts"]},
    {"layers_to_transform": [0, 1], "layers_pattern": ["no such"]},
]


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_modules_that_are_meant(targets: dict[str, Any]) -> None:
    for excluded, layers in product(EXCLUDED, LAYERS):
        if layers and isinstance(targets["target_modules"], str):
            continue  # which PEFT refuses
        given = {**targets, **excluded, **layers}
        config = LoraConfig(**given)
        ours = Targets(**given)
        assert {path: path in ours for path in PATHS} == {
            path: bool(check_target_module_exists(config, path)) for path in PATHS
        }, given


def test_whether_single_layers_are_meant() -> None:
    """Where they are, equal layers may differ."""
    assert not Targets(["q_proj"]).by_layer
    assert Targets(["layers.1.q_proj"]).by_layer
    assert Targets(["layers.1.q_proj", "v_proj"]).by_layer
    assert Targets(".*q_proj").by_layer
    assert Targets(["q_proj"], exclude_modules=["layers.1.q_proj"]).by_layer
    assert not Targets(["q_proj"], exclude_modules=["k_proj"]).by_layer
    assert Targets(["q_proj"], layers_to_transform=[0]).by_layer


def test_all_linear_modules() -> None:
    linear = ("model.layers.0.q_proj", "model.layers.1.q_proj")
    ours = Targets("all-linear", exclude_modules=["0.q_proj"], layers_to_transform=[0, 1], all_linear=linear)
    assert [path in ours for path in (*linear, "lm_head")] == [False, True, False]
    assert "model.layers.1.q_proj" not in Targets("all-linear", layers_to_transform=[0], all_linear=linear)
