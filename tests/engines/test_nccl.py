"""NCCL's buffers beside a process's tensors, held against what its own log says of allocations."""

from __future__ import annotations

import pytest

from estimator.answers.estimate import estimate
from estimator.engines.torch_cuda.nccl import CHANNELS, GRANULE, LL, LL128, SIMPLE, nccl_bytes
from estimator.steps.sharding.options import read

ISSUE_1685 = 10_485_760
"""Bytes of a channel's buffer in the log of issue 1685 of NVIDIA/nccl."""


def test_a_channel_takes_what_a_log_says() -> None:
    assert LL + LL128 + SIMPLE <= ISSUE_1685 < LL + LL128 + SIMPLE + GRANULE
    assert nccl_bytes(read({"name": "ddp", "world_size": 8})) == CHANNELS * ISSUE_1685


@pytest.mark.parametrize(
    ("block", "communicators"),
    [
        ({"name": "fsdp2", "world_size": 1}, 0),
        ({"name": "fsdp2", "world_size": 2}, 1),
        ({"name": "hsdp", "world_size": 8, "replicate": 2}, 2),
        ({"name": "hsdp", "world_size": 2, "replicate": 2}, 1),
        ({"tp": 4}, 1),
    ],
)
def test_each_way_to_share_has_a_communicator(block: dict[str, object], communicators: int) -> None:
    assert nccl_bytes(read(block)) == communicators * CHANNELS * ISSUE_1685


@pytest.mark.consistency
def test_a_process_has_them_beside_its_tensors() -> None:
    plan = {"model": "smollm-135m", "seq": 64, "device": "rtx-4090"}
    alone, first = estimate(plan), estimate({**plan, "sharding": {"name": "fsdp2", "world_size": 8}})
    outside = [one.bytes["process"] - one.bytes["reserved_peak"] for one in (alone, first)]
    assert outside[1] - outside[0] == nccl_bytes(read({"name": "fsdp2", "world_size": 8}))
    assert any("NCCL" in warning for warning in first.warnings)
    assert not any("NCCL" in warning for warning in alone.warnings)
