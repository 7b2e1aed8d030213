"""The longest context that a device's memory allows, by model, recipe and cache type; and which models run at one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from typing import Any

from ..errors import InputError
from ..plans.margins import NO_MARGIN, STATED, Margin, verdict_of
from ..plans.models import builtin_names, load
from ..plans.plan import Plan, is_gguf, parse_plan
from . import llama_cpp
from .llama_cpp import RAM_BINDS, Limit, Model
from .result import Result

STEP = 256
"""Cells that the engine rounds a sequence's context up to (``GGML_PAD`` in ``llama_context``)."""
CURVE_POINTS = 24
"""What is kept free of a limit: the stated uncertainty, or nothing."""
_Step = Callable[[], None]


@dataclass(frozen=True)
class Row:
    """One model, recipe and pair of cache types."""

    plan: Plan
    """At the answer; at the longest without a margin, or the smallest context, where there is none."""
    model: Model
    answer: int | None
    """The longest context of a sequence that leaves the margin free; ``None`` where none does."""
    without_margin: int | None
    """The longest context that fits with nothing to spare; ``None`` where nothing fits."""
    margin: Margin
    trained: int
    """Positions that the model was made for; no answer is longer."""
    limits: tuple[Limit, ...]
    """What the plan's memory is compared with, and what of it is needed there."""
    result: Result
    """The estimate of the plan."""
    following: Result | None
    """One step past the answer, which does not leave the margin; ``None`` where memory is not what binds."""

    @property
    def binding(self) -> Result:
        """The result whose limit ends the context."""
        return self.following or self.result

    @property
    def warnings(self) -> tuple[str, ...]:
        """What else to know: of the answer, and of the limit that ends it."""
        binds = self.following is not None and RAM_BINDS in self.following.warnings
        return tuple(dict.fromkeys((*self.result.warnings, *((RAM_BINDS,) if binds else ()))))

    @property
    def verdict(self) -> str:
        """``fits``, ``tight`` where only less than the margin would be left, or ``does not fit``."""
        return verdict_of(self.without_margin is not None, self.answer is not None)

    @property
    def binds(self) -> str:
        """What keeps the context from being longer."""
        if self.without_margin is None:
            largest = max(("weights", "kv_cache", "compute"), key=self._held)
            return f"memory: {_NAMES[largest]} alone are too large" if largest == "weights" else "memory"
        if self.answer is None:
            return "memory: less than the margin is left"
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
            "answer_without_margin": self.without_margin,
            "verdict": self.verdict,
            "trained_context": self.trained,
            "binds": self.binds,
            **_common(self.result, self.limits, self.margin),
            "warnings": list(self.warnings),
            "next_bytes": None if self.following is None else self.following.bytes[self.following.against],
        }


def _common(result: Result, limits: tuple[Limit, ...], margin: Margin) -> dict[str, Any]:
    """What both answers say of an estimate and its limits; sizes are bytes."""
    return {
        "bytes": dict(result.bytes),
        "counted": result.against,
        "budget_bytes": result.budget_bytes,
        "margin_bytes": result.margin_bytes,
        "uncertainty_bytes": result.uncertainty_bytes,
        "kept_free_bytes": result.kept(margin),
        "limits": [
            {"counted": one.against, "bytes": one.needed, "limit_bytes": one.budget, "left_bytes": one.left(NO_MARGIN)}
            for one in limits
        ],
        "assumptions": [asdict(one) for one in result.assumptions],
    }


_NAMES = {"weights": "weights", "kv_cache": "the KV cache", "compute": "the compute buffer"}


def rows(
    plan: Plan | Mapping[str, Any],
    models: Iterable[str],
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
    step: _Step = lambda: None,
    margin: Margin = STATED,
) -> list[Row]:
    """The longest context of each combination, with a margin, the stated uncertainty if not given.

    ``step`` is called after each. Raises ``InputError``.
    """
    found = []
    for one, model in _read(_plans(plan, models, recipes, caches)):
        found.append(longest(one, model, margin))
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


def at(plan: Plan, model: Model, context: int, margin: Margin = STATED) -> Result:
    """The estimate with so many tokens of context for each sequence. Raises ``InputError``."""
    one = _with(plan, context)
    return llama_cpp.to_result(one, model, llama_cpp.usage_of(one, model), margin)


def _with(plan: Plan, context: int) -> Plan:
    sequences = plan.llama_cpp.sequences(plan.batch)
    block = plan.llama_cpp.model_copy(update={"n_ctx": context * sequences})
    return plan.model_copy(update={"llama_cpp": block})


def longest(plan: Plan, model: Model | None = None, margin: Margin = STATED) -> Row:
    """The longest context of one plan, up to the model's own; ``model`` is the plan's, where it has been read.

    The answer leaves ``margin`` free of each limit, the stated uncertainty if none is given. Raises ``InputError``.
    """
    _check_limit(plan)
    model = llama_cpp.model_of(plan) if model is None else model
    trained = model.trained
    last = -(-trained // STEP)

    @cache
    def limits(steps: int) -> tuple[Limit, ...]:
        one = _with(plan, steps * STEP)
        return llama_cpp.limits_of(one, llama_cpp.usage_of(one, model))

    def left(steps: int, kept: Margin) -> int:
        return llama_cpp.limit_of(limits(steps), kept).left(kept)

    def edge(kept: Margin, fits: int = 1) -> int:
        """The last step that leaves so much, from one on that may; zero where it does not."""
        if left(last, kept) >= 0:
            return last
        if left(fits, kept) < 0:
            return 0
        low, high, reach = fits, last, 1
        while high - low > 1:
            # Every step takes nearly the same: go to where the budget should end, a step to either side of it next.
            share = left(low, kept) / (left(low, kept) - left(high, kept))
            middle = min(max(low + int(share * (high - low)), low + reach), high - reach)
            middle = min(max(middle, low + 1), high - 1)
            reach = min(2 * reach, max((high - low) // 2, 1))
            low, high = (middle, high) if left(middle, kept) >= 0 else (low, middle)
        return low

    safe = edge(margin)
    most = edge(NO_MARGIN, safe or 1)
    shown = safe or most or 1
    return Row(
        plan=_with(plan, shown * STEP),
        model=model,
        answer=min(safe * STEP, trained) if safe else None,
        without_margin=min(most * STEP, trained) if most else None,
        margin=margin,
        trained=trained,
        limits=limits(shown),
        result=at(plan, model, shown * STEP, margin),
        following=at(plan, model, (shown + 1) * STEP, margin) if most and shown < last else None,
    )


@dataclass(frozen=True)
class Curve:
    """What is counted against each limit, at contexts from short to the model's own."""

    row: Row
    points: tuple[tuple[int, tuple[Limit, ...]], ...]


def curve(row: Row) -> Curve:
    """A row's memory over the context, for a figure."""
    last = max(-(-row.trained // STEP), 1)
    contexts = sorted({max(1, round(last ** (i / (CURVE_POINTS - 1)))) * STEP for i in range(CURVE_POINTS)})
    plans = [(context, _with(row.plan, context)) for context in contexts]
    return Curve(
        row,
        tuple((context, llama_cpp.limits_of(one, llama_cpp.usage_of(one, row.model))) for context, one in plans),
    )


@dataclass(frozen=True)
class Fit:
    """A model of the catalogue at one context."""

    plan: Plan
    parameters: int | None
    result: Result
    limits: tuple[Limit, ...]
    margin: Margin

    @property
    def warnings(self) -> tuple[str, ...]:
        """What else to know."""
        return self.result.warnings

    @property
    def verdict(self) -> str | None:
        """``fits``, ``tight`` where less than the margin is left, or ``does not fit``."""
        return self.result.verdict_with(self.margin)

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
            "verdict": self.verdict,
            **_common(self.result, self.limits, self.margin),
            "warnings": list(self.warnings),
        }


def runs_at(
    plan: Plan | Mapping[str, Any],
    context: int,
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
    step: _Step = lambda: None,
    margin: Margin = STATED,
) -> list[Fit]:
    """Every model of the catalogue that can have a context, the largest first; those are left out that the engine
    refuses a cache type for. Raises ``InputError``, also where it refuses all of them.
    """
    found, refusal = [], None
    for one, model in _read(_plans(plan, builtin_names(), recipes, caches)):
        step()
        if context <= model.trained:
            try:
                one = _with(one, context)
                use = llama_cpp.usage_of(one, model)
                result = llama_cpp.to_result(one, model, use, margin)
            except InputError as error:
                refusal = error
            else:
                found.append(Fit(one, load(one.model).parameters, result, llama_cpp.limits_of(one, use), margin))
    if refusal is not None and not found:
        raise refusal
    return sorted(found, key=lambda fit: (-(fit.parameters or 0), fit.plan.model))
