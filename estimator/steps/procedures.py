"""What a step may run, by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..programs import Procedure

PROCEDURES = {
    "backpropagation": "train.Train",
    "forward-mode": "forward_gradient.ForwardGradient",
    "generate": "generate.Generate",
    "inference": "prefill.Prefill",
    "trainer": "trainer_step.TrainerStep",
    "zeroth-order": "zeroth_order.ZerothOrder",
}
"""File and class of each procedure, by its name: a method's (``MethodOptions.procedure``), or that of a task."""


def procedure_of(name: str, *options: Any) -> Procedure:
    """The procedure of a name with its own options. Its file is imported when it is first asked for."""
    module, _, procedure = PROCEDURES[name].partition(".")
    made: Procedure = getattr(import_module(f".{module}", __package__), procedure)(*options)
    return made
