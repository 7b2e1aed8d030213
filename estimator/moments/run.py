"""All moments of a run beside its step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .evaluation import evaluation
from .loading import loading, unknown
from .moment import Moment
from .weights import weights_of

if TYPE_CHECKING:
    from ..plans.resolve import Resolved
    from .options import RunOptions


def moments_of(resolved: Resolved, options: RunOptions, resident: int) -> tuple[list[Moment], list[str]]:
    """The moments of a run in their order, without its steps, and a sentence for each that has no rule.

    ``resident`` is the bytes of parameters, buffers and optimizer states.
    """
    weights = weights_of(resolved)
    found, missing = list[Moment](), list[str]()
    if why := unknown(resolved, weights):
        missing.append(f"loading has no rule with {why}; the run's moments are without it")
    else:
        found += loading(resolved, options, weights)
    found += evaluation(resolved, options, resident)
    return found, missing
