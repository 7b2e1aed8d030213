"""A real step's allocations in PyTorch's snapshot format: what the profiler reports on a CPU."""

from __future__ import annotations

import gc
from typing import Any


def recorded_step(plan: Any) -> dict[str, Any]:
    """The snapshot of a plan's third step on a CPU, with the profiler's operators for frames."""
    import torch
    from torch._C._profiler import _EventType

    from estimator.operators import THREADS
    from estimator.plans.resolve import resolve
    from estimator.witnesses.measure import _step
    from estimator.witnesses.reference.model import build_model

    torch.set_num_threads(THREADS)
    resolved = resolve(plan)
    step = _step(resolved, build_model(resolved))
    step.run()
    step.run()
    gc.collect()
    gc.disable()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step.run()
    gc.enable()
    found: list[tuple[int, int, int, list[str]]] = []

    def walk(event: Any, above: list[str]) -> None:
        stack = [event.name, *above]
        if event.typed[0] == _EventType.Allocation:
            found.append((event.start_time_ns, event.typed[1].alloc_size, event.typed[1].ptr, stack[1:]))
        for child in event.children:
            walk(child, stack)

    for root in profile.profiler.kineto_results.experimental_event_tree():
        walk(root, [])
    trace = []
    for _, nbytes, address, stack in sorted(found, key=lambda row: row[0]):
        frames = [{"filename": "<profiler>", "line": 0, "name": name} for name in stack]
        actions = ("alloc",) if nbytes > 0 else ("free_requested", "free_completed")
        trace += [{"action": one, "addr": address, "size": abs(nbytes), "frames": frames} for one in actions]
    return {"segments": [], "device_traces": [trace]}
