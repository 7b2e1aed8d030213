"""Checkpoints of fp8 blocks that a GPU runs as they are, against transformers' own modules."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import local_torch_dtype
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.quantization_config import FineGrainedFP8Config

from estimator import estimate
from estimator.bases.finegrained_fp8 import Fp8Linear
from estimator.bases.formats import Base
from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import CPU
from estimator.programs import Builder, Method

SIZES = {
    "hidden_size": 320,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "torch_dtype": "bfloat16",
}
"""Sizes that are no multiples of a block."""
EXPERTS = {"moe_intermediate_size": 136, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 72,
    "kv_lora_rank": 48,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 40,
}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen2"},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "experts": {"model_type": "qwen3_moe", "head_dim": 80, **EXPERTS},
    "latent": {"model_type": "deepseek_v3", **EXPERTS, **LATENT},
}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
SETTINGS: dict[str, dict[str, Any]] = {
    "float": {},
    "ue8m0": {"scale_fmt": "ue8m0"},
    "fp4-experts": {"scale_fmt": "ue8m0", "expert_dtype": "fp4"},
    "kept": {"modules_to_not_convert": ["lm_head", "q_proj", "model.layers.1"]},
    "with-head": {"ignored_layers": ["o_proj"]},
}


def resident(config: dict[str, Any], quantization: dict[str, Any]) -> tuple[int, int]:
    """The bytes of weights and of scales and buffers that transformers makes of a checkpoint."""
    keys = {key: value for key, value in config.items() if key not in ("model_type", "torch_dtype")}
    given = {key: value for key, value in quantization.items() if key not in ("quant_method", "fmt")}
    quantizer = AutoHfQuantizer.from_config(FineGrainedFP8Config(**given), pre_quantized=True)
    with torch.device("meta"), local_torch_dtype(torch.bfloat16):  # as in `from_pretrained`
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **keys))
        quantizer._process_model_before_weight_loading(model)
    model.tie_weights()
    tensors = dict(model.named_parameters())
    sizes = {name: one.numel() * one.element_size() for name, one in tensors.items()}
    scales = sum(n for name, n in sizes.items() if name.endswith("scale_inv"))
    buffers = sum(one.numel() * one.element_size() for one in model.buffers())
    return sum(sizes.values()) - scales, scales + buffers


@pytest.mark.parametrize(
    ("model", "setting"),  # a tied head that is no exception would keep scales without a weight
    [one for one in product(MODELS, SETTINGS) if one != ("tied", "with-head")],
)
def test_weights_and_scales_are_those_of_transformers(model: str, setting: str, tmp_path: Path) -> None:
    """Witness: transformers' modules on the meta device, bytes."""
    config, quantization = {**SIZES, **MODELS[model]}, {**FP8, **SETTINGS[setting]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    found = estimate(model=str(tmp_path / "config.json"), task="infer", runtime="torch-cuda", device="l4", seq=16)
    weights, others = resident(config, quantization)
    assert found.bytes["parameters"] == weights
    assert found.bytes["buffers"] == others
    assert found.unknown == ()


def test_a_product_makes_its_output_alone() -> None:
    """Witness: ``finegrained_fp8_linear``, which calls one kernel and adds the bias in place."""
    ledger = Ledger(CPU)
    build = Builder(ledger, Method(), "bfloat16", base=Base("fp8-blocks", "bfloat16"))
    layer = Fp8Linear(build, Base("fp8-blocks", "bfloat16"), "layer", 200, 136, True)
    x = ledger.empty((3, 5, 200), "bfloat16")
    before = ledger.live
    out = layer(x)
    assert (out.shape, out.dtype) == ((3, 5, 136), "bfloat16")
    assert ledger.live - before == 3 * 5 * 136 * 2
    assert max(ledger.peaks.values(), default=0) <= ledger.live


@pytest.mark.parametrize(("device", "named"), [("l4", False), ("h100-80gb", True), ("b200", True), ("rtx-5090", False)])
def test_where_transformers_may_take_another_kernel_nothing_is_sure(device: str, named: bool, tmp_path: Path) -> None:
    """DeepGEMM has kernels for compute capability 9 and 10 (``deepgemm.py: is_deepgemm_loadable``)."""
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model_type": "qwen2", "quantization_config": FP8}))
    plan = {"model": str(tmp_path / "config.json"), "task": "infer", "runtime": "torch-cuda", "device": device}
    found = estimate(plan, seq=16)
    assert [("DeepGEMM" in one) for one in found.unknown] == [True] * named
    assert found.verdict == ("not sure" if named else "fits")
    too_long = estimate(plan, seq=64, batch=10**6)
    assert too_long.verdict == "does not fit"
    assert too_long.unknown == ()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight_block_size": [1, 32]}, r"fp8 with weight_block_size: \[1, 32\] has no rule"),
        ({"weight_block_size": None}, "fp8 with weight_block_size: None has no rule"),
        ({"activation_scheme": "static"}, "fp8 with activation_scheme: 'static' has no rule"),
        ({"expert_dtype": "fp4"}, "fp8 with scale_fmt: 'float' has no rule; known is 'ue8m0'"),
        ({"modules_to_convert": ["embed_tokens"]}, r"fp8 with modules_to_convert: \['embed_tokens'\] has no rule"),
        ({"modules_to_not_convert": ["(a+)+$"]}, "modules_to_not_convert is .* it must be a list of modules' names"),
        ({"ignored_layers": "lm_head"}, "ignored_layers is 'lm_head'; it must be a list of modules' names"),
    ],
)
def test_a_setting_without_a_rule(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    quantization = {**FP8, **keys}
    (tmp_path / "config.json").write_text(
        json.dumps({**SIZES, "model_type": "qwen2", "quantization_config": quantization})
    )
    with pytest.raises(InputError, match=message):
        estimate(model=str(tmp_path / "config.json"), task="infer", runtime="torch-cuda", device="l4", seq=16)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"task": "train", "method": "lora"}, "has no rule with task: train"),
        ({"transformers": "4.57"}, "has no rule with transformers: 4.57"),
        ({"runtime": "torch-cpu", "device": None}, "has no rule with task: infer on runtime: torch-cpu"),
        ({"model": "qwen3-30b-a3b", "seq": 16, "generate": {"max_new_tokens": 4}}, "of a model with experts"),
    ],
)
def test_a_plan_without_a_rule(keys: dict[str, Any], message: str) -> None:
    plan = {"model": "qwen3-0.6b", "task": "infer", "runtime": "torch-cuda", "device": "l4", "dtype": "fp8-blocks"}
    with pytest.raises(InputError, match=message):
        estimate({**plan, **keys})
