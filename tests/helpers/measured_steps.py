"""A plan's estimate held against the real step that it is about, on PyTorch's CPU allocator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.measure import run_step
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures

EXACT = ("parameters", "buffers", "gradients", "optimizer", "saved")
"""What a step holds, equal in every byte."""
TOLERANCE = 64
"""Bytes at the peak: the scalars that a kernel may take, none of which grows with the sizes."""


def assert_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path, tolerance: int = TOLERANCE) -> Result:
    """Witness: measurement. Everything but the peak is equal to the byte, the peak within ``tolerance`` bytes.

    The scratch of oneDNN's 16-bit products, the one allocation without a rule, is left out of the peak.
    """
    __tracebackhide__ = True
    parsed = parse_plan({"model": write_config(tmp_path / "model", config), **plan})
    return assert_measured(parsed, estimate(parsed), run_step(resolve(parsed)), tolerance=tolerance)


def assert_pass(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path) -> Result:
    """Witness: measurement. Every component of a forward pass is equal to the byte, and so is the peak."""
    __tracebackhide__ = True
    keys = {"task": "infer", "batch": 2, "seq": 33, "dtype": "float32", **plan}
    parsed = parse_plan({"model": write_config(tmp_path / "model", config), **keys})
    measured = run_step(resolve(parsed))
    assert measured["trainable_parameters"] == 0
    return assert_measured(parsed, estimate(parsed), measured, (*EXACT, "kv_cache"))


def assert_call(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path, tolerance: int = 0) -> Result:
    """Witness: measurement. The cache and the peak of a real call of ``generate``, the peak within ``tolerance``."""
    __tracebackhide__ = True
    keys = {"batch": 2, "seq": 33, "dtype": "float32", **plan}
    keys = {key: value for key, value in keys.items() if value is not None}  # sound has no seq
    import torch

    if keys["dtype"] == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 products of oneDNN, which copy what a plan's CPU copies")
    parsed = parse_plan({"model": write_config(tmp_path / "model", config), **keys})
    predicted, measured = estimate(parsed), run_step(resolve(parsed))
    peak = measured["peak_without_matmul_scratch"]
    witness = {name: measured[name] for name in ("parameters", "kv_cache")}
    assert_figures(predicted.bytes, {**witness, "peak_above_resident": peak}, {"peak_above_resident": tolerance})
    assert measured["kv_cache"] > 0
    return predicted


def assert_measured(
    plan: Plan, predicted: Result, measured: dict[str, Any], exact: tuple[str, ...] = EXACT, tolerance: int = 0
) -> Result:
    """What is predicted of a plan is what was measured; see ``assert_step``."""
    __tracebackhide__ = True
    formula = {**predicted.bytes, "trainable_parameters": predicted.trainable_parameters, "matmul scratch": 0}
    formula.setdefault("communication", 0)
    witness = {name: measured[name] for name in (*exact, "trainable_parameters")}
    witness["peak_above_resident"] = measured["peak_without_matmul_scratch"]
    witness["communication"] = measured.get("communication", 0)
    dtypes = {plan.dtype, plan.autocast, None if plan.sharding is None else plan.sharding.param_dtype}
    if dtypes <= _dtypes_without_scratch():
        scratch = measured["peak_without_convolution_scratch"] - measured["peak_without_matmul_scratch"]
        witness["matmul scratch"] = scratch  # of convolutions oneDNN takes some in every dtype
    assert_figures(formula, witness, {"peak_above_resident": tolerance})
    return predicted


def assert_near(predicted: Result, measured: dict[str, Any]) -> None:
    """Witness: measurement. What a step holds is equal to the byte, the peak within 0.5 %."""
    __tracebackhide__ = True
    peak = measured["peak_without_matmul_scratch"]
    witness = {**{name: measured[name] for name in EXACT}, "peak_above_resident": peak}
    assert_figures(predicted.bytes, witness, {"peak_above_resident": max(TOLERANCE, peak // 200)})


def _dtypes_without_scratch() -> set[str | None]:
    """Dtypes whose products oneDNN leaves alone; those of float16 it takes on a processor with AVX512-FP16."""
    import torch

    found = {None, "float32", "float16"}
    return found - {"float16"} if torch.ops.mkldnn._is_mkldnn_fp16_supported() else found
