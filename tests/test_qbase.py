"""Quantised bases. Witnesses: real steps on a CPU, the libraries' own operators, and sizes published from a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb_functional
from bitsandbytes import matmul, matmul_4bit
from bitsandbytes.autograd._functions import MatmulLtState

from estimator import estimate
from estimator import operators as ops
from estimator.answers.formulas import compile_plan
from estimator.bases import bitsandbytes as rules
from estimator.bases.formats import Base
from estimator.errors import InputError
from estimator.plans.plan import parse_plan

from .cases import write_config
from .measured import assert_step
from .test_ops import BF16, F16, F32, Given, agree

LORA = {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"]}
ALL = {"name": "lora", "r": 3, "target_modules": "all-linear", "lora_dropout": 0.1}
BLOCKS = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256}
"""Sizes that GPTQ and AWQ take."""
HEAVY = {**BLOCKS, "vocab_size": 64, "intermediate_size": 1024}
"""The peak is where a weight is dequantised."""

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nf4", {}, {"dtype": "nf4", "method": LORA}),
    ("nf4-qlora", {}, {"dtype": "nf4", "compute_dtype": BF16, "double_quant": True, "kbit_preparation": True}),
    (
        "nf4-checkpointing-bias",
        {"model_type": "qwen2"},
        {"dtype": "nf4", "kbit_preparation": True, "checkpointing": "layer", "attention": "eager", "method": ALL},
    ),
    ("nf4-autocast", {}, {"dtype": "nf4", "autocast": BF16, "kbit_preparation": True, "method": ALL}),
    ("nf4-heavy", HEAVY, {"dtype": "nf4", "rest_dtype": F16, "double_quant": True, "batch": 1, "seq": 9}),
    (
        "nf4-save-embedding",
        {},
        {"dtype": "nf4", "method": {**LORA, "modules_to_save": ["embed_tokens"]}},
    ),
    (
        "int8-save-embedding-head",
        {},
        {"dtype": "int8", "kbit_preparation": True, "method": {**LORA, "modules_to_save": ["embed_tokens", "lm_head"]}},
    ),
    ("nf4-ia3", {}, {"dtype": "nf4", "kbit_preparation": True, "method": "ia3"}),
    ("fp4", {"model_type": "qwen3"}, {"dtype": "fp4", "compute_dtype": F16, "method": LORA}),
    ("int8", {"model_type": "mistral"}, {"dtype": "int8", "method": ALL}),
    (
        "int8-checkpointing-bias",
        {"model_type": "qwen2", "num_hidden_layers": 6},
        {"dtype": "int8", "kbit_preparation": True, "checkpointing": "layer", "gradient_accumulation_steps": 2},
    ),
    ("int8-heavy", HEAVY, {"dtype": "int8", "rest_dtype": F16, "batch": 1, "seq": 9, "method": LORA}),
    ("int8-ia3-autocast", {}, {"dtype": "int8", "autocast": BF16, "method": "ia3"}),
    ("torchao-int8", {"num_hidden_layers": 6}, {"dtype": "int8-weight-only", "method": LORA}),
    ("torchao-int8-bias", {"model_type": "qwen2"}, {"dtype": "int8-weight-only", "rest_dtype": F16, "method": ALL}),
    (
        "torchao-int8-checkpointing",
        HEAVY,
        {"dtype": "int8-weight-only", "rest_dtype": F32, "checkpointing": "layer", "attention": "eager", "batch": 1},
    ),
    ("torchao-float8", {"model_type": "qwen2"}, {"dtype": "float8", "method": ALL}),
    ("torchao-float8-heavy", HEAVY, {"dtype": "float8", "autocast": BF16, "batch": 1, "seq": 9, "method": "ia3"}),
    ("gptq", {**HEAVY, "model_type": "qwen2"}, {"dtype": "gptq", "batch": 1, "seq": 16, "method": LORA}),
    ("gptq-checkpointing", BLOCKS, {"dtype": "gptq", "rest_dtype": F32, "checkpointing": "layer", "method": ALL}),
    ("awq", {**HEAVY, "model_type": "qwen2"}, {"dtype": "awq", "batch": 1, "seq": 16, "method": LORA}),
    ("awq-checkpointing", BLOCKS, {"dtype": "awq", "kbit_preparation": True, "checkpointing": "layer", "method": ALL}),
]


@pytest.mark.parametrize(("config", "plan"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> None:
    """Witness: measurement."""
    assert_step(config, {"batch": 2, "seq": 33, "method": "lora", **plan}, tmp_path)


# ---- operators -----------------------------------------------------------------------------

SHAPE = 24, 96  # of a weight, [n_out, n_in]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("weight_dtype", [F32, BF16])
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("grad", [False, True])
def test_matmul_4bit(grad: bool, dtype: str, weight_dtype: str, nested: bool) -> None:
    dense = torch.randn(SHAPE).to(getattr(torch, weight_dtype))
    packed, state = bnb_functional.quantize_4bit(dense, compress_statistics=nested, quant_type="nf4")
    base = Base("nf4", weight_dtype, double_quant=nested)
    agree(
        lambda x, b: rules.matmul_4bit(x, SHAPE, b, base),
        lambda x, b: matmul_4bit(x, packed, state, bias=b),
        Given((4, 6, 96), dtype, grad),
        Given((24,), dtype, grad=False),
    )


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("release", ["0.43.1", "0.49"])
def test_matmul_4bit_of_older_releases(release: str, nested: bool) -> None:
    """Witness: autograd, around those releases' own few lines (``autograd/_functions.py: MatMul4Bit``)."""
    packed, state = bnb_functional.quantize_4bit(torch.randn(SHAPE).bfloat16(), compress_statistics=nested)

    class MatMul4Bit(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor) -> torch.Tensor:
            ctx.tensors = (a if release == "0.43.1" else None, packed)
            return torch.nn.functional.linear(a, bnb_functional.dequantize_4bit(packed, state).to(a.dtype))

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad.matmul(bnb_functional.dequantize_4bit(ctx.tensors[1], state).to(grad.dtype))

    base = Base("nf4", BF16, double_quant=nested, bitsandbytes=release)
    agree(
        lambda x: ops.mul(rules.matmul_4bit(ops.mul(x, ops.SCALAR), SHAPE, None, base), ops.SCALAR),
        lambda x: MatMul4Bit.apply(x * 0.5) * 0.5,
        Given((40, 6, 96)),
    )


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_matmul_8bit(dtype: str) -> None:
    codes, scales, _ = bnb_functional.int8_vectorwise_quant(torch.randn(SHAPE).half())
    state = MatmulLtState(CB=codes, SCB=scales)
    state.has_fp16_weights = False
    agree(
        lambda x: rules.matmul_8bit(x, SHAPE, None),
        lambda x: matmul(x, codes, state=state),
        Given((4, 6, 96), dtype),
    )


def test_input_held_to_the_end(tmp_path: Path) -> None:
    """Witness: measurement. LLM.int8's layers hold their input beyond backward, and no hook sees it:
    the saved bytes are those of NF4's layers, which hold nothing, the peak is above theirs."""
    model = write_config(tmp_path / "model", {"intermediate_size": 172})
    plan = {"model": model, "batch": 8, "seq": 64, "rest_dtype": F32, "method": "lora"}
    held, let_go = (estimate({**plan, "dtype": dtype}).bytes for dtype in ("int8", "nf4"))
    assert held["saved"] == let_go["saved"]
    assert held["peak_above_resident"] > let_go["peak_above_resident"]


def test_add_to_view() -> None:
    def real(x: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
        y = (x * 0.5).view(x.shape)
        y += frozen
        return y

    agree(
        lambda x, frozen: ops.add_to_view_(ops.mul(x, ops.SCALAR), frozen),
        real,
        Given((4, 6, 40)),
        Given((40,), grad=False),
    )


# ---- formulas and published sizes ----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["nf4", "int8", "int8-weight-only", "float8", "gptq", "awq"])
def test_formulas_are_the_estimate(dtype: str) -> None:
    plan = {"model": "llama-3.2-1b", "dtype": dtype, "method": "lora", "batch": 2, "seq": 64}
    compiled = compile_plan(parse_plan(plan))
    for batch, seq in ((2, 64), (3, 500), (4, 4096)):
        answer = estimate({**plan, "batch": batch, "seq": seq})
        assert compiled.evaluate(batch, seq)["peak"] == answer.bytes["peak"]


ROTARY = 1 << 10
"""Bytes: the frequencies that no published breakdown counts."""
MIB = 1 << 20
PUBLISHED = {
    "mistral-7b-v0.3": (16, 3328, 416.013671875, 1077.015625),
    "deepseek-coder-1.3b": (16, 579, 72.38525390625, 528.3828125),
    "qwen2.5-coder-1.5b": (16, 624.75, 78.105712890625, 907.427734375),
    "qwen2.5-7b": (16, 3111.5, 388.949462890625, 4197.771484375),
    "llama-3.2-3b": (16, 1344, 168.011962890625, 1538.66796875),
    "llama-3.2-1b": (16, 464, 58.0068359375, 1015.2578125),
    "smollm2-1.7b": (32, 768, 96.01025390625, 432.3828125),
    "tinyllama-1.1b": (32, 462, 57.7593994140625, 534.7265625),
    "smollm2-360m": (32, 150, 18.763671875, 205.238037109375),
}
"""LoRA's rank on q, k, v and o; MiB of packed weights, of their scales, and of the rest in float32 with the
adapters: NF4 models on a T4, from fitcheck-llm 0.3.1's data/measurements (github.com/Anassbzdd/fitcheck)."""


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_sizes(model: str) -> None:
    """Witness: a GPU's allocator, as published."""
    rank, packed, scales, rest = PUBLISHED[model]
    method = {"name": "lora", "r": rank, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    answer = estimate(model=model, dtype="nf4", kbit_preparation=True, method=method).bytes
    assert answer["parameters"] == (packed + rest) * MIB
    assert 0 < answer["buffers"] - scales * MIB <= ROTARY


# ---- wrong input ---------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "full": ({"dtype": "nf4"}, "packed weights have no gradient"),
    "int4": ({"dtype": "int4-weight-only", "method": "lora"}, "cannot be trained on"),
    "key of another format": ({"dtype": "int8", "double_quant": True, "method": "lora"}, "double_quant belongs to"),
    "key of a quantised base": ({"rest_dtype": F16}, "rest_dtype belongs to"),
    "release of another format": (
        {"dtype": "int8", "bitsandbytes": "0.43.1", "method": "lora"},
        "bitsandbytes belongs to",
    ),
    "copy": (
        {"dtype": "nf4", "method": {**LORA, "target_modules": ["v_proj"], "modules_to_save": ["q_proj"]}},
        "whose packed weight cannot be trained",
    ),
    "copy in the first layer": (
        {"dtype": "nf4", "method": {**LORA, "modules_to_save": ["layers.0.self_attn.k_proj"]}},
        "whose packed weight cannot be trained",
    ),
    "ia3 beside 16 bits": ({"dtype": "int8", "method": "ia3"}, "set kbit_preparation"),
    "ia3 on gptq": ({"dtype": "gptq", "method": "ia3"}, "dtype: gptq has no rule with method: ia3"),
    "lora_bias": ({"dtype": "float8", "method": {**LORA, "lora_bias": True}}, "PEFT's rule"),
    "bias": ({"dtype": "int8-weight-only", "method": {**LORA, "bias": "all"}}, "set bias: none"),
}


@pytest.mark.parametrize(("plan", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate({"model": "llama-3.2-1b", **plan})


@pytest.mark.parametrize("dtype", ["nf4", "gptq"])
def test_sizes_that_do_not_pack(dtype: str, tmp_path: Path) -> None:
    model = write_config(tmp_path / "model", {"intermediate_size": 133})
    with pytest.raises(InputError, match=r"model\.layers\.0"):
        estimate(model=model, dtype=dtype, method="lora")
