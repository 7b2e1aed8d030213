"""The components of a step that have formulas, and what those depend on of a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..plans.plan import Plan
from ..plans.resolve import resolve
from ..steps.trainers import TRAINERS

EXPORTED: Mapping[str, str] = {
    "parameters": "all parameters, adapters included",
    "adapters": "parameters that the method adds",
    "buffers": "buffers of the model, such as rotary frequencies",
    "gradients": "all gradients at the end of backward",
    "optimizer": "optimizer states after the first step",
    "saved": "activations saved for backward",
    "kv_cache": "keys and values that the model returns (task infer)",
    "communication": "what sharding keeps between steps (sharding)",
    "reference": "parameters of all frozen models beside the one that trains (trainer)",
    "resident": "parameters, buffers and optimizer states, before the step",
    "peak_above_resident": "the most that a step holds at once above resident",
    "peak": "the most that a step holds at once, resident included",
    "allocated_at_least": "the least that torch.cuda.max_memory_allocated can be (runtime torch-cuda)",
    "process_at_least": "allocated_at_least and the CUDA context: a card with less cannot run it (runtime torch-cuda)",
}
"""The formulas that can be exported, with their meanings. All are numbers of bytes."""


def exported(plan: Plan) -> list[str]:
    """The formulas of ``EXPORTED`` that the plan's task and runtime have."""
    missing = {"kv_cache"} if plan.task != "infer" else set()
    missing |= {"communication"} if plan.sharding is None else set()
    missing |= set() if plan.trainer in TRAINERS else {"reference"}
    missing |= set() if plan.engine.replays else set(FLOORS)
    return [name for name in EXPORTED if name not in missing]


FLOORS = ("allocated_at_least", "process_at_least")
"""Components of a step whose process is replayed."""


def floors(plan: Plan) -> Mapping[str, int]:
    """The components that are the peak and a constant, and the constant in bytes."""
    return plan.engine.floors(resolve(plan))


def plan_summary(plan: Plan) -> dict[str, Any]:
    """The keys of a plan that its formulas depend on."""
    keys = plan.model_dump(mode="json", exclude={"batch", "seq", "device", "budget", "method"})
    method = {"name": plan.method.name, **plan.method.model_dump(mode="json", exclude_defaults=True)}
    if plan.sharding is not None:
        keys["sharding"] = plan.sharding.model_dump(mode="json", exclude_defaults=True)
    return {**keys, "method": method}


def plan_line(plan: Plan) -> str:
    """``plan_summary`` as one line of JSON, without the less usual keys that have their defaults.

    The line is ASCII, so that a line break in a file's name cannot end a comment.
    """
    named = {"model", "dtype", "attention", "method"}
    if plan.task == "train":
        named |= {"checkpointing", "optimizer"}
    named |= plan.model_dump(exclude_defaults=True).keys()
    return json.dumps({key: value for key, value in plan_summary(plan).items() if key in named})
