"""Data loading: the workers of a real ``Trainer``, and what they put into shared memory."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from estimator.moments.data_loading import WORKER, data_loading
from estimator.moments.options import RunOptions
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve

SEQ = 16384


class Rows:
    """A data set that makes its rows."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, row: int) -> dict[str, Any]:
        import torch

        return {name: torch.zeros(SEQ, dtype=torch.int64) for name in ("input_ids", "labels")}


@pytest.mark.extra("trace")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /dev/shm and /proc")
@pytest.mark.parametrize(("workers", "ahead"), [(1, 2), (2, 3)])
def test_workers(workers: int, ahead: int, tmp_path: Path) -> None:
    """Witness: measurement. Shared memory within 2 %, a worker's own pages within 8 MiB."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=8,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=ahead,
        use_cpu=True,
        report_to=[],
    )
    before, children = _shared(), set(_children())
    batches = iter(Trainer(LlamaForCausalLM(config), arguments, train_dataset=Rows()).get_train_dataloader())
    held = [next(batches) for _ in range(10)][-1:]
    time.sleep(1)  # the workers fill their queues
    shared = _shared() - before
    own = [_private(child) for child in _children() if child not in children]
    del held, batches
    plan = parse_plan({"model": "llama-3.2-1b", "batch": 8, "seq": SEQ})
    options = RunOptions(dataloader_num_workers=workers, dataloader_prefetch_factor=ahead)
    (moment,) = data_loading(resolve(plan), options)
    predicted = moment.bytes - workers * WORKER
    assert abs(predicted - shared) < 0.02 * shared
    assert all(abs(WORKER - nbytes) < 8 * 2**20 for nbytes in own), own


def test_pinned_blocks() -> None:
    """A block has a power of two of bytes; at least two batches are there."""
    plan = parse_plan({"model": "llama-3.2-1b", "batch": 3, "seq": 1000, "runtime": "torch-cuda"})
    (moment,) = data_loading(resolve(plan), RunOptions())
    assert moment.bytes == 2 * 2 * 32768
    assert data_loading(resolve(plan), RunOptions(dataloader_pin_memory=False)) == []


def _shared() -> int:
    """Bytes in use of the file system that shared memory is in."""
    found = os.statvfs("/dev/shm")
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _children() -> list[int]:
    return [
        int(child) for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _private(pid: int) -> int:
    """Bytes of a process's own pages."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Private_Dirty"))
