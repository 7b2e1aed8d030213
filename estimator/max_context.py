"""The longest context that a device's memory allows, by model, recipe and cache type; and which models run at one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from .errors import InputError
from .estimate import Result
from .plan import Plan, is_gguf, parse_plan
from .runtimes import llama_cpp
from .runtimes.llama_cpp import Model
from .specs import builtin_names, load

SCHEMA = 1
STEP = 256
"""Cells that the engine rounds a sequence's context up to (``GGML_PAD`` in ``llama_context``)."""
CURVE_POINTS = 24
_Step = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One model, recipe and pair of cache types."""

    plan: Plan
    """At the answer; at the smallest context where nothing fits."""
    model: Model
    answer: int | None
    """The longest context of a sequence; ``None`` where nothing fits."""
    trained: int
    """Positions that the model was made for; no answer is longer."""
    result: Result
    """At the answer, or at the smallest context."""
    following: Result | None
    """One step further, which does not fit; ``None`` where memory is not what binds."""

    @property
    def binding(self) -> Result:
        """The result whose limit ends the context."""
        return self.following or self.result

    @property
    def binds(self) -> str:
        """What keeps the context from being longer."""
        if self.answer is None:
            largest = max(("weights", "kv_cache", "compute"), key=self._held)
            return f"memory: {_NAMES[largest]} alone are too large" if largest == "weights" else "memory"
        if self.following is None:
            return "the model's own context"
        grows = self.following.bytes["kv_cache"] - self.result.bytes["kv_cache"]
        return f"memory: {STEP} more tokens take {grows / 2**20:,.1f} MiB of KV cache"

    def _held(self, key: str) -> int:
        sizes = self.result.bytes
        return sizes["resident"] - sizes["kv_cache"] if key == "weights" else sizes[key]

    def to_dict(self) -> dict[str, Any]:
        """The row as an object; sizes are bytes."""
        options = self.plan.llama_cpp
        return {
            "model": self.plan.model,
            "recipe": None if self.plan.from_gguf else self.plan.dtype,
            "type_k": options.type_k,
            "type_v": options.type_v,
            "answer": self.answer,
            "trained_context": self.trained,
            "binds": self.binds,
            "bytes": dict(self.result.bytes),
            "counted": self.result.against,
            "budget_bytes": self.result.budget_bytes,
            "margin_bytes": self.result.margin_bytes,
            "next_bytes": None if self.following is None else self.following.bytes[self.following.against],
            "warnings": list(self.result.warnings),
        }


_NAMES = {"weights": "weights", "kv_cache": "the KV cache", "compute": "the compute buffer"}


def rows(
    plan: Plan | Mapping[str, Any],
    models: Iterable[str],
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
    step: _Step = lambda: None,
) -> list[Row]:
    """The longest context of each combination. ``step`` is called after each. Raises ``InputError``."""
    found = []
    for one, model in _read(_plans(plan, models, recipes, caches)):
        found.append(longest(one, model))
        step()
    return found


def _plans(
    plan: Plan | Mapping[str, Any],
    models: Iterable[str],
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
) -> list[Plan]:
    base = plan.model_dump(exclude_unset=True) if isinstance(plan, Plan) else dict(plan)
    block = dict(base.get("llama_cpp", {}))
    combinations = []
    for model in models:
        from_file = is_gguf(model)
        for recipe in recipes[: 1 if from_file else None]:
            for type_k, type_v in caches:
                data = {
                    **base,
                    "model": model,
                    "runtime": "llama.cpp",
                    "llama_cpp": {**block, "type_k": type_k, "type_v": type_v},
                }
                if from_file:
                    data.pop("dtype", None)
                else:
                    data["dtype"] = recipe
                combinations.append(parse_plan(data))
    return combinations


def _read(plans: Iterable[Plan]) -> Iterator[tuple[Plan, Model]]:
    """Each plan with its model, which is read once for all of its caches."""
    for _, alike in groupby(plans, key=lambda plan: (plan.model, plan.dtype)):
        group = list(alike)
        _check_limit(group[0])
        model = llama_cpp.model_of(group[0])
        for plan in group:
            yield plan, model


def _check_limit(plan: Plan) -> None:
    if plan.budget_bytes() is None:
        raise InputError("this question needs a limit: give a budget such as 4GiB, or a device")


def at(plan: Plan, model: Model, context: int) -> Result:
    """The estimate with so many tokens of context for each sequence. Raises ``InputError``."""
    one = _with(plan, context)
    return llama_cpp.to_result(one, model, llama_cpp.usage_of(one, model))


def _with(plan: Plan, context: int) -> Plan:
    sequences = plan.llama_cpp.sequences(plan.batch)
    block = plan.llama_cpp.model_copy(update={"n_ctx": context * sequences})
    return plan.model_copy(update={"llama_cpp": block})


def longest(plan: Plan, model: Model | None = None) -> Row:
    """The longest context of one plan, up to the model's own; ``model`` is the plan's, where it has been read.

    Raises ``InputError``.
    """
    _check_limit(plan)
    model = llama_cpp.model_of(plan) if model is None else model
    trained = model.trained
    last = -(-trained // STEP)

    @cache
    def spare(steps: int) -> int:
        one = _with(plan, steps * STEP)
        limit = llama_cpp.limit_of(one, llama_cpp.usage_of(one, model))
        assert limit.budget is not None
        return limit.budget - limit.needed

    def row(answer: int | None, steps: int, following: int | None) -> Row:
        further = None if following is None else at(plan, model, following * STEP)
        return Row(_with(plan, steps * STEP), model, answer, trained, at(plan, model, steps * STEP), further)

    if spare(last) >= 0:
        return row(min(last * STEP, trained), last, None)
    if spare(1) < 0:
        return row(None, 1, None)
    low, high = 1, last
    reach = 1
    while high - low > 1:
        # Every step takes nearly the same: go to where the budget should end, a step to either side of it next.
        share = spare(low) / (spare(low) - spare(high))
        middle = min(max(low + int(share * (high - low)), low + reach), high - reach)
        middle = min(max(middle, low + 1), high - 1)
        reach = min(2 * reach, max((high - low) // 2, 1))
        low, high = (middle, high) if spare(middle) >= 0 else (low, middle)
    return row(low * STEP, low, high)


@dataclass(frozen=True)
class Curve:
    """What is counted against the limit that binds, at contexts from short to the model's own."""

    row: Row
    points: tuple[tuple[int, int], ...]


def curve(row: Row) -> Curve:
    """A row's memory over the context, for a figure."""
    last = max(-(-row.trained // STEP), 1)
    contexts = sorted({max(1, round(last ** (i / (CURVE_POINTS - 1)))) * STEP for i in range(CURVE_POINTS)})
    against = row.binding.against
    return Curve(row, tuple((context, at(row.plan, row.model, context).bytes[against]) for context in contexts))


@dataclass(frozen=True)
class Fit:
    """A model of the catalogue at one context."""

    plan: Plan
    parameters: int | None
    result: Result

    def to_dict(self) -> dict[str, Any]:
        """The fit as an object; sizes are bytes."""
        options = self.plan.llama_cpp
        return {
            "model": self.plan.model,
            "recipe": self.plan.dtype,
            "type_k": options.type_k,
            "type_v": options.type_v,
            "parameters": self.parameters,
            "fits": self.result.fits,
            "bytes": dict(self.result.bytes),
            "counted": self.result.against,
            "budget_bytes": self.result.budget_bytes,
            "margin_bytes": self.result.margin_bytes,
            "warnings": list(self.result.warnings),
        }


def runs_at(
    plan: Plan | Mapping[str, Any],
    context: int,
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
    step: _Step = lambda: None,
) -> list[Fit]:
    """Every model of the catalogue that can have a context, the largest first; those are left out that the engine
    refuses a cache type for. Raises ``InputError``, also where it refuses all of them.
    """
    found, refusal = [], None
    for one, model in _read(_plans(plan, builtin_names(), recipes, caches)):
        step()
        if context <= model.trained:
            try:
                found.append(Fit(one, load(one.model).parameters, at(one, model, context)))
            except InputError as error:
                refusal = error
    if refusal is not None and not found:
        raise refusal
    return sorted(found, key=lambda fit: (-(fit.parameters or 0), fit.plan.model))
