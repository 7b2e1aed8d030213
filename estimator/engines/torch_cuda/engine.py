"""The engine: the bytes that the process allocates and reserves, and whether it runs out of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...bases.formats import BITSANDBYTES, FP8_BLOCKS, TORCHAO
from ...operators import Cuda
from ...operators.cuda.cublas import workspaces
from ...programs import Procedure
from ..devices import DEFAULT_GPU, Device, context_bytes, find
from ..engine import Job
from ..replay import Batch, Usage
from ..torch import Torch
from .nccl import FITTED, LEAST, NVLINK, nccl_bytes, said

if TYPE_CHECKING:
    from ..replay import Timeline
    from ..snapshot import Snapshot
    from .process import Logs

REPRESENTATIVE = 8
"""The number of steps of a run with ``lengths`` that are replayed."""
STEADY = 3
"""The number of equal steps after which another one reserves no more. The first step makes the optimizer's states, and
the second may need more segments because of them. All sixteen plans of ``benchmarks/c10_allocator`` confirm it."""
UNCERTAINTY = 0.065
"""The share by which 95 of 100 published processes differ at most from predictions, in the process (T4) or in reserved
bytes (L40S): 142 runs, ``docs/accuracy.md``. Half of them differ by 0.8 % at most."""


class TorchCuda(Torch):
    """PyTorch on a CUDA GPU."""

    place = "a CUDA GPU"
    replays = has_own_memory = holds_output = True
    inference_formats = (*BITSANDBYTES, *TORCHAO, *FP8_BLOCKS)
    """GPTQ and AWQ have rules only for their kernels that can train. None was measured in inference."""
    uncertainty = UNCERTAINTY
    uncertainty_of = "the most by which 95 of 100 published processes differ from their predictions"
    exactness = "exact to the byte but for process_at_least, a floor, and process_at_most, a measured ceiling"

    def release(self, plan: Any) -> str:
        return f"PyTorch {plan.torch}"

    def device_of(self, plan: Any) -> Device:
        return find(plan.device or DEFAULT_GPU)

    def runs_alike(self, plan: Any, device: Device) -> bool:
        return device.capability is not None and device.capability == self.device_of(plan).capability

    def against(self, plan: Any, device: Device | None) -> tuple[str, str]:
        return "process_at_least", "process_at_most"

    def without_rules(self, plan: Any) -> tuple[str, ...]:
        capability = self.device_of(plan).capability or (0, 0)
        if plan.dtype not in FP8_BLOCKS or capability[0] not in (9, 10):  # `deepgemm.py: is_deepgemm_loadable`
            return ()
        return ("layers' inputs in fp8, which DeepGEMM copies where transformers finds it and CUDA's compiler",)

    def kernels(self, plan: Any) -> Cuda:
        capability = self.device_of(plan).capability
        assert capability is not None  # ``check_step``
        return Cuda(capability, plan.sdpa_kernel)

    def beside(self, plan: Any) -> int:
        """Bytes of the CUDA context on the plan's device, by default ``DEFAULT_GPU``, and of NCCL."""
        return context_bytes(self.device_of(plan))[0] + sum(self._nccl(plan))

    def _nccl(self, plan: Any) -> tuple[int, int]:
        """Bytes of NCCL's buffers, and those that processes have beyond them, where runs show how many."""
        capability = self.device_of(plan).capability
        buffers = nccl_bytes(plan.sharding, capability, plan.torch) if capability else 0
        return buffers, FITTED if buffers and capability in NVLINK else 0

    def floors(self, job: Job) -> Mapping[str, int]:
        held = workspaces(job.step.procedure.runs_backward) * job.step.device.cublas_workspace
        outside = self.beside(job.plan) - (FITTED - LEAST if self._nccl(job.plan)[1] else 0)
        return {"allocated_at_least": held, "process_at_least": held + outside}

    def batches(self, plan: Any) -> list[Batch]:
        """The steps that are replayed, the plan's longest batch last (or first, where lengths are grouped).

        A plan with one length has a shorter batch before the longest. Cached memory is given back between them, as
        PyTorch does before it runs out of memory: the result is the least that the process needs. A plan with
        ``lengths`` has several of the run's batches before the longest. Cached memory is given back only if the loop
        does so (``empty_cache``): the result is what the process shows.

        A forward pass of inference runs twice, as in a process that answers many prompts. The second pass finds
        cuBLAS's workspace, cached blocks and perhaps the previous output. The first sets the allocated peak of the
        published runs (``tests/steps/test_forward_pass.py``).
        """
        if plan.generate is not None:
            return [Batch(plan.batch, plan.seq, False)]
        if plan.task == "infer":
            return [Batch(plan.batch, plan.seq, False)] * 2
        if plan.lengths is None:
            return [Batch(plan.batch, plan.shorter_seq, True), Batch(plan.batch, plan.seq, False)]
        lengths = plan.lengths.read()
        count = STEADY if len(lengths.counts) == 1 else REPRESENTATIVE
        return [Batch(plan.batch, seq, plan.empty_cache) for seq in lengths.representative_batches(plan.batch, count)]

    def logs(self, procedure: Procedure | None = None) -> Logs:
        from .process import Logs, OwnLogs

        return Logs() if procedure is None else OwnLogs(procedure)

    def usage(self, job: Job, peak: int, says_where: bool, logs: Logs) -> Usage:
        """The process in a budget. PyTorch gives cached blocks back before it runs out of memory, so a process may fit
        a budget that it exceeds on a larger device; the figures are then those within the budget. Where the live bytes
        exceed the budget it cannot fit, and is replayed within it only if ``says_where`` asks where it runs out.
        """
        from .process import replay as replayed

        batches, capacity, vllm = self.batches(job.plan), self.capacity(job.plan), None
        if job.plan.colocates:
            from ..vllm import colocated

            vllm = colocated.started(job)
            capacity = None if capacity is None else max(capacity - colocated.held_in_a_step(job, vllm), 0)
        hopeless = capacity is not None and peak > capacity
        used = None if hopeless and not says_where else replayed(job, batches, capacity, logs=logs)
        notes, lacking = [], None if used is None else used.lacking
        if used is not None and used.out_of_memory is not None:
            notes.append(f"out of memory in {used.out_of_memory}")
        elif used is not None and used.gave_back:
            notes.append("it fits because PyTorch's allocator gives cached memory back when there is none left")
        if used is None or used.out_of_memory is not None:
            used = replayed(job, batches, logs=logs)
        notes += said(*self._nccl(job.plan))
        if job.step.mixes_dtensors and job.step.procedure.trains:
            notes.append(
                "the optimizer has foreach=False, without which PyTorch's stops on a GPU: some parameters are DTensors "
                "and some are not"
            )
        if (passes := logs.passes(job, batches)) > 1:
            notes.append(
                f"in the allocator's replay one pass over a chunk of the sequence stands for {passes:,}; reserved "
                "bytes were within 2.5 % of those of all passes"
            )
        other = None if vllm is None else colocated.beside(job, vllm, used)
        notes += [] if other is None else [other.said]
        return used._replace(warnings=tuple(notes), beside=other, lacking=lacking)

    def replay(
        self,
        job: Job,
        batches: Sequence[Batch],
        capacity: int | None = None,
        timeline: Timeline | None = None,
        snapshot: Snapshot | None = None,
    ) -> Usage:
        """See ``process.py: replay``."""
        from .process import replay

        return replay(job, batches, capacity, timeline, snapshot=snapshot)


ENGINE = TorchCuda()
