"""Saving: ``Trainer._save_checkpoint`` between two steps, and the bytes of its files.

On a CPU safetensors and ``torch.save`` write from where the tensors are. From a GPU ``safetensors.torch.save_file``
copies all tensors of a file to the host before it writes the first (``_flatten_as_ptr``); ``torch.save`` copies one at
a time (``serialization.py: _save``). Old checkpoints are deleted after the new one is there (``rotate_checkpoints``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checkpoint import OTHER_FILES, Checkpoint, split
from .moment import Moment

if TYPE_CHECKING:
    from ..engines.engine import Job
    from .options import RunOptions


def saving(job: Job, options: RunOptions, checkpoint: Checkpoint, resident: int) -> list[Moment]:
    """The moments of a save. ``resident`` is the bytes of parameters, buffers and optimizer states."""
    if job.step.device.has_own_memory:
        copies = max(sum(weight.nbytes for weight in part) for part in split(checkpoint.tensors))
        state = 0 if options.save_only_model else max(checkpoint.states, default=0)
        what = "a copy of all tensors of a file" if copies >= state else "a copy of the largest optimizer state"
        host = Moment("saving", "host", max(copies, state), what)
    else:
        host = Moment("saving", "host", resident, "tensors are written from where they are")
    return [host, _disk(options, checkpoint)]


def _disk(options: RunOptions, checkpoint: Checkpoint) -> Moment:
    """The files of checkpoints: of one, or of as many as are kept and the one that is written."""
    of_one = checkpoint.model + OTHER_FILES + (0 if options.save_only_model else checkpoint.optimizer)
    if options.save_total_limit is None:
        return Moment("saving", "disk", of_one, "one checkpoint; without save_total_limit each save adds one")
    count = options.save_total_limit + 1
    return Moment("saving", "disk", count * of_one, f"{count} checkpoints: old ones go after the new one is written")
