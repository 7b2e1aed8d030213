"""The moments of a run, the largest of them, and the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.answers.inverse import solve
from estimator.errors import InputError
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.show.cli import main
from tests.cases.small_models import TINY, write_config
from tests.helpers.figures import assert_figures

MODEL = "llama-3.2-1b"
LOGITS = {"eval_samples": 200, "compute_metrics": True}
PLAN: dict[str, Any] = {"seq": 512, "method": "lora"}


def test_a_run_does_not_change_its_step() -> None:
    """Every figure of the step is the same, and a run has more keys."""
    alone, run = estimate(MODEL, **PLAN).to_dict(), estimate(MODEL, **PLAN, run={}).to_dict()
    assert set(run) - set(alone) == {"run_moments", "largest_moment"}
    assert {**run["bytes"], "run": 0} == {**alone["bytes"], "run": 0}
    assert run["bytes"]["run"] == run["bytes"]["process"]
    assert run["largest_moment"] == "step"
    assert [one["moment"] for one in run["run_moments"]] == ["loading", "first step", "step", "saving", "saving"]


@pytest.mark.parametrize("keys", [{"budget": "40GiB"}, {"device": "a100-40gb"}], ids=["CPU", "GPU"])
def test_the_largest_moment_decides(keys: dict[str, Any]) -> None:
    """The step fits. Logits of the whole set do not, and do where they are moved, or are tokens."""
    assert estimate(MODEL, **PLAN, **keys).fits
    kept = estimate(MODEL, **PLAN, **keys, run=LOGITS)
    assert kept.verdict == "does not fit"
    assert kept.largest is not None
    assert kept.largest.moment == "evaluation"
    for less in ({"preprocess_logits_for_metrics": "argmax"}, {"batch_eval_metrics": True}, {"compute_metrics": False}):
        assert estimate(MODEL, **PLAN, **keys, run={**LOGITS, **less}).fits, less
    moved = estimate(MODEL, **PLAN, **keys, run={**LOGITS, "eval_accumulation_steps": 2})
    assert moved.fits == ("device" in keys)  # on a CPU there is nowhere to move to


def test_pages_of_files_are_no_reason() -> None:
    """A cast reads every page of the files, which the kernel drops: what is held decides."""
    result = estimate(MODEL, **PLAN, run={"checkpoint_dtype": "float32"})
    loading, _, step, *_ = result.run_moments
    assert loading.bytes > step.bytes > loading.held
    assert result.largest is step


@pytest.mark.parametrize("dtype", ["gptq", "float8"])
def test_what_has_no_rule_is_said(dtype: str) -> None:
    """Loading is left out with a sentence, and evaluation is not."""
    result = estimate(MODEL, **PLAN, dtype=dtype, run={})
    assert result.run_moments[0].moment == "first step"
    assert f"loading has no rule with dtype: {dtype}" in " ".join(result.warnings)


def test_every_moment_of_a_run() -> None:
    """In their order. On a GPU each has its memory; data loading is beside the others, and no reason of a verdict."""
    block = {"eval_samples": 9, "compute_metrics": True, "merge_and_unload": True, "dataloader_num_workers": 10**4}
    result = estimate(MODEL, **PLAN, device="a100-40gb", run=block)
    assert [(one.moment, one.where) for one in result.run_moments] == [
        *(("loading", "host"), ("loading", "device"), ("first step", "device"), ("step", "device")),
        ("data loading", "host"),
        *(("evaluation", "device"), ("evaluation", "host"), ("saving", "host"), ("saving", "disk")),
        *(("merging", "device"), ("merging", "host"), ("merging", "disk")),
    ]
    assert all(one.bytes >= one.held > 0 or one.droppable for one in result.run_moments)
    on_cpu = estimate(MODEL, **PLAN, run={**block, "compute_metrics": False, "eval_samples": 1})
    assert on_cpu.largest is not None
    assert on_cpu.largest.moment == "step"
    assert max(one.bytes for one in on_cpu.run_moments if one.moment == "data loading") > on_cpu.bytes["run"]


@pytest.mark.extra("trace")
@pytest.mark.parametrize("optimizer", ["adamw", "adamw-foreach", "adafactor", "lion"])
@pytest.mark.parametrize("seq", [3, 60])
def test_first_step(optimizer: str, seq: int, tmp_path: Path) -> None:
    """Witness: measurement, within 64 bytes. Short sequences peak in the update, long ones in the backward pass."""
    from estimator.witnesses.measure import _step, allocator_events, peak_of, without_matmul_scratch
    from estimator.witnesses.reference.model import build_model, storage_bytes

    plan = {"model": write_config(tmp_path, TINY), "batch": 2, "seq": seq, "dtype": "float32", "optimizer": optimizer}
    result, resolved = estimate(plan, run={}), resolve(parse_plan(plan))
    model = build_model(resolved)
    there = storage_bytes([*model.parameters(), *model.buffers()])
    events = allocator_events(_step(resolved, model).run)
    first = next(one.bytes for one in result.run_moments if one.moment == "first step")
    assert_figures({"bytes": first}, {"bytes": there + peak_of(without_matmul_scratch(events))[0]}, 64)


@pytest.mark.share(12)
def test_what_fits_of_a_run() -> None:
    """The longest sequence whose evaluation fits, too: each by its own estimate."""
    plan = {"model": MODEL, "method": "lora", "device": "rtx-4090", "run": {**LOGITS, "eval_samples": 40}}
    found = solve("max-seq", plan)
    assert found.value is not None
    assert found.next_value is not None
    assert found.binding == "evaluation"
    assert estimate({**plan, "seq": found.value}).verdict == "fits"
    assert estimate({**plan, "seq": found.next_value}).verdict == "tight"
    assert estimate({**plan, "run": None, "seq": 2 * found.value}).verdict == "fits"


def test_the_report_says_when(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of the moments, and a sentence about the largest."""
    assert main(["estimate", MODEL, "--eval-samples", "200", "--compute-metrics", "--budget", "40GiB"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "moments of the run" in printed
    assert "The run takes most in its evaluation" in printed


def test_one_moment_alone() -> None:
    """Each moment's bytes are those among all, and the verdict is on them: a run dies in its step and can be merged."""
    keys = {"model": "llama-3.1-8b", "method": "lora", "device": "rtx-4090"}
    whole = estimate({**keys, "run": {"merge_and_unload": True}})
    for moment in ("loading", "first step", "step", "merging"):
        one = estimate({**keys, "run": {"moment": moment}})
        assert one.run_moments == tuple(row for row in whole.run_moments if row.moment == moment)
        assert one.fits is (moment in ("loading", "merging"))
        assert any("out of memory" in warning for warning in one.warnings) is ("step" in moment)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"run": {"moment": "evaluation"}}, "needs eval_samples"),
        ({"run": {"moment": "saving"}, "device": "rtx-4090"}, "nothing of its own on the device"),
        ({"run": {"moment": "loading"}, "dtype": "gptq"}, "moment loading: loading has no rule"),
    ],
    ids=str,
)
def test_a_moment_that_a_run_does_not_have(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        estimate({"model": "llama-3.2-1b", "method": "lora", **keys})
