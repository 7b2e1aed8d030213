"""Data loading: PyTorch's ``DataLoader`` and accelerate's, as the Trainer uses them, on Linux.

Workers put batches into shared memory. ``prefetch_factor`` batches of each wait there, or in the queue of the thread
that pins them (``torch/utils/data/dataloader.py: _try_put_index``). Two more are in the process: the batch that is
used, and the one ahead of it (accelerate's ``DataLoaderShard``). A pinned block has a power of two of bytes
(``CachingHostAllocator``), for each tensor of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..steps.offloading import block_bytes
from .moment import Moment

if TYPE_CHECKING:
    from ..engines.engine import Job
    from .options import RunOptions

WORKER = 16 * 2**20
"""Bytes of a worker's own, beside the pages that it shares with the process: 12 to 20 MiB in 34 workers, after ten
batches of tensors (torch 2.13, Python 3.11). They grow where a data set is made of Python objects, whose counts of
references are written."""
IN_USE = 2
"""Batches in the process: the current one, and the one ahead."""


def data_loading(job: Job, options: RunOptions) -> list[Moment]:
    """What data loading takes on the host beside every other moment of the run."""
    plan = job.plan
    tensors, of_tensor = 3 if job.step.takes_mask else 2, plan.batch * plan.seq * 8
    workers, ahead = options.dataloader_num_workers, options.dataloader_prefetch_factor or 2
    waiting = workers * ahead
    pins = options.dataloader_pin_memory and job.step.device.has_own_memory
    batches = waiting + (0 if pins or not workers else IN_USE)
    shared = batches * tensors * of_tensor
    pinned = (waiting + IN_USE) * tensors * block_bytes(of_tensor) if pins else 0
    parts = [f"{workers} workers of {WORKER >> 20} MiB and {batches} batches in shared memory"] if workers else []
    parts += [f"at most {waiting + IN_USE} batches in pinned memory"] if pins else []
    if not parts:
        return []
    return [Moment("data loading", "host", workers * WORKER + shared + pinned, ", ".join(parts), beside=True)]
