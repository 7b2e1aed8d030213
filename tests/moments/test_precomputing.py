"""The reference's log-probabilities before the training, which TRL computes with ``precompute_ref_log_probs``."""

from __future__ import annotations

from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.result import Result
from estimator.plans.plan import parse_plan

DPO = {
    "model": "smollm2-135m",
    "trainer": "trl-dpo",
    "method": "lora",
    "seq": 128,
    "batch": 2,
    "device": "rtx-4090",
    "precompute_ref_log_probs": True,
}
VOCABULARY = 49152


def asked(**keys: Any) -> Result:
    return estimate(parse_plan({**DPO, **keys}))


def bytes_of(result: Result, moment: str = "precomputing") -> int:
    (found,) = (one for one in result.run_moments if one.moment == moment)
    return found.bytes


def test_the_pass_is_a_moment_of_the_run_without_states_and_gradients() -> None:
    """Witness: ``DPOTrainer.__init__`` calls ``_precompute_ref_logps`` before the optimizer exists."""
    result = asked()
    fixed = result.bytes["parameters"] + result.bytes["buffers"]
    assert fixed < bytes_of(result) < bytes_of(result, "step")
    assert result.bytes["run"] == result.bytes["process"]
    assert not asked(precompute_ref_log_probs=False).run_moments


def test_the_verdict_is_on_the_pass_where_it_is_the_largest() -> None:
    """Witness: TRL: ``precompute_ref_batch_size or per_device_eval_batch_size``, of pairs twice as many rows."""
    small, own, evaluated = (
        asked(run=run)
        for run in ({}, {"precompute_ref_batch_size": 64}, {"eval_samples": 640, "per_device_eval_batch_size": 64})
    )
    assert bytes_of(own) == bytes_of(evaluated) > bytes_of(small, "step")
    assert own.largest is not None
    assert own.largest.moment == "precomputing"
    assert "128 rows" in own.largest.why
    budget = (small.bytes["run"] + own.bytes["run"]) // 2
    keys = {"device": None, "budget": f"{budget}B", "runtime": "torch-cuda"}
    assert asked(**keys).fits
    assert not asked(**keys, run={"precompute_ref_batch_size": 64}).fits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_earlier_releases_make_all_logits_in_the_model_s_dtype(dtype: str) -> None:
    """Witness: TRL 1.9's ``compute_ref_log_probs``: logits of all rows, then the log-softmax of one row."""
    fixed = asked(trl="1.9", dtype=dtype)
    one, two = (asked(trl="1.9", dtype=dtype, run={"precompute_ref_batch_size": n}) for n in (16, 32))
    row = DPO["seq"] * VOCABULARY * (4 if dtype == "float32" else 2)
    inputs = DPO["seq"] * 8 * 4
    assert bytes_of(two) - bytes_of(one) >= 32 * (row + inputs)
    assert bytes_of(two) - fixed.bytes["parameters"] >= 65 * row


def test_kto_has_single_rows() -> None:
    result = asked(trainer="trl-kto", run={"precompute_ref_batch_size": 48})
    assert any("48 rows" in one.why for one in result.run_moments)
