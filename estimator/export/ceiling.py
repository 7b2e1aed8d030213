"""On a GPU: how far the process may lie above the closed-form floor, from replays of the plan itself.

Reserved bytes follow from the whole history of allocations, so they have no formula. What lies between them and the
floor is cached memory that fits no request: it grows with what a step holds, beside the allocator's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..answers.estimate import Progress, answer
from ..plans.plan import Plan
from ..plans.refusals import positions_of
from ..plans.resolve import resolve
from .components import floors

_SPANS: Mapping[str, tuple[int, int]] = {"batch": (1, 16), "seq": (64, 16384), "r": (2, 64)}
"""The values that are tried, but for tokens at positions that a model has not learned."""
_BASES = (2, 3, 5)
REPLAYS = 64
"""Values that are tried. Those that the card cannot hold are left out."""
_PRECISION = 1000


@dataclass(frozen=True)
class Ceiling:
    """process <= process_at_least + ``constant`` + ``share`` of peak_above_resident, at every replay."""

    constant: int
    """Bytes."""
    share: Fraction
    replays: int
    largest: Mapping[str, int]
    """The largest value of each variable that was replayed."""

    lacking: int
    """The most bytes of the peak that the formulas lack: the partial results of a reduction that several thread blocks
    share, of which there is no polynomial."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the ceiling comes from, and what the replays showed of the peak."""
        spans = ", ".join(f"{name} up to {value}" for name, value in self.largest.items())
        replays = f"{self.replays} replays of this plan ({spans})"
        above = f"peak_above_resident, peak: in {replays} up to {self.lacking:,} B more, partial results of reductions"
        ceiling = f"process_at_most: the largest gap of {replays}; measured, not proved"
        return (*([above] if self.lacking else []), ceiling)


def ceiling_of(
    plan: Plan,
    names: Sequence[str],
    at: Callable[[Mapping[str, int]], Mapping[str, int]],
    progress: Progress = lambda: None,
) -> Ceiling:
    """The ceiling of a plan on a GPU with these variables, from replays at values that its card can hold.

    ``at`` gives what formulas say at values of the variables, in bytes.
    """
    most = {"seq": int(min(_SPANS["seq"][1], positions_of(resolve(plan), "seq")))}
    spans = {name: (min(low, most.get(name, low)), most.get(name, high)) for name, (low, high) in _SPANS.items()}
    points = [{name: 1 if name == "batch" else spans[name][0] for name in names}]
    points += [
        {name: _between(*spans[name], _fraction(i, base)) for name, base in zip(names, _BASES, strict=False)}
        for i in range(1, REPLAYS)
    ]
    device = plan.engine.device_of(plan)
    assert device is not None
    rows: list[tuple[int, int, int, dict[str, int]]] = []
    kept: dict[str, Any] = {}
    below, lacking = floors(plan)["process_at_least"], 0
    for point in points:
        progress()
        formulas = at(point)
        if rows and formulas["process_at_least"] > device.total_bytes:
            continue
        sizes = answer(_with(plan, point), kept).bytes
        lacking = max(lacking, sizes["peak"] - formulas["peak"])
        gap = sizes["process"] - sizes["peak"] - below
        rows.append((gap, sizes["peak_above_resident"], sizes["process"], point))
    constant, share = min(
        ((gap, _share(rows, gap)) for gap, *_ in rows if gap >= 0),
        key=lambda line: sum((line[0] + line[1] * above) / process for _, above, process, _ in rows),
    )
    largest = {name: max(point[name] for *_, point in rows) for name in names}
    return Ceiling(constant, share, len(rows), largest, lacking)


def _share(rows: Sequence[tuple[int, int, int, dict[str, int]]], constant: int) -> Fraction:
    """The least share of what a step holds that, beside a constant, covers every gap; rounded up."""
    share = max(Fraction(max(gap - constant, 0), above) for gap, above, *_ in rows)
    return Fraction(-(-share.numerator * _PRECISION // share.denominator), _PRECISION)


def _fraction(number: int, base: int) -> float:
    """The number's digits behind the point, mirrored (van der Corput): numbers in a row lie far apart."""
    found, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        found += digit * weight
    return found


def _between(low: int, high: int, share: float) -> int:
    """A whole number between two, evenly on a logarithmic scale."""
    return int(low * (high / low) ** share)


def _with(plan: Plan, point: Mapping[str, int]) -> Plan:
    """The plan at a point, without a budget, within which the allocator would give cached memory back."""
    changed: dict[str, object] = {name: value for name, value in point.items() if name != "r"}
    if "r" in point:
        changed["method"] = plan.method.model_copy(update={"r": point["r"]})
    return plan.model_copy(update=changed)
