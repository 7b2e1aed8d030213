"""Data loading: the workers of a real ``Trainer``, and what they put into shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from estimator.moments.data_loading import IN_USE, WORKER, data_loading
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


@pytest.mark.share(8)
@pytest.mark.extra("trace")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /dev/shm and /proc")
@pytest.mark.parametrize(("workers", "ahead"), [(1, 2), (2, 3)])
def test_workers(workers: int, ahead: int, tmp_path: Path) -> None:
    """Witness: measurement, in a fresh process. Shared memory within 2 %, a worker's own pages within 8 MiB."""
    command = [sys.executable, "-m", __name__, str(workers), str(ahead), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shared, own = json.loads(done.stdout.splitlines()[-1])
    plan = parse_plan({"model": "llama-3.2-1b", "batch": 8, "seq": SEQ})
    options = RunOptions(dataloader_num_workers=workers, dataloader_prefetch_factor=ahead)
    (moment,) = data_loading(resolve(plan), options)
    predicted = moment.bytes - workers * WORKER
    assert len(own) == workers
    assert abs(predicted - shared) < 0.02 * shared
    assert all(abs(WORKER - nbytes) < 8 * 2**20 for nbytes in own), own


def measured(workers: int, ahead: int, folder: str) -> tuple[int, list[int]]:
    """Bytes of shared memory and of each worker's own pages while a trainer's loader is at its eleventh batch."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=16
    )
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=8,
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=ahead,
        use_cpu=True,
        report_to=[],
    )
    children = set(_children())
    batches = iter(Trainer(LlamaForCausalLM(config), arguments, train_dataset=Rows()).get_train_dataloader())
    held = [next(batches) for _ in range(10)][-1:]
    time.sleep(1)  # the workers fill their queues
    found = [child for child in _children() if child not in children]
    loaders = [child for child in found if _shared([child])]
    shared, own = sum(_shared([os.getpid(), *found]).values()), [_private(child) for child in loaders]
    del held, batches
    return shared, own


def test_pinned_blocks() -> None:
    """A block has a power of two of bytes; at least two batches are there."""
    plan = parse_plan({"model": "llama-3.2-1b", "batch": 3, "seq": 1000, "runtime": "torch-cuda"})
    (moment,) = data_loading(resolve(plan), RunOptions())
    assert moment.bytes == 2 * 2 * 32768
    assert data_loading(resolve(plan), RunOptions(dataloader_pin_memory=False)) == []


def test_workers_share_their_batches() -> None:
    """By hand: two workers have two batches each ahead, and one is in use unless it is copied to pinned memory."""
    plan = parse_plan({"model": "llama-3.2-1b", "batch": 3, "seq": 1000, "runtime": "torch-cuda"})
    batch = 2 * 3 * 1000 * 8
    for pins in (False, True):
        options = RunOptions(dataloader_num_workers=2, dataloader_pin_memory=pins)
        (moment,) = data_loading(resolve(plan), options)
        shared = batch * (4 if pins else 4 + IN_USE)
        assert moment.bytes == 2 * WORKER + shared + (2 * 32768 * (4 + IN_USE) if pins else 0)


def _shared(processes: list[int]) -> dict[int, int]:
    """Bytes of the shared memory that processes have open or mapped, by inode."""
    found = {}
    for process in processes:
        for opened in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):
                if os.readlink(opened).startswith("/dev/shm/torch_"):
                    status = opened.stat()
                    found[status.st_ino] = status.st_size
        for row in Path(f"/proc/{process}/maps").read_text().splitlines():
            if "/dev/shm/torch_" in row:
                span, _, _, _, inode, _ = row.split(maxsplit=5)
                start, stop = (int(x, 16) for x in span.split("-"))
                found.setdefault(int(inode), stop - start)
    return found


def _children() -> list[int]:
    return [
        int(child) for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _private(pid: int) -> int:
    """Bytes of a process's own pages."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Private_Dirty"))


if __name__ == "__main__":
    print(json.dumps(measured(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
