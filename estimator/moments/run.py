"""All moments of a run beside its step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import checkpoint, loading, merging
from .data_loading import data_loading
from .evaluation import evaluation
from .moment import Moment
from .precomputing import precomputing
from .saving import saving
from .weights import weights_of

if TYPE_CHECKING:
    from ..engines.engine import Job
    from .options import RunOptions


def moments_of(job: Job, options: RunOptions | None, resident: int, fixed: int) -> tuple[list[Moment], list[str]]:
    """The moments of a run in their order, without its steps, and a sentence for each that has no rule.

    ``resident`` is the bytes of parameters, buffers and optimizer states, ``fixed`` without the last. Without
    ``options`` only what a trainer's own keys ask for is a moment.
    """
    if options is None:
        return precomputing(job, None, fixed), []
    weights = weights_of(job)
    found, missing = list[Moment](), list[str]()

    def knows(moment: str, why: str) -> bool:
        if why:
            missing.append(f"{moment} has no rule with {why}; the run's moments are without it")
        return not why

    if knows("loading", loading.unknown(job, weights)):
        found += loading.loading(job, options, weights)
    found += precomputing(job, options, fixed)
    found += data_loading(job, options)
    found += evaluation(job, options, resident)
    sharding = job.step.sharding
    gathered = "" if sharding is None or sharding.name == "ddp" else f"sharding: {sharding.name}"
    if knows("saving", gathered or checkpoint.unknown(job, weights)):
        found += saving(job, options, checkpoint.checkpoint_of(job, weights), resident)
    merges = options.merge_and_unload or options.moment == "merging"
    if merges and knows("merging", gathered or merging.unknown(job, weights)):
        found += merging.merging(job, options, weights)
    return found, missing
