"""Products with packed weights, against the libraries' own operators."""

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
from estimator.bases import bitsandbytes as rules
from estimator.bases.formats import Base
from estimator.ledger import Ledger
from estimator.operators import Cuda
from tests.cases.small_models import write_config
from tests.helpers.operator_rules import BF16, F16, F32, Given, agree

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
        work=False,
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
        work=False,
    )


@pytest.mark.parametrize(
    ("release", "tokens", "grad", "n_in", "fused"),
    [
        ("0.50", rules.FUSED_TOKENS, True, 128, True),
        ("0.50", rules.FUSED_TOKENS + 1, False, 128, False),
        ("0.50", 1, False, 96, False),
        ("0.49", 1, False, 128, True),
        ("0.49", 1, True, 128, False),
        ("0.49", 2, False, 128, False),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_few_tokens_on_a_gpu(release: str, tokens: int, grad: bool, n_in: int, fused: bool, nested: bool) -> None:
    """By hand, from ``matmul_4bit``: a fused kernel makes no weight; with nested scales gemv_4bit makes them twice."""
    ledger = Ledger(Cuda())
    x = ledger.empty((1, tokens, n_in), BF16)
    x.requires_grad = grad
    before, ledger.counts_work = ledger.live, True
    out = rules.matmul_4bit(x, (24, n_in), None, Base("nf4", BF16, double_quant=nested, bitsandbytes=release))
    assert out.shape == (1, tokens, 24)
    most, scales = max(ledger.peaks.values()) - before, 2 * 4 * (24 * n_in // 64)
    if fused:
        assert most == (scales if nested and release == "0.49" else out.nbytes)
        assert ledger.work == 2 * tokens * 24 * n_in
    else:
        assert most > 2 * 24 * n_in


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
