"""A measured step beside its prediction."""

from __future__ import annotations

from typing import Any

from ..plans.plan import Plan
from ..witnesses.measure import measured
from .estimate import estimate


def measure(plan: Plan, default_malloc: bool = False) -> dict[str, Any]:
    """The plan, the measurements of a process that ran it, and the prediction; sizes are bytes.

    ``default_malloc`` leaves glibc's mmap threshold as it is (``witnesses/measure.py``). Raises ``InputError``.
    """
    return {
        "plan": plan.model_dump(exclude_none=True),
        "measured": measured(plan, default_malloc),
        "predicted": estimate(plan).to_dict(),
    }
