"""From a plan to its answer: resolve names, run the ledger, read totals and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..ledger.sizes import whole
from ..methods.traced import TracedMethod
from ..operators import Cuda
from ..plans.flat import nested
from ..plans.lengths import quantile
from ..plans.plan import Plan, parse_plan
from ..plans.resolve import Resolved, capability_of, refuse_tracing, resolve
from ..steps.step import StepTotals, run
from ..text import human
from .result import COMPONENTS, Result, make_result

if TYPE_CHECKING:
    from .traced_cuda import Tracer


def estimate(plan: Plan | Mapping[str, Any] | str | None = None, /, **keys: Any) -> Result:
    """Answer a plan: a ``Plan``, a mapping of its keys, or a model's name and the keys themselves.

    Keys of a plan's block (of its method, ``generate`` or ``llama_cpp``) may be given beside the plan's own.

    Raises:
        InputError: for wrong input.

    Examples:
        >>> estimate("llama-3.2-1b", method="lora", r=16, seq=2048).peak_at
        'loss backward'

    """
    if isinstance(plan, str):
        if "model" in keys:
            raise TypeError("give the model once")
        plan = {"model": plan}
    if not isinstance(plan, Plan):
        plan = parse_plan(nested(plan or {}, keys))
    elif keys:
        raise TypeError("give a plan or keys, not both")
    if plan.runtime == "llama.cpp":
        from . import llama_cpp

        return llama_cpp.estimate(plan)
    resolved = resolve(plan)
    if isinstance(plan.method, TracedMethod):
        refuse_tracing(plan)
        try:
            result = _traced(resolved)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"method {plan.method.name} cannot be traced with these options "
                f"({type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else 'no message'})"
            ) from None
        from importlib.metadata import version

        note = (
            f"method {plan.method.name} has no rules here: these are the bytes of a trace of the installed PEFT's own "
            f"module, release {version('peft')}; others may run it differently "
            "(peak without what a kernel takes inside)"
        )
        return replace(result, warnings=(*result.warnings, note))
    totals = run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    result = to_result(resolved, totals)
    return result if plan.lengths is None else replace(result, run=_run_of(plan, result))


def _run_of(plan: Plan, result: Result) -> dict[str, Any]:
    """What a run over the plan's lengths meets: its batches, the longest, and how likely it is to run out of memory.

    A run dies of the first batch that does not fit, so the longest length that fits is looked for among the
    lengths that its batches have, by estimates of each on its own.
    """
    assert plan.lengths is not None
    lengths = plan.lengths.read()
    batches = lengths.batches(plan.batch, plan.gradient_accumulation_steps)
    found: dict[str, Any] = {"batches": batches, "longest_seq": plan.seq}
    if result.budget_bytes is not None:
        widths = [width for width, _ in lengths.batch_distribution(plan.batch)]
        # Whether the longest fits is known.
        below, above = (len(widths) - 1, len(widths)) if result.fits else (-1, len(widths) - 1)
        while above - below > 1:
            middle = (below + above) // 2
            one = estimate(plan.model_copy(update={"lengths": None, "seq": widths[middle]}))
            below, above = (middle, above) if one.fits else (below, middle)
        fitting = widths[below] if below >= 0 else 0
        found["longest_seq_that_fits"] = fitting
        found["oom_probability"] = lengths.probability_of_exceeding(fitting, plan.batch, batches)
    if plan.runtime == "torch-cuda":
        found["reserved_quantiles"] = {}
        distribution = lengths.batch_distribution(plan.batch)
        for share in _QUANTILES:
            alone = plan.model_copy(update={"lengths": None, "seq": quantile(distribution, share)})
            found["reserved_quantiles"][str(share)] = estimate(alone).bytes["reserved_peak"]
    return found


_QUANTILES = (0.5, 0.9, 0.99)
"""Shares of a run's batches for which it is said what none of them reserves more than, cached memory given back
before each."""


def _traced(resolved: Resolved) -> Result:
    """The answer from a trace of PEFT's own module."""
    if resolved.plan.runtime == "torch-cpu":
        from .traced import trace_step

        return to_result(resolved, trace_step(resolved))
    from .traced_cuda import Tracer

    tracer = Tracer(resolved)
    return to_result(resolved, tracer.totals(resolved.plan.batch, resolved.plan.seq), tracer)


def to_result(resolved: Resolved, totals: StepTotals, tracer: Tracer | None = None, says_where: bool = True) -> Result:
    """The answer from a step's totals, all of them integers; on a GPU, of a method without rules, with its tracer.

    ``says_where``: a warning says where a process without hope runs out of a GPU's memory.
    """
    result = live_of(resolved, totals)
    if resolved.plan.runtime != "torch-cuda":
        return result
    from . import torch_cuda

    if totals.math_attention:
        note = _math_note(resolved, totals.math_attention, result.bytes["peak_above_resident"])
        result = replace(result, warnings=(*result.warnings, note))
    return torch_cuda.with_usage(result, resolved, tracer, says_where)


def live_result(resolved: Resolved) -> Result:
    """The answer of a method with rules before a GPU's runtime adds allocator, context and verdict.

    For what only asks about live bytes, ``peak``, which are never above ``process``. Raises ``InputError``.
    """
    plan = resolved.plan
    return live_of(resolved, run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq))


def live_of(resolved: Resolved, totals: StepTotals) -> Result:
    """The answer from a step's totals before a GPU's runtime adds allocator, context and verdict."""
    moments = {name: max(whole(v) for v in values) for name, values in totals.moments.items()}
    components = {name: whole(getattr(totals, name)) for name in COMPONENTS}
    result = make_result(resolved.plan, resolved.spec, components, moments)
    if not totals.host_pinned:
        return result
    return replace(result, bytes={**result.bytes, "host_pinned": totals.host_pinned})


def _math_note(resolved: Resolved, why: str, peak: int) -> str:
    """That attention is quadratic, what it costs against a kernel that is not, and what avoids it."""
    cost, plan = "", resolved.plan
    if not isinstance(plan.method, TracedMethod):
        step = replace(resolved.step, device=Cuda(capability_of(plan.device), "efficient"))
        with suppress(InputError):  # which does not take this dtype or head size on this device
            totals = run(step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
            least = max(whole(v) for values in totals.moments.values() for v in values)
            cost = f", here {human(max(peak - least, 0))} more at the peak than the memory-efficient kernel needs"
    return f"attention runs PyTorch's math kernel, whose memory grows with the square of the sequence{cost}: {why}"
