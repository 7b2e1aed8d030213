"""What two logs of allocations have in common."""

from __future__ import annotations

from typing import Any

from estimator.engines.torch_cuda.process import Log


def entries(log: Log) -> list[Any]:
    """The log with numbers in the order of allocation and the marks between, up to where the collector frees the model.

    What has no bytes is left out: a run with symbols notes it, and a run with numbers need not.
    """
    events, numbers, found = log.events, dict[int, int](), list[Any]()
    marks: dict[int, list[str]] = {}
    for name, at in (*events.marks.items(), *events.products.items()):
        marks.setdefault(at, []).append(name)
    for at, entry in enumerate(events.order[: events.marks["end"]]):
        found += sorted(marks.get(at, ()))
        if entry >= 0 and events.sizes[entry]:
            numbers[entry] = len(numbers)
            about = entry in events.saved, events.gradients.get(entry), events.copies.get(entry)
            found.append((events.sizes[entry], *about))
        elif entry < 0 and ~entry in numbers:
            found.append(numbers[~entry])
    return found
