"""How many bytes a fine-tuning step of a transformer language model needs, and where its peak is."""

from __future__ import annotations

from .answers.estimate import estimate
from .answers.own import record, step
from .answers.result import Result
from .errors import InputError
from .plans.plan import Plan

__all__ = ["InputError", "Plan", "Result", "estimate", "record", "step"]
__version__ = "0.4.0"
