"""The longest context that an engine has room for, by model, recipe and cache type; and the models that run at one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from typing import Any

from ..engines.engine import Limit
from ..engines.llama_cpp.options import RPC
from ..engines.registry import RUNTIMES, engine_of
from ..errors import InputError
from ..plans.margins import NO_MARGIN, STATED, Margin, verdict_of
from ..plans.models import load, names_for
from ..plans.plan import Plan, parse_plan
from ..plans.refusals import budget_of
from .estimate import Progress
from .result import Result, result_of
from .tabular import Drawn

RUNTIME = "llama.cpp"
"""The engine whose context is looked for if none is named."""
CURVE_POINTS = 24
"""The most points of a curve."""


@dataclass(frozen=True, repr=False)
class Row(Drawn):
    """The longest context of one model, recipe and pair of cache types."""

    plan: Plan
    """The plan at the answer; without one, at the longest context without the margin, else at the shortest."""
    model: Any
    """What the engine knows of the model."""
    answer: int | None
    """The longest context of a sequence that fits with the margin; ``None`` where none does."""
    without_margin: int | None
    """The longest context that fits without the margin; ``None`` where none does."""
    margin: Margin
    trained: int
    """The positions that the model was made for; no answer is longer."""
    limits: tuple[Limit, ...]
    """The limits of the plan's memory."""
    result: Result
    """The estimate of the plan."""
    following: Result | None
    """The estimate at the next longer context, which does not fit; ``None`` where memory is not the limit."""

    def _brief(self) -> Mapping[str, object]:
        asked = {"model": self.plan.model, "dtype": self.plan.dtype}
        return {**asked, "n_ctx": self.answer, "verdict": self.verdict}

    def records(self) -> list[dict[str, Any]]:
        """A row for the answer and one for the next longer context, with the components in bytes."""
        found = (self.result, self.following)
        return [{**_asked(self.plan), **one.bytes, "fits": one.fits} for one in found if one is not None]

    @property
    def binding(self) -> Result:
        """The result whose limit keeps the context from being longer."""
        return self.following or self.result

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the answer, and about the limit that keeps it from being longer."""
        exceeded = {one.exceeded for one in self.limits} - {""}
        following = () if self.following is None else self.following.warnings
        return tuple(dict.fromkeys((*self.result.warnings, *(one for one in following if one in exceeded))))

    @property
    def verdict(self) -> str:
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return verdict_of(self.without_margin is not None, self.answer is not None)

    @property
    def binds(self) -> str:
        """What keeps the context from being longer."""
        if self.without_margin is None:
            sizes = self.result.bytes
            weights = sizes["resident"] - sizes["kv_cache"]
            return (
                "memory: weights alone are too large"
                if weights >= max(sizes["kv_cache"], sizes["compute"])
                else "memory"
            )
        if self.answer is None:
            return "memory: less than the margin is left"
        if self.following is None:
            return "the model's own context"
        grows = self.following.bytes["kv_cache"] - self.result.bytes["kv_cache"]
        return f"memory: {self.plan.engine.context_step} more tokens take {grows / 2**20:,.1f} MiB of KV cache"

    def to_dict(self) -> dict[str, Any]:
        """The row as an object; sizes are bytes."""
        return {
            **_asked(self.plan),
            "answer": self.answer,
            "answer_without_margin": self.without_margin,
            "verdict": self.verdict,
            "trained_context": self.trained,
            "binds": self.binds,
            **_common(self.result, self.limits, self.margin),
            "warnings": list(self.warnings),
            "next_bytes": None if self.following is None else self.following.bytes[self.following.against],
        }


def _asked(plan: Plan) -> dict[str, Any]:
    """The model, the engine, the recipe and the cache types of a plan."""
    one, other = plan.engine.cache_types(plan)
    asked = {"model": plan.model, "runtime": plan.runtime, "recipe": plan.engine.recipe_of(plan)}
    return {**asked, "type_k": one, "type_v": other}


def _common(result: Result, limits: tuple[Limit, ...], margin: Margin) -> dict[str, Any]:
    """An estimate and its limits, as ``Row`` and ``Fit`` have them; sizes are bytes."""
    return {
        "bytes": dict(result.bytes),
        "counted": result.against,
        "budget_bytes": result.budget_bytes,
        "margin_bytes": result.margin_bytes,
        "uncertainty_bytes": result.uncertainty_bytes,
        "kept_free_bytes": result.kept(margin),
        "limits": [
            {"counted": one.against, "bytes": one.needed, "limit_bytes": one.budget, "left_bytes": one.left}
            for one in limits
        ],
        "assumptions": [asdict(one) for one in result.assumptions],
    }


def rows(
    plan: Plan | Mapping[str, Any],
    models: Iterable[str],
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
    progress: Progress = lambda: None,
    margin: Margin = STATED,
) -> list[Row]:
    """The longest context of each combination, with a margin, by default the stated uncertainty.

    ``progress`` is called after each combination. Raises ``InputError``.
    """
    found = []
    for one, model in _read(_plans(plan, models, recipes, caches)):
        found.append(longest(one, model, margin))
        progress()
    return found


def by_engine(
    plan: Mapping[str, Any],
    runtimes: Sequence[str],
    models: Sequence[str],
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
    progress: Progress = lambda: None,
    margin: Margin = STATED,
) -> tuple[list[Row], list[str]]:
    """``rows`` of several engines, and why one has no answer for a model. Raises ``InputError`` where none has any."""
    found, refused = list[Row](), list[str]()
    for model in models:
        for runtime in runtimes:
            try:
                found += rows({**plan, "runtime": runtime}, [model], recipes, caches, progress, margin)
            except InputError as error:
                if len(runtimes) == 1:
                    raise
                refused.append(f"{runtime}: {error}")
    if not found:
        raise InputError(refused[0])
    return found, refused


def check_runtime(runtime: Any, question: str = "max-context") -> None:
    """Raise ``InputError`` for an engine of which no context is looked for; elsewhere for all but llama.cpp."""
    known = contexts_of() if question == "max-context" else [RUNTIME]
    if runtime in RUNTIMES and runtime not in known:
        raise InputError(f"{question} is about {', '.join(known)}, not {runtime}; for PyTorch ask `estimator max-seq`")


def contexts_of() -> list[str]:
    """The engines of which a longest context is looked for."""
    return [name for name in RUNTIMES if engine_of(name).finds_contexts]


def check_limited(plan: Plan) -> None:
    """Raise ``InputError`` for a plan without a budget, a device or devices of known size."""
    if not any("=" in one or one != RPC for one in plan.devices or ()):
        budget_of(plan)


def _plans(
    plan: Plan | Mapping[str, Any],
    models: Iterable[str],
    recipes: Sequence[str],
    caches: Sequence[tuple[str, str]],
) -> list[Plan]:
    base = _keys(plan)
    runtime = base["runtime"]
    check_runtime(runtime)
    if runtime not in RUNTIMES:
        return [parse_plan({**base, "model": model}) for model in models]  # raises
    compared = engine_of(runtime).compared
    return [parse_plan(one) for model in models for one in compared({**base, "model": model}, recipes, caches)]


def _keys(plan: Plan | Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a plan, its engine among them."""
    given = plan.model_dump(exclude_unset=True) if isinstance(plan, Plan) else plan
    return {"runtime": RUNTIME, **given}


def _read(plans: Iterable[Plan]) -> Iterator[tuple[Plan, Any]]:
    """Each plan with its model, which is read once for all cache types."""
    for _, alike in groupby(plans, key=lambda plan: (plan.model, plan.dtype)):
        group = list(alike)
        check_limited(group[0])
        model = group[0].engine.model(group[0], load)
        for plan in group:
            yield plan, model


def at(plan: Plan, model: Any, context: int, margin: Margin = STATED) -> Result:
    """The estimate with ``context`` tokens for each sequence. Raises ``InputError``."""
    one = _with(plan, context)
    return result_of(one, plan.engine.figures(one, model), margin)


def _limits_at(plan: Plan, model: Any, context: int) -> tuple[Limit, ...]:
    return plan.engine.limits(_with(plan, context), model)


def _with(plan: Plan, context: int) -> Plan:
    """The plan with so many tokens for each sequence."""
    found: Plan = plan.engine.at_context(plan, context * plan.engine.sequences(plan))
    return found


def longest(plan: Plan, model: Any = None, margin: Margin = STATED) -> Row:
    """The longest context of one plan, up to the model's own. ``model`` is the plan's, if it has been read.

    The answer keeps ``margin`` free of each limit, by default the stated uncertainty. Raises ``InputError``.
    """
    check_runtime(plan.runtime)
    check_limited(plan)
    engine, padding = plan.engine, plan.engine.context_step
    model = engine.model(plan, load) if model is None else model
    trained: int = model.trained
    last = -(-trained // padding)

    @cache
    def limits(steps: int) -> tuple[Limit, ...]:
        return _limits_at(plan, model, steps * padding)

    def left(steps: int, kept: Margin) -> int:
        return kept.left(kept.tightest(limits(steps), engine.uncertainty), engine.uncertainty)

    def edge(kept: Margin, fits: int = 1) -> int:
        """The longest context, in steps of ``padding``, that keeps a margin free; ``fits`` at least, or 0."""
        if left(last, kept) >= 0:
            return last
        if left(fits, kept) < 0:
            return 0
        low, high, reach = fits, last, 1
        while high - low > 1:
            # Memory grows almost evenly: try where the budget should end, then ever further to either side.
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
        plan=_with(plan, shown * padding),
        model=model,
        answer=min(safe * padding, trained) if safe else None,
        without_margin=min(most * padding, trained) if most else None,
        margin=margin,
        trained=trained,
        limits=limits(shown),
        result=at(plan, model, shown * padding, margin),
        following=at(plan, model, (shown + 1) * padding, margin) if most and shown < last else None,
    )


@dataclass(frozen=True)
class Curve:
    """The limits of a row, and the bytes needed, at contexts from short to the model's own."""

    row: Row
    points: tuple[tuple[int, tuple[Limit, ...]], ...]


def curve(row: Row) -> Curve:
    """A row's memory by context, for a figure."""
    padding = row.plan.engine.context_step
    last = max(-(-row.trained // padding), 1)
    contexts = sorted({max(1, round(last ** (i / (CURVE_POINTS - 1)))) * padding for i in range(CURVE_POINTS)})
    return Curve(row, tuple((context, _limits_at(row.plan, row.model, context)) for context in contexts))


@dataclass(frozen=True)
class Fit:
    """A built-in model at one context."""

    plan: Plan
    parameters: int | None
    result: Result
    limits: tuple[Limit, ...]
    margin: Margin

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the result."""
        return self.result.warnings

    @property
    def verdict(self) -> str | None:
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return self.result.verdict_with(self.margin)

    def to_dict(self) -> dict[str, Any]:
        """The fit as an object; sizes are bytes."""
        return {
            **_asked(self.plan),
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
    progress: Progress = lambda: None,
    margin: Margin = STATED,
) -> list[Fit]:
    """Every built-in model that was made for a context, the largest first, but those whose cache type is refused.

    Raises ``InputError``, also where all models are refused.
    """
    found, refusal = [], None
    for one, model in _read(_plans(plan, names_for(_keys(plan)["runtime"]), recipes, caches)):
        progress()
        if context <= model.trained:
            try:
                one = _with(one, context)
                figures = one.engine.figures(one, model)
            except InputError as error:
                refusal = error
            else:
                result = result_of(one, figures, margin)
                found.append(Fit(one, load(one.model).parameters, result, figures.limits, margin))
    if refusal is not None and not found:
        raise refusal
    return sorted(found, key=lambda fit: (-(fit.parameters or 0), fit.plan.model))
