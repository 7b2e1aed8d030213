"""The answer of a process on a CUDA GPU: what it allocates, what it reserves and whether it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..engines.torch_cuda.process import Batch, Logs, replay
from ..methods.traced import TracedMethod
from ..plans.devices import DEFAULT_GPU, context_bytes, find
from ..plans.plan import Plan
from ..plans.resolve import Resolved

if TYPE_CHECKING:
    from .result import Result
    from .traced_cuda import Tracer

REPRESENTATIVE = 8
"""Steps of a run with ``lengths`` that are replayed."""
STEADY = 3
"""Steps after which equal ones reserve no more: the first makes the optimizer's states, and the second may need
segments where they lie. So it is in all sixteen steps that ``benchmarks/c10_allocator`` replays."""


def batches_of(plan: Plan) -> list[Batch]:
    """The steps that are replayed, the plan's longest batch last (or first, where lengths are grouped).

    With one length given, a shorter batch comes before the longest, and PyTorch's cached memory is given
    back between them, as PyTorch itself does before it runs out: what the process needs then is what it
    needs at least. With ``lengths``, some of the run's batches come before, and nothing is given back
    unless the loop does so (``empty_cache``): what the process needs then is what it shows.

    A forward pass of inference is replayed twice, as a process that answers many prompts runs it: the second
    one finds cuBLAS's workspace and cached blocks, and perhaps the output before. The first sets the allocated
    peak of the published runs as well (``tests/test_infer.py``).
    """
    if plan.task == "infer":
        return [Batch(plan.batch, plan.seq, False)] * 2
    if plan.lengths is None:
        return [Batch(plan.batch, plan.shorter_seq, True), Batch(plan.batch, plan.seq, False)]
    lengths = plan.lengths.read()
    count = STEADY if len(lengths.counts) == 1 else REPRESENTATIVE
    return [Batch(plan.batch, seq, plan.empty_cache) for seq in lengths.representative_batches(plan.batch, count)]


def logs_of(resolved: Resolved, tracer: Tracer | None = None) -> Logs:
    """The logs of a plan's steps; a method without rules has its real module traced. Raises ``InputError``."""
    if tracer is None and isinstance(resolved.plan.method, TracedMethod):
        from .traced_cuda import Tracer

        tracer = Tracer(resolved)
    return Logs(resolved, tracer)


def context_of(plan: Plan) -> int:
    """Bytes of the CUDA context of a plan's device; of the default GPU where no device is named."""
    return context_bytes(find(plan.device or DEFAULT_GPU))[0]


def allocator_capacity(plan: Plan) -> int | None:
    """Bytes that the allocator's segments may take: the budget without the CUDA context."""
    budget = plan.budget_bytes()
    return None if budget is None else max(budget - context_of(plan), 0)


def with_usage(result: Result, resolved: Resolved, tracer: Tracer | None = None, says_where: bool = True) -> Result:
    """The answer with ``allocated_peak``, ``reserved_peak`` and ``process`` in bytes; with a budget, whether it runs.

    PyTorch gives cached blocks back before it runs out, so a process may fit a budget that it would exceed
    elsewhere; ``process`` is then what it takes within the budget. Where more is alive than there is room for, it runs
    out for sure: the replay within the budget only ``says_where``.
    """
    plan, budget, capacity = resolved.plan, result.budget_bytes, allocator_capacity(resolved.plan)
    batches, logs = batches_of(plan), logs_of(resolved, tracer)
    used = replay(resolved, batches, logs=logs)
    warnings = list(result.warnings)
    hopeless = capacity is not None and result.bytes["peak"] > capacity
    if capacity is not None and used.reserved_peak > capacity and (says_where or not hopeless):
        within = replay(resolved, batches, capacity, logs=logs)
        if within.out_of_memory is None:
            used = within
            warnings.append("it fits because PyTorch's allocator gives cached memory back when there is none left")
        else:
            warnings.append(f"out of memory in {within.out_of_memory}")
    sizes = {
        **result.bytes,
        "allocated_peak": used.allocated_peak,
        "reserved_peak": used.reserved_peak,
        "process": used.reserved_peak + context_of(plan),
    }
    fits = None if budget is None else sizes["process"] <= budget
    return replace(
        result, bytes=sizes, fits=fits, warnings=tuple(warnings), uncertainty=UNCERTAINTY, phases=used.phases
    )


UNCERTAINTY = 0.065
"""Share that 95 of 100 published processes are within, by the process (T4) or the reserved bytes (L40S) they had:
142 runs, ``docs/accuracy.md``. Half of them are within 0.8 %."""
