"""The third witness on GPUs: steps that others measured and published, predicted from their real configuration.

The predictions are those that are recorded; ``test_recorded_bytes.py`` asks whether they are today's.
"""

from __future__ import annotations

import statistics

import pytest

from estimator.answers.estimate import estimate
from estimator.engines.torch_cuda.engine import UNCERTAINTY
from estimator.plans.plan import parse_plan
from estimator.steps.sharding.options import ShardingOptions
from tests.cases.published_runs import BARS, Run, sources
from tests.cases.recorded_bytes import published as runs
from tests.helpers.figures import assert_figures


def scored(source: str, metric: str) -> list[Run]:
    """Runs with both figures, without those that cannot be what they are said to be."""
    return [run for run in runs(source) if run.error(metric) is not None and not run.mislabelled]


def errors(source: str, metric: str, of: str = "") -> list[float]:
    return sorted(abs(run.error(metric) or 0.0) for run in scored(source, metric) if of in run.name)


@pytest.mark.parametrize(("source", "metric"), BARS)
def test_outliers_are_known(source: str, metric: str) -> None:
    """Witness: published measurements. What is beyond the bar is named in the table, with the reason if it is known."""
    beyond = {run.name for run in scored(source, metric) if abs(run.error(metric) or 0.0) > BARS[source, metric]}
    assert {name for name in beyond if name not in UNEXPLAINED} == {
        run.name for run in scored(source, metric) if run.outlier and run.name in beyond
    }
    assert len(beyond) <= 0.2 * len(scored(source, metric))


UNEXPLAINED = {
    "full-finetuning/llama-3.2-3B-lr_0.00001",
    "t4-qlora-2026-09-01/0",
    "t4-sweep-2026-09-15/22",
    "t4-sweep-2026-09-15/36",
    "t4-sweep-2026-09-15/38",
}


SHARED = {
    "fms-acceleration-fsdp": 32,
    "fms-acceleration-granite-fsdp": 8,
    "litgpt-resource-tables": 12,
}
"""How many runs on several GPUs each source has. They were listed before any of them was predicted."""


def test_runs_on_several_gpus() -> None:
    """Witness: published measurements, of the runs that have rules; the others are refused and listed as such."""
    found = {source: [run for run in runs(source) if run.shared] for source in sources()}
    assert {source: len(shared) for source, shared in found.items() if shared} == SHARED
    every = [run for shared in found.values() for run in shared]
    assert all(run.predicted or run.refused for run in every)
    off = sorted(
        abs(error) for run in every if not run.incomplete if (error := run.error("allocated_peak")) is not None
    )
    if off:
        assert statistics.median(off) <= 0.01
        assert sum(error <= 0.03 for error in off) >= 0.9 * len(off)


INCOMPLETE = [run for run in runs("litgpt-resource-tables") if run.incomplete and run.measured]


@pytest.mark.share(9)
@pytest.mark.parametrize("run", INCOMPLETE, ids=lambda run: run.name)
def test_bounds_of_runs_on_several_gpus(run: Run) -> None:
    """Witness: published measurements whose length is not. They lie between those of 16 tokens and of the longest."""
    assert estimate({**run.plan, "seq": 16}).bytes["allocated_peak"] < run.measured["allocated_peak"]
    assert run.measured["allocated_peak"] < run.predicted["allocated_peak"]


@pytest.mark.parametrize("source", SHARED)
def test_plans_of_runs_on_several_gpus(source: str) -> None:
    """Without its sharding such a plan is read, so that only what several processes share can be without a rule."""
    for plan in (run.plan for run in runs(source) if run.shared):
        parse_plan({key: value for key, value in plan.items() if key != "sharding"})
        assert ShardingOptions(**plan["sharding"]).world_size in (2, 4)


def test_t4() -> None:
    """Witness: published measurements of LoRA and QLoRA on a T4, held-out rows included."""
    allocated = errors("fitcheck-t4", "allocated_peak")
    assert len(allocated) > 80
    assert allocated[-1] < 0.006
    assert statistics.median(allocated) < 0.0005
    assert statistics.median(errors("fitcheck-t4", "process")) < 0.015


def test_sixteen_bits_on_a_t4_to_the_block() -> None:
    """Witness: published measurements. Those of 16-bit bases repeat exactly, and so they are predicted."""
    found = [run for run in scored("fitcheck-t4", "allocated_peak") if run.plan["dtype"] != "nf4"]
    predicted, measured = (
        {run.name: getattr(run, side)["allocated_peak"] for run in found} for side in ("predicted", "measured")
    )
    assert_figures(predicted, measured, 2 * 2**20)


def test_sixteen_bits_on_a_t4_reserve_what_they_show() -> None:
    """Witness: published measurements, with the ties of the release that ran (2.10: the newest of equal segments).
    The oldest first, as from 2.13 on, is off by up to 6.9 %."""
    found = [run for run in scored("fitcheck-t4", "reserved_peak") if run.plan["dtype"] != "nf4"]
    exact = [run.name for run in found if run.error("reserved_peak") == 0]
    assert len(found) == 24
    assert len(exact) >= 15
    assert max(abs(run.error("reserved_peak") or 0.0) for run in found) < 0.008


def test_phases_on_a_t4() -> None:
    """Witness: published measurements of a step's phases, LoRA and QLoRA."""
    for metric, largest in {
        "allocated_after_load": 0.04,
        "allocated_forward_peak": 0.01,
        "allocated_backward_peak": 0.006,
        "allocated_step_peak": 0.02,
    }.items():
        found = errors("fitcheck-t4", metric)
        assert len(found) == 77
        assert statistics.median(found) < 0.0005, metric
        assert found[-1] < largest, metric


def test_peft() -> None:
    """Witness: PEFT's own comparison of its methods on an L40S, reserved bytes of whole runs."""
    found = errors("peft-metamathqa", "reserved_peak")
    assert len(found) > 50
    assert statistics.median(found) < 0.0015
    assert sum(error <= 0.005 for error in found) >= 0.85 * len(found)


FMS = [source for source in sources() if source.startswith("fms-acceleration") and not source.endswith("-fsdp")]


def test_hugging_face_s_trainer() -> None:
    """Witness: published measurements of full fine-tuning, LoRA, QLoRA and GPTQ with flash-attn on an A100, under the
    releases of transformers that ran. The Trainer lets its output go before the backward pass.
    """
    found = sorted(error for source in FMS for error in errors(source, "allocated_peak"))
    assert len(found) > 15
    assert statistics.median(found) < 0.0002
    assert sum(error < 0.0005 for error in found) >= len(found) - 1
    at_end = sorted(error for source in FMS for error in errors(source, "allocated_at_end"))
    assert at_end[-1] < 0.002


def test_a_release_is_seen_in_published_bytes() -> None:
    """Witness: a published LoRA run under transformers 4.48, which keeps a float32 copy of the shifted logits, and the
    logits and a hidden state beside it. Later releases' peak is smaller by these.
    """
    run = next(run for run in scored("fms-acceleration", "allocated_peak") if run.name == "a100_80gb-32")
    later = estimate({**run.plan, "transformers": "5.24"}).bytes["allocated_peak"]
    assert run.measured["allocated_peak"] - later == pytest.approx(1_048_576_000 + 134_217_728, abs=2**20)
    assert run.predicted["allocated_peak"] == pytest.approx(run.measured["allocated_peak"], abs=2**20)


def test_the_stated_uncertainty() -> None:
    """Witness: published processes. 95 of 100 are within what a verdict says they are."""
    found = sorted([*errors("fitcheck-t4", "process"), *errors("peft-metamathqa", "reserved_peak")])
    assert sum(error <= UNCERTAINTY for error in found) >= 0.95 * len(found)
    assert statistics.median(found) < 0.008


def test_a6000() -> None:
    """Witness: published measurements of full fine-tuning, LoRA and inference on an RTX A6000."""
    found = errors("vramcalc-a6000", "allocated_peak")
    assert statistics.median(found) < 0.0005
    assert found[-1] < 0.0045


def test_output_dropped_before_the_step() -> None:
    """Witness: published measurements. Two of the loops that drop their output peak in the optimizer's step."""
    for run in scored("vramcalc-a6000", "allocated_peak"):
        if run.name in ("row-9", "row-11"):
            assert abs(run.error("allocated_peak") or 0.0) < 0.0001
            held = estimate(run.plan, drop_output_before_step=False).bytes["allocated_peak"]
            assert held / run.measured["allocated_peak"] - 1 > 0.015


@pytest.mark.parametrize("source", ["litgpt-config-hub", "litgpt-resource-tables"])
def test_litgpt(source: str) -> None:
    """Witness: litgpt's own tables, LoRA and QLoRA on one GPU."""
    found = [
        abs(run.error("allocated_peak") or 0.0)
        for run in scored(source, "allocated_peak")
        if not run.outlier and "full" not in run.name
    ]
    assert len(found) > 15
    assert max(found) < 0.03


def test_runs_that_ran_out_of_memory() -> None:
    """Witness: published verdicts. What ran out on its card does not fit by the estimate; what completed does."""
    for source in sources():
        for run in runs(source):
            if run.outcome and run.predicted:
                assert run.fits is (run.outcome == "completed"), run.name
