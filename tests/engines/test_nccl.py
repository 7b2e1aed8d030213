"""NCCL's share of a process, compared with what NCCL's own log, an issue of NVIDIA/nccl and published runs say."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator

import pytest

from estimator.answers.estimate import estimate
from estimator.engines.devices import context_bytes, find
from estimator.engines.torch_cuda.nccl import CONNECTION, FITTED, LEAST, MIB, MOST, nccl_bytes
from estimator.engines.vllm.engine import NON_TORCH
from estimator.steps.sharding.options import read
from estimator.text import human
from tests.cases import published_runs, recorded_bytes

A100, H100, RTX_4090 = (8, 0), (9, 0), (8, 9)
BAR = 0.05


def test_a_connection_takes_what_a_log_says() -> None:
    """Witness: issue 1685 of NVIDIA/nccl, whose log has allocations of these two sizes."""
    assert CONNECTION == 10_485_760 + 2_097_152


def test_a_communicator_takes_what_was_measured() -> None:
    """Witness: issue 964 of NVIDIA/nccl, by A100s: 544 MiB with two, and 688 MiB with four at the end of the tree."""
    two, four = (nccl_bytes(read({"name": "ddp", "world_size": n}), A100, "2.1") for n in (2, 4))
    assert two == 544 * MIB
    assert four - 24 * CONNECTION // 2 == 688 * MIB


@pytest.mark.parametrize(
    ("ranks", "capability", "torch", "mib"),
    [
        (8, A100, "2.4", 256 + 2 * 24 * 12),
        (8, A100, "2.6", 256 + 2 * 24 * 12),
        (8, A100, "2.7", 2 * 24 * 12),
        (2, A100, "2.13", 24 * 12),
        (8, H100, "2.4", 256 + 2 * 24 * 12 + 16 * 2 * 6 * 8),
        (16, H100, "2.5", 256 + 2 * 24 * 12 + 16 * 2 * 3 * 8),
        (2, H100, "2.5", 256 + 24 * 12),
        (8, H100, "2.10", 2 * 24 * 12),
        (8, RTX_4090, "2.4", 8 + 2 * 4 * 12),
        (2, RTX_4090, "2.13", 4 * 12),
    ],
)
def test_buffers_are_those_of_the_release_and_the_links(
    ranks: int, capability: tuple[int, int], torch: str, mib: int
) -> None:
    """Witness: sizes computed independently from NCCL's source (2.20.5, 2.21.5, 2.26.2)."""
    assert nccl_bytes(read({"name": "fsdp2", "world_size": ranks}), capability, torch) == mib * MIB


@pytest.mark.parametrize(
    ("block", "groups"),
    [
        ({"name": "fsdp2", "world_size": 1}, ()),
        ({"name": "fsdp2", "world_size": 2}, (2,)),
        ({"name": "hsdp", "world_size": 8, "replicate": 2}, (2, 4, 8)),
        ({"name": "hsdp", "world_size": 2, "replicate": 2}, (2,)),
        ({"name": "fsdp2", "world_size": 8, "tp": 4}, (4, 2, 8)),
        ({"tp": 4}, (4,)),
    ],
)
def test_each_group_has_a_communicator(block: dict[str, object], groups: tuple[int, ...]) -> None:
    """One of each group of processes, and where there are several, one of all processes."""
    one = {n: nccl_bytes(read({"name": "ddp", "world_size": n}), A100, "2.13") for n in groups}
    assert nccl_bytes(read(block), A100, "2.13") == sum(one[n] for n in groups)


def beyond() -> Iterator[tuple[str, int, int]]:
    """Of each published run on several GPUs: its plan, its process, and what that has beyond all that is derived."""
    for source in ("fms-acceleration-fsdp", "fms-acceleration-granite-fsdp"):
        plans, outside = published_runs.plans(source), published_runs.outside(source)
        for run in recorded_bytes.published(source):
            if "process" in run.measured and "reserved_peak" in run.predicted:
                plan = plans[run.name]
                gpu = find(plan["device"])
                assert gpu.capability is not None
                derived = context_bytes(gpu)[0] + nccl_bytes(read(plan["sharding"]), gpu.capability, plan["torch"])
                process = run.measured["process"]
                rest = process - run.predicted["reserved_peak"] - derived - outside
                yield str(sorted(plan.items(), key=str)), process, rest


def test_the_fit_is_that_of_published_runs() -> None:
    """Witness: 20 published runs of 15 plans. Each half is answered by the median of the other one."""
    runs = list(beyond())
    assert len(runs) == 20
    assert abs(statistics.median(rest for *_, rest in runs) - FITTED) < MIB
    assert (min(rest for *_, rest in runs) // MIB, max(rest for *_, rest in runs) // MIB) == (LEAST // MIB, MOST // MIB)
    plans = sorted({plan for plan, *_ in runs})
    random.Random(0).shuffle(plans)
    half = set(plans[: len(plans) // 2])
    within = []
    for is_fitted in (True, False):
        fitted = statistics.median(rest for plan, _, rest in runs if (plan in half) is is_fitted)
        held_out = [(process, rest) for plan, process, rest in runs if (plan in half) is not is_fitted]
        within.append((sum(abs(fitted - rest) <= BAR * process for process, rest in held_out), len(held_out)))
    assert within == [(10, 10), (8, 10)]


@pytest.mark.consistency
def test_a_process_has_it_beside_its_tensors() -> None:
    plan = {"model": "smollm-135m", "seq": 64, "device": "rtx-4090"}
    alone, first = estimate(plan), estimate({**plan, "sharding": {"name": "fsdp2", "world_size": 8}})
    outside = [one.bytes["process"] - one.bytes["reserved_peak"] for one in (alone, first)]
    assert outside[1] - outside[0] == nccl_bytes(read({"name": "fsdp2", "world_size": 8}), RTX_4090, "2.13")
    assert any("NCCL" in warning for warning in first.warnings)
    assert not any("NCCL" in warning for warning in alone.warnings)


@pytest.mark.consistency
def test_the_range_is_stated_where_runs_show_it() -> None:
    """Cards with NVLink have what the published runs had; of others there are none."""
    plan = {"model": "smollm-135m", "seq": 64, "sharding": {"name": "fsdp2", "world_size": 2}}
    linked, apart = estimate({**plan, "device": "a100-80gb"}), estimate({**plan, "device": "rtx-4090"})
    buffers = nccl_bytes(read(plan["sharding"]), A100, "2.13")
    outside = linked.bytes["process"] - linked.bytes["reserved_peak"]
    assert outside == context_bytes(find("a100-80gb"))[0] + buffers + FITTED
    said = next(one for one in linked.warnings if "NCCL" in one)
    assert f"as in those, {human(buffers + LEAST)} to {human(buffers + MOST)}" in said
    assert any("no process on cards without NVLink is published" in one for one in apart.warnings)


def test_cards_without_nvlink_take_what_a_server_logs() -> None:
    """Witness: vLLM's logs of one and of two RTX 3090 and 4090 (``NON_TORCH``), in GiB with two digits."""
    buffers = nccl_bytes(read({"tp": 2}), RTX_4090, "2.13")
    assert round(buffers / 2**30, 2) == round(NON_TORCH[False][2] - NON_TORCH[False][1], 2)
