"""The engine: the step's live bytes, and what the interpreter and the libraries hold.

On Linux every tensor of 128 KiB or more has a memory mapping of its own, which is returned to the system when the
tensor is freed (``c10::alloc_cpu`` calls ``posix_memalign``). So the resident set is the live bytes and what the
interpreter and the libraries hold. By default glibc raises this threshold up to 32 MiB as blocks are freed, and then
keeps freed blocks in its heap: up to a tenth more for full fine-tuning (``docs/accuracy.md`` has both).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...bases.formats import TORCHAO
from ...operators import CPU
from ..engine import Job
from ..replay import Batch, Timeline, Usage
from ..torch import LIBRARIES_BYTES, Torch

if TYPE_CHECKING:
    from ...operators.device import Device as Kernels
    from ..snapshot import Snapshot

UNCERTAINTY = 0.033
"""The largest relative difference between prediction and measurement of the 12 processes in ``docs/accuracy.md`` that
ran with glibc's mmap threshold fixed."""


class TorchCpu(Torch):
    """PyTorch on a CPU."""

    place = "a CPU"
    inference_formats = TORCHAO
    """In eval mode bitsandbytes repacks 4-bit weights (``nn/modules.py: Linear4bit.forward``, with AVX512-BF16) and
    multiplies 8-bit ones as integers (``autograd/_functions.py: matmul``). GPTQ and AWQ have rules only for their
    kernels that can train. Forward passes and calls of generate were measured with both formats."""
    uncertainty = UNCERTAINTY
    uncertainty_of = "the most by which one of 12 measured processes differs from its prediction"
    exactness = f"exact to the byte but for process: measured ones differ by up to {UNCERTAINTY:.1%}"

    def kernels(self, plan: Any) -> Kernels:
        return CPU

    def beside(self, plan: Any) -> int:
        return LIBRARIES_BYTES

    def replay(
        self,
        job: Job,
        batches: Sequence[Batch],
        capacity: int | None = None,
        timeline: Timeline | None = None,
        snapshot: Snapshot | None = None,
    ) -> Usage:
        """One step of the plan. Nothing is reserved beyond what is allocated, and nothing is out of memory."""
        from .mappings import replay

        peak = replay(job, timeline, snapshot)
        return Usage(peak, peak, ())

    def batches(self, plan: Any) -> list[Batch]:
        return [Batch(plan.batch, plan.seq, False)]


ENGINE = TorchCpu()
