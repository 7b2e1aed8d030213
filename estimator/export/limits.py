"""What a plan's budget or device limits: the components that its bytes are held against."""

from __future__ import annotations

from typing import NamedTuple

from ..engines.devices import find
from ..errors import InputError
from ..plans.plan import Plan


class Limit(NamedTuple):
    """A limit in bytes, and the components of which it is: what is needed at least, and at most."""

    least: str
    most: str
    nbytes: int


def limits_of(plan: Plan, replayed: bool = False) -> list[Limit]:
    """The limits of a plan; none without a budget or a device. Raises ``InputError``.

    ``replayed``: the bytes are those of an estimate, which knows a GPU's process itself.
    """
    if plan.host_memory is not None:
        raise InputError("host_memory is in no exported function or table; leave it out, and ask estimate")
    budget = plan.budget_bytes()
    if budget is None:
        return []
    device = None if plan.device is None else find(plan.device)
    engine = plan.engine
    names = ("process", "process") if replayed and engine.replays else engine.against(plan, device)
    found = [Limit(*names, budget)]
    if engine.maps_weights and device is not None and device.ram is not None:
        found.append(Limit("used", "used", max(device.ram, budget)))
    return found
