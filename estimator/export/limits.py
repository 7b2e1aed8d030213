"""What a plan's budget or device limits: the components that its bytes are held against."""

from __future__ import annotations

from typing import NamedTuple

from ..answers import llama_cpp
from ..engines.devices import Device, find
from ..plans.plan import Plan

_COUNTED = {"all": "process", "used": "used", "dirty": "dirty"}
"""The component of a llama.cpp process that a device's system counts."""


class Limit(NamedTuple):
    """A limit in bytes, and the components of which it is: what is needed at least, and at most."""

    least: str
    most: str
    nbytes: int


def against(plan: Plan, device: Device | None) -> tuple[str, str]:
    """The components that a device's memory, or a budget, is held against."""
    if plan.runtime == "torch-cuda":
        return "process_at_least", "process_at_most"
    if plan.runtime != "llama.cpp":
        return "process", "process"
    on_card = llama_cpp.backend_of(plan) in ("cuda", "vulkan")
    name = "device" if on_card else "process" if device is None else _COUNTED[device.counts]
    return name, name


def ram_of(device: Device) -> int | None:
    """Where dirty memory alone is limited: the RAM that mapped weights must find room in, too."""
    return device.total_bytes - device.system_bytes if device.counts == "dirty" else None


def limits_of(plan: Plan, replayed: bool = False) -> list[Limit]:
    """The limits of a plan; none without a budget or a device. Raises ``InputError``.

    ``replayed``: the bytes are those of an estimate, which knows a GPU's process itself.
    """
    budget = plan.budget_bytes()
    if budget is None:
        return []
    device = None if plan.device is None else find(plan.device)
    names = ("process", "process") if replayed and plan.runtime == "torch-cuda" else against(plan, device)
    found = [Limit(*names, budget)]
    if plan.runtime == "llama.cpp" and device is not None and (ram := ram_of(device)) is not None:
        found.append(Limit("used", "used", max(ram, budget)))
    return found
