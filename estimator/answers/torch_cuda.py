"""The result on a CUDA GPU: the bytes that the process allocates and reserves, and whether it runs out of memory."""

from __future__ import annotations

from dataclasses import replace

from ..engines.devices import DEFAULT_GPU, context_bytes, find
from ..engines.replay import Batch
from ..engines.torch_cuda.process import Logs, replay
from ..plans.plan import Plan
from ..plans.resolve import Resolved
from .result import Result

REPRESENTATIVE = 8
"""The number of steps of a run with ``lengths`` that are replayed."""
STEADY = 3
"""The number of equal steps after which another one reserves no more. The first step makes the optimizer's states, and
the second may need more segments because of them. All sixteen plans of ``benchmarks/c10_allocator`` confirm it."""


def batches_of(plan: Plan) -> list[Batch]:
    """The steps that are replayed, the plan's longest batch last (or first, where lengths are grouped).

    A plan with one length has a shorter batch before the longest. Cached memory is given back between them, as PyTorch
    does before it runs out of memory: the result is the least that the process needs. A plan with ``lengths`` has
    several of the run's batches before the longest. Cached memory is given back only if the loop does so
    (``empty_cache``): the result is what the process shows.

    A forward pass of inference runs twice, as in a process that answers many prompts. The second pass finds cuBLAS's
    workspace, cached blocks and perhaps the previous output. The first sets the allocated peak of the published runs
    (``tests/steps/test_forward_pass.py``).
    """
    if plan.task == "infer":
        return [Batch(plan.batch, plan.seq, False)] * 2
    if plan.lengths is None:
        return [Batch(plan.batch, plan.shorter_seq, True), Batch(plan.batch, plan.seq, False)]
    lengths = plan.lengths.read()
    count = STEADY if len(lengths.counts) == 1 else REPRESENTATIVE
    return [Batch(plan.batch, seq, plan.empty_cache) for seq in lengths.representative_batches(plan.batch, count)]


def context_of(plan: Plan) -> int:
    """Bytes of the CUDA context on the plan's device, by default ``DEFAULT_GPU``."""
    return context_bytes(find(plan.device or DEFAULT_GPU))[0]


def allocator_capacity(plan: Plan) -> int | None:
    """The most bytes that the allocator may reserve: the budget without the CUDA context."""
    budget = plan.budget_bytes()
    return None if budget is None else max(budget - context_of(plan), 0)


def with_usage(result: Result, resolved: Resolved, says_where: bool = True, logs: Logs | None = None) -> Result:
    """The result with ``allocated_peak``, ``reserved_peak`` and ``process`` in bytes, and whether they fit the budget.

    PyTorch gives cached blocks back before it runs out of memory, so a process may fit a budget that it exceeds on a
    larger device; ``process`` is then what it takes within the budget. Where the live bytes exceed the budget it cannot
    fit, and is replayed within the budget only if ``says_where`` asks where it runs out of memory.
    """
    plan, budget, capacity = resolved.plan, result.budget_bytes, allocator_capacity(resolved.plan)
    batches, logs = batches_of(plan), logs or Logs(resolved)
    warnings = list(result.warnings)
    hopeless = capacity is not None and result.bytes["peak"] > capacity
    used = None if hopeless and not says_where else replay(resolved, batches, capacity, logs=logs)
    if used is not None and used.out_of_memory is not None:
        warnings.append(f"out of memory in {used.out_of_memory}")
    elif used is not None and used.gave_back:
        warnings.append("it fits because PyTorch's allocator gives cached memory back when there is none left")
    if used is None or used.out_of_memory is not None:
        used = replay(resolved, batches, logs=logs)
    if logs.passes > 1:
        warnings.append(
            f"in the allocator's replay one pass over a chunk of the sequence stands for {logs.passes:,}; reserved "
            "bytes were within 2.5 % of those of all passes"
        )
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
"""The share by which 95 of 100 published processes differ at most from predictions, in the process (T4) or in reserved
bytes (L40S): 142 runs, ``docs/accuracy.md``. Half of them differ by 0.8 % at most."""
