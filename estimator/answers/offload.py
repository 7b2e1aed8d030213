"""What devices have room for of a model in llama.cpp: the most layers, the best split, and the largest recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from ..engines.engine import Limit
from ..engines.llama_cpp.recipes import RECIPES
from ..errors import InputError, options
from ..plans.margins import NO_MARGIN, STATED, Margin, verdict_of
from ..plans.models import load
from ..plans.plan import Plan, parse_plan
from .estimate import Progress
from .max_context import RUNTIME, check_limited, check_runtime
from .result import Result, result_of
from .tabular import Brief, Tabular

_EXAMPLE = ["rtx-3090", "rtx-3060"]
MOVES = 64
"""The most layers that are moved from one device to another in search of a split."""


def _limits_of(result: Result, limits: Sequence[Limit]) -> dict[str, Any]:
    """An estimate and its limits; sizes are bytes."""
    return {
        "bytes": dict(result.bytes),
        "devices": [dict(one) for one in result.devices],
        "limits": [
            {"counted": one.against, "bytes": one.needed, "limit_bytes": one.budget, "left_bytes": one.left}
            for one in limits
        ],
        "warnings": list(result.warnings),
        "assumptions": [asdict(one) for one in result.assumptions],
    }


@dataclass(frozen=True, repr=False)
class Layers(Tabular):
    """The most layers that devices have room for."""

    plan: Plan
    """The plan at the answer; without one, with no layers on devices."""
    answer: int | None
    """The layers on devices, the output counted as one; ``None`` where not even none fits."""
    of: int
    """All layers and the output."""
    split: tuple[int, ...]
    """How many of them each device has."""
    limits: tuple[Limit, ...]
    result: Result
    """The estimate of the plan."""

    @property
    def verdict(self) -> str:
        """``all``, ``some`` or ``none``, or ``does not fit``."""
        if self.answer is None:
            return "does not fit"
        return "all" if self.answer == self.of else "some" if self.answer else "none"

    def _brief(self) -> Mapping[str, object]:
        return {"model": self.plan.model, "n_gpu_layers": self.answer, "of": self.of, "split": self.split}

    def records(self) -> list[dict[str, Any]]:
        """A row for each device, in bytes."""
        return [{"name": one["name"], **one["bytes"]} for one in self.result.devices]

    def to_dict(self) -> dict[str, Any]:
        """The answer as an object."""
        own = {"model": self.plan.model, "answer": self.answer, "of": self.of, "tensor_split": list(self.split)}
        return {**own, "verdict": self.verdict, **_limits_of(self.result, self.limits)}


def most_layers(plan: Plan | Mapping[str, Any], progress: Progress = lambda: None, margin: Margin = STATED) -> Layers:
    """The most layers on the plan's devices, and how they are best shared out. Raises ``InputError``.

    A plan with ``tensor_split`` keeps it. Else layers move from the device that has least left to the one with most,
    until all keep the margin.
    """
    if not isinstance(plan, Plan):
        plan = parse_plan({"runtime": RUNTIME, **plan})
    check_runtime(plan.runtime, "max-gpu-layers")
    engine, uncertainty = plan.engine, plan.engine.uncertainty
    count = engine.places(plan)
    if not count:
        raise InputError(
            f"this question needs GPUs that layers are put on; name one, or several: {options({'devices': _EXAMPLE})}"
        )
    check_limited(plan)
    model = engine.model(plan, load)
    whole = engine.layers(model) + 1
    fixed = count == 1 or plan.llama_cpp.shares > 0

    def at(layers: int, split: Sequence[int]) -> Plan:
        block = (
            {"n_gpu_layers": layers} if fixed else {"n_gpu_layers": layers, "tensor_split": tuple(map(float, split))}
        )
        return plan.model_copy(update={"llama_cpp": plan.llama_cpp.model_copy(update=block)})

    @cache
    def limits(layers: int, split: tuple[int, ...]) -> tuple[Limit, ...]:
        progress()
        return engine.limits(at(layers, split), model)

    def left(layers: int, split: tuple[int, ...]) -> list[int]:
        return [margin.left(one, uncertainty) for one in limits(layers, split)]

    def found(layers: int) -> tuple[int, ...] | None:
        """A split of so many layers that fits; ``None`` without one."""
        split = engine.shared_out(plan, layers) if layers else (1,) * count
        if fixed or not layers:
            return split if min(left(layers, split)) >= 0 else None
        seen: set[tuple[int, ...]] = set()
        while split not in seen and len(seen) < MOVES:
            seen.add(split)
            rest = left(layers, split)
            if min(rest) >= 0:
                return split
            devices = rest[:count]
            worst = min((i for i in range(count) if split[i]), key=lambda i: devices[i])
            best = max(range(count), key=lambda i: devices[i])
            moved = list(split)
            moved[worst] -= 1
            moved[best] += 1
            split = tuple(moved)
        return None

    fits, above = 0, whole + 1
    best = found(0)
    while above - fits > 1:
        middle = whole if above > whole and fits == 0 and best is not None else (fits + above) // 2
        split = found(middle)
        fits, above, best = (middle, above, split) if split is not None else (fits, middle, best)
    split = best or (1,) * count
    result = result_of(at(fits, split), engine.figures(at(fits, split), model), margin)
    answer = None if best is None else fits
    return Layers(at(fits, split), answer, whole, split if fits else (0,) * count, limits(fits, split), result)


@dataclass(frozen=True, repr=False)
class Quant(Brief):
    """One recipe of ``llama-quantize``, and whether it fits."""

    plan: Plan
    result: Result
    limits: tuple[Limit, ...]
    verdict: str
    """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""

    def _brief(self) -> Mapping[str, object]:
        return {"model": self.plan.model, "dtype": self.plan.dtype, "verdict": self.verdict}

    def to_dict(self) -> dict[str, Any]:
        """The recipe as an object."""
        return {"dtype": self.plan.dtype, "verdict": self.verdict, **_limits_of(self.result, self.limits)}


def quants(plan: Plan | Mapping[str, Any], progress: Progress = lambda: None, margin: Margin = STATED) -> list[Quant]:
    """The recipes in 16 bits or fewer, the largest first, down to the first that fits, which is the last of the list.

    Without one that fits it is all of them. Of those that make the same size there is one. Raises ``InputError``.
    """
    if not isinstance(plan, Plan):
        plan = parse_plan({"runtime": RUNTIME, **plan})
    if plan.from_gguf:
        raise InputError("a GGUF file has its own types; give the model's name or its config.json to compare recipes")
    check_runtime(plan.runtime, "largest-quant")
    check_limited(plan)
    engine, found = plan.engine, []
    sizes: dict[int, tuple[Plan, Any]] = {}
    for recipe in RECIPES:
        one = plan.model_copy(update={"dtype": recipe})
        model = engine.model(one, load)
        sizes.setdefault(engine.stored(model), (one, model))
    for _, (one, model) in sorted(sizes.items(), reverse=True)[1:]:
        figures = engine.figures(one, model)
        safe, fits = (
            all(kept.left(limit, engine.uncertainty) >= 0 for limit in figures.limits) for kept in (margin, NO_MARGIN)
        )
        found.append(Quant(one, result_of(one, figures, margin), figures.limits, verdict_of(fits, safe)))
        progress()
        if safe:
            break
    return found
