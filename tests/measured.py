"""One case of the measured tests: a plan's estimate against its real step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.witnesses.measure import run_step

from .cases import write_config

EXACT = ("parameters", "buffers", "gradients", "optimizer", "saved")
TOLERANCE = 64
"""Bytes at the peak: the scalars that a kernel may take, none of which grows with the sizes."""

WITHOUT_SCRATCH = {None, "float32"} if torch.ops.mkldnn._is_mkldnn_fp16_supported() else {None, "float32", "float16"}
"""Dtypes whose products oneDNN leaves alone; those of float16 it takes on a processor with AVX512-FP16."""


def assert_step(config: dict[str, Any], plan: dict[str, Any], tmp_path: Path, tolerance: int = TOLERANCE) -> Result:
    """Witness: measurement. Everything but the peak equal to the byte; the peak within ``tolerance``
    bytes once the scratch of oneDNN's 16-bit products, the one allocation without a rule, is left out.
    """
    parsed = parse_plan({"model": write_config(tmp_path / "model", config), **plan})
    predicted = estimate(parsed)
    measured = run_step(resolve(parsed))
    assert {key: predicted.bytes[key] for key in EXACT} == {key: measured[key] for key in EXACT}
    assert predicted.trainable_parameters == measured["trainable_parameters"]
    assert abs(predicted.bytes["peak_above_resident"] - measured["peak_without_matmul_scratch"]) <= tolerance
    scratch = measured["peak_above_resident"] - measured["peak_without_matmul_scratch"]
    if {parsed.dtype, parsed.autocast} <= WITHOUT_SCRATCH:
        assert scratch == 0
    return predicted
