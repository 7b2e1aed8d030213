"""The moments of a run beside its step's, and the largest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engines.engine import HOST, Limit, host_limit
from ..errors import InputError
from ..moments.moment import Moment, Where
from ..moments.run import moments_of
from ..text import human
from .result import STEP, judged

if TYPE_CHECKING:
    from ..plans.resolve import Resolved
    from .result import Result


def with_moments(result: Result, resolved: Resolved) -> Result:
    """The result with the moments of the plan's run, or with the one that it asks for alone.

    Where memory has a budget, it is compared with the largest. Raises ``InputError`` for a moment that the run does not
    have.

    What a process has beside its tensors is added to each: libraries on a CPU, the CUDA context on a GPU. Of moments
    outside the step the allocated bytes count, since PyTorch gives cached memory back before there is none left.
    """
    plan, sizes = resolved.plan, result.bytes
    where: Where = "device" if resolved.step.device.has_own_memory else "host"
    taken = sizes.get("reserved_peak", sizes["peak"])
    step = Moment(STEP, where, taken, f"the peak of the training step: {result.peak_at}")
    first = _first_step(result, where)
    if "host_all" in sizes:
        of_all = f"all processes of a host, each with {human(sizes['host_peak'])} of parameters, gradients and states"
        first.append(Moment(STEP, "host", sizes["host_all"], of_all, beside=True))
    found, missing = moments_of(resolved, plan.run, sizes["resident"], sizes["parameters"] + sizes["buffers"])
    before = [one for one in found if one.moment in ("loading", "precomputing")]
    moments = (*before, *first, step, *(one for one in found if one not in before))
    warnings = result.warnings
    if (asked := None if plan.run is None else plan.run.moment) is not None:
        warnings = warnings if asked in (STEP, "first step") else ()  # which are about the step
        moments = tuple(one for one in moments if one.moment == asked)
        missing = [why for why in missing if why.startswith(asked)]
    compared = [one for one in moments if one.where == where and not one.beside]
    if not compared:
        raise InputError(f"moment {asked}: {_absent(missing, moments, where)}")
    largest = max(compared, key=lambda one: one.held)
    run = largest.held + sizes["process"] - taken
    host = host_limit(sizes.get(HOST, 0), result.host_memory)
    budget = plan.budget_bytes() if host else result.budget_bytes
    verdict, exceeded = judged((Limit("run", run, budget, run), *host), result.uncertainty)
    return replace(
        result,
        **verdict,
        bytes={**sizes, "run": run},
        run_moments=moments,
        largest=largest,
        warnings=(*(one for one in warnings if one not in exceeded), *missing, *exceeded),
    )


def _absent(missing: Sequence[str], moments: Sequence[Moment], where: Where) -> str:
    """Why the moment that was asked for has no bytes to compare."""
    if missing:
        return missing[0].partition(";")[0]
    if moments:
        return f"it takes nothing of its own on the {where}; leave the moment out, to see what it takes elsewhere"
    return "this run does not have it; evaluation needs eval_samples, and a first step of its own an optimizer's states"


def _first_step(result: Result, where: Where) -> list[Moment]:
    """The first step, live: its forward and backward run before the optimizer has states, which its update makes.

    None where the update is no moment of the step: it makes nothing but states, whose gradients are not known here.
    """
    sizes = result.bytes
    update = result.moments.get("optimizer step")
    if update is None:
        return []
    before = max((nbytes for name, nbytes in result.moments.items() if name != "optimizer step"), default=0)
    fixed = sizes["parameters"] + sizes["buffers"]
    if before >= update + sizes["optimizer"]:
        return [Moment("first step", where, fixed + before, "forward and backward, before the optimizer has states")]
    return [Moment("first step", where, fixed + sizes["optimizer"] + update, "the update, which makes the states")]
