"""``measure``: what it counts, and its process."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from estimator.answers.measurement import measure
from estimator.plans.plan import parse_plan
from estimator.witnesses.measure import allocator_events, fresh, measured, without_matmul_scratch
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import EXACT


def test_an_earlier_call_is_not_counted() -> None:
    """What a call leaves in a cycle, to be freed when the collector runs, is no matter of the next call."""

    def leave() -> None:
        cycle: list[Any] = [torch.empty(1_000_000)]
        cycle.append(cycle)

    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(50_000)  # beyond what a measurement makes itself
    try:
        allocator_events(leave)
        events = allocator_events(lambda: [[] for _ in range(200_000)])
    finally:
        gc.set_threshold(*thresholds)
    assert not [nbytes for nbytes, _ in events if abs(nbytes) >= 4_000_000]
    assert gc.isenabled()


@pytest.mark.parametrize("name", ["mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addbmm"])
def test_the_scratch_of_products_is_left_out(name: str) -> None:
    """Witness: the result, which is all that a product of 16 bits takes beside oneDNN's scratch."""
    out, *operands = (torch.ones(3, 33, 33, dtype=torch.bfloat16) for _ in range(3))
    if name in ("mm", "addmm", "addmm_"):
        out, *operands = (x[0] for x in (out, *operands))
    function = getattr(torch, name) if name in ("mm", "bmm") else getattr(out[0] if name == "addbmm" else out, name)
    results: list[torch.Tensor] = []
    function(*operands)
    events = without_matmul_scratch(allocator_events(lambda: results.append(function(*operands))))
    assert [nbytes for nbytes, _ in events] == ([] if name.endswith("_") else [results[0].nbytes])


@pytest.mark.witness
def test_resident_set() -> None:
    """Witness: measurement. The process's peak resident set, of a step whose peak is above 1 GiB."""
    plan = {"model": "smollm2-135m", "batch": 1, "seq": 64, "dtype": "float32", "method": "full"}
    record = measure(parse_plan(plan))
    assert record["predicted"]["bytes"]["peak"] > 1 << 30
    assert record["predicted"]["bytes"]["process"] == pytest.approx(record["measured"]["peak_rss"], rel=0.05)


@pytest.mark.share(12)
def test_fresh_process(tmp_path: Path) -> None:
    """Witness: measurement. ``measure`` runs the step in a process of its own and says where."""
    model = write_config(tmp_path / "model", {})
    record = measure(parse_plan({"model": model, "batch": 2, "seq": 20, "dtype": "float32", "method": "lora"}))
    measured, predicted = record["measured"], record["predicted"]["bytes"]
    assert_figures(predicted, {key: measured[key] for key in EXACT})
    assert measured["peak_rss"] > measured["baseline_rss"] > 0
    assert {"torch", "transformers", "python"} <= set(measured["versions"])
    assert measured["machine"]["threads"] == 2


@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        ({}, {}, {"MALLOC_MMAP_THRESHOLD_": "131072"}),
        ({}, {"default_malloc": True}, {}),
        (
            {"device": "rtx-3090", "expandable_segments": True},
            {},
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "MALLOC_MMAP_THRESHOLD_": "131072"},
        ),
    ],
    ids=str,
)
def test_where_a_step_is_measured(
    keys: dict[str, Any], options: dict[str, Any], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asks the contract: a fresh process with the plan, whose allocators are set as it says."""
    asked: list[Any] = []

    def run(module: str, given: Any, environment: dict[str, str], timeout: float) -> Any:
        asked.append((module, given["model"], environment, timeout))
        return SimpleNamespace(returncode=0, stdout='a line\n{"peak": 7}\n', stderr="")

    monkeypatch.setattr(fresh, "run", run)
    plan = parse_plan({"model": "smollm2-135m", "seq": 8, **keys})
    assert measured(plan, timeout=9, **options) == {"peak": 7}
    assert asked == [("witnesses.measure", "smollm2-135m", expected, 9)]
