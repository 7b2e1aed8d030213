"""How many bytes a fine-tuning step of a transformer language model needs, and where its peak is."""

from __future__ import annotations

from . import startup as startup  # before all others

# isort: split
from .answers.estimate import estimate
from .answers.result import Result
from .answers.user_modules import record, step
from .errors import InputError
from .io.version import __version__ as __version__
from .plans.plan import Plan
from .questions import (
    advise,
    callback,
    check,
    compare,
    devices,
    formula,
    max_batch,
    max_context,
    max_rank,
    max_seq,
    models,
    smallest_cluster,
    smallest_device,
    sweep,
)

__all__ = [
    "InputError",
    "Plan",
    "Result",
    "advise",
    "callback",
    "check",
    "compare",
    "devices",
    "estimate",
    "formula",
    "max_batch",
    "max_context",
    "max_rank",
    "max_seq",
    "models",
    "record",
    "smallest_cluster",
    "smallest_device",
    "step",
    "sweep",
]
