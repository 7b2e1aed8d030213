"""The moments of a run beside its step's, and the largest of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..moments.moment import Moment, Where
from ..moments.run import moments_of
from .result import STEP

if TYPE_CHECKING:
    from ..plans.resolve import Resolved
    from .result import Result


def with_moments(result: Result, resolved: Resolved) -> Result:
    """The result with the moments of the plan's run. Where memory has a budget, it is compared with the largest.

    What a process has beside its tensors is added to each: libraries on a CPU, the CUDA context on a GPU. Of moments
    outside the step the allocated bytes count, since PyTorch gives cached memory back before there is none left.
    """
    plan, sizes = resolved.plan, result.bytes
    assert plan.run is not None
    where: Where = "device" if resolved.step.device.has_own_memory else "host"
    taken = sizes.get("reserved_peak", sizes["peak"])
    step = Moment(STEP, where, taken, f"the peak of the training step: {result.peak_at}")
    first = _first_step(result, where)
    found, missing = moments_of(resolved, plan.run, sizes["resident"])
    loading = [one for one in found if one.moment == "loading"]
    moments = (*loading, *first, step, *(one for one in found if one.moment != "loading"))
    largest = max((one for one in moments if one.where == where and not one.beside), key=lambda one: one.held)
    run = largest.held + sizes["process"] - taken
    return replace(
        result,
        bytes={**sizes, "run": run},
        against="run",
        fits=None if result.budget_bytes is None else run <= result.budget_bytes,
        run_moments=moments,
        largest=largest,
        warnings=(*result.warnings, *missing),
    )


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
