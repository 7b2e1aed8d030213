"""Configs of quantised checkpoints, as libraries write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from tests.cases.small_models import write_config

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
BNB = {
    "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0, "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes",
}  # fmt: skip
"""As ``save_pretrained`` writes it."""
GPTQ = {"bits": 4, "group_size": 128, "damp_percent": 0.1, "desc_act": True, "sym": True, "quant_method": "gptq"}
AWQ = {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemm", "quant_method": "awq"}
INT8 = {"quant_method": "torchao", "quant_type": "int8_weight_only", "modules_to_not_convert": ["lm_head"]}
FLOAT8 = {
    "quant_method": "torchao",
    "quant_type": {
        "default": {"_type": "Float8WeightOnlyConfig", "_version": 2, "_data": {"set_inductor_config": True}}
    },
}
READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nf4": (BNB, {"dtype": "nf4", "compute_dtype": "bfloat16", "double_quant": True}),
    "fp4": ({"load_in_4bit": True}, {"dtype": "fp4", "compute_dtype": "float32", "double_quant": False}),
    "int8": ({**BNB, "load_in_4bit": False, "load_in_8bit": True}, {"dtype": "int8"}),
    "gptq": (GPTQ, {"dtype": "gptq"}),
    "gptq-columns": ({**GPTQ, "group_size": -1}, {"dtype": "gptq", "weight_group_size": -1}),
    "gptq-32": ({**GPTQ, "group_size": 32}, {"dtype": "gptq", "weight_group_size": 32}),
    "awq": (AWQ, {"dtype": "awq"}),
    "torchao-int8": (INT8, {"dtype": "int8-weight-only"}),
    "torchao-float8": (FLOAT8, {"dtype": "float8"}),
}


def model_of(folder: Path, quantization: Any, **keys: Any) -> str:
    """The folder of a small model's config."""
    return write_config(folder, {**SIZES, "torch_dtype": "float16", "quantization_config": quantization, **keys})


@pytest.mark.parametrize("family", ["llama", "granite"])
@pytest.mark.parametrize(("quantization", "keys"), READ.values(), ids=READ)
def test_a_format_with_rules(family: str, quantization: dict[str, Any], keys: dict[str, Any], tmp_path: Path) -> None:
    """Asks the same model without the key, with the keys of a plan in its place."""
    plan = {"batch": 2, "seq": 64, "method": {"name": "lora", "target_modules": ["q_proj"]}}
    model = model_of(tmp_path / "quantised", quantization, model_type=family)
    plain = model_of(tmp_path / "plain", None, model_type=family)
    found = parse_plan({**plan, "model": model})
    assert {key: getattr(found, key) for key in keys} == keys
    assert found.rest_dtype == "float16"
    asked = {**plan, "model": plain, "rest_dtype": "float16", **keys}
    assert estimate(found).bytes == estimate(asked).bytes


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ("gptq", "quantization_config is 'gptq'; it must be an object"),
        ({"bits": 4}, "quantization_config has no quant_method"),
        ({**GPTQ, "bits": 3}, "gptq with bits: 3 has no rule; known is 4"),
        ({**GPTQ, "group_size": 0}, "weight_group_size"),
        ({**AWQ, "version": "gemv"}, "awq with version: 'gemv' has no rule"),
        ({**BNB, "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"]}, "leaves 'model.layers.1.mlp' as it is"),
        ({**INT8, "quant_type": "int4_weight_only"}, "torchao's 'int4_weight_only' has no rule"),
        ({"quant_method": "mxfp4"}, "format mxfp4 has no rule; for Mxfp4Config(dequantize=True) set dtype: bfloat16"),
        ({"quant_method": "hqq"}, "format hqq has no rule"),
    ],
)
def test_a_format_without_a_rule(quantization: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        parse_plan({"model": model_of(tmp_path, quantization), "method": "lora"})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_plan_s_own_keys(tmp_path: Path) -> None:
    """Dtypes of what is not quantised may be others; that of the weights is what it is."""
    model = model_of(tmp_path / "gptq", GPTQ)
    assert parse_plan({"model": model, "method": "lora", "rest_dtype": "bfloat16"}).rest_dtype == "bfloat16"
    with pytest.raises(InputError, match=r"dtype: 'nf4' does not go with .* says 'gptq'; leave dtype out"):
        parse_plan({"model": model, "method": "lora", "dtype": "nf4"})
    dequantised = parse_plan({"model": model_of(tmp_path / "fp8", {"quant_method": "fp8"}), "dtype": "bf16"})
    assert dequantised.dtype == "bfloat16"


def test_a_config_of_several_parts(tmp_path: Path) -> None:
    """The key is beside ``text_config``."""
    text = json.loads((Path(model_of(tmp_path / "text", None)) / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text, "quantization_config": AWQ}))
    assert parse_plan({"model": str(tmp_path / "config.json"), "method": "lora"}).dtype == "awq"


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ("fp8", {}, "FineGrainedFP8Config(dequantize=True), which training is taken to ask for"),
        ("fp8", {"runtime": "torch-cuda", "device": "h100-80gb"}, "FineGrainedFP8Config(dequantize=True)"),
        ("fp8", {"task": "infer"}, "dequantised: transformers does so on a CPU"),
        ("fp8", {"task": "infer", "runtime": "torch-cuda", "device": "a100-40gb"}, "below compute capability 8.9"),
        ("compressed-tensors", {}, "CompressedTensorsConfig(dequantize=True), which training is taken to ask for"),
        ("compressed-tensors", {"task": "infer"}, "transformers does so in the first forward pass"),
    ],
)
def test_a_dequantised_checkpoint(method: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Asks the same model without quantised weights. When transformers dequantises is read off its quantizers
    (``quantizer_finegrained_fp8.py``, ``quantizer_compressed_tensors.py``).
    """
    plan = {"batch": 2, "seq": 64, **keys}
    found = estimate({**plan, "model": model_of(tmp_path / "quantised", {"quant_method": method})})
    plain = estimate({**plan, "model": model_of(tmp_path / "plain", None), "dtype": "float16"})
    assert found.bytes == plain.bytes
    assert [said in one.why for one in found.assumptions if one.key == "dtype"] == [True]


def test_fp8_weights_that_a_gpu_keeps(tmp_path: Path) -> None:
    """Kernels are those of an A100 where no device is named, and it keeps none."""
    model = model_of(tmp_path, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    plan = {"model": model, "task": "infer", "runtime": "torch-cuda"}
    found = estimate({**plan, "device": "rtx-4090"})
    assert parse_plan({**plan, "device": "rtx-4090"}).dtype == "fp8-blocks"
    assert ["are kept as they are" in one.why for one in found.assumptions if one.key == "dtype"] == [True]
    assert parse_plan(plan).dtype == "float16"
    assert parse_plan({**plan, "device": "h100-80gb", "dtype": "bf16"}).dtype == "bfloat16"
