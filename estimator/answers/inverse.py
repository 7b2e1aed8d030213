"""The inverse questions: the longest sequence, largest batch, highest rank, most images that fit, the smallest device.

The answer fits with the margin and the next value does not, each by its own ``estimate``. The margin is by default the
estimate's uncertainty (``plans/margins.py``). Within a regime (``formulas.py``) live bytes grow with the value, and
regimes are searched from the largest values down. So where the process grows with the live bytes, as on runtime
torch-cpu, no larger value fits. Reserved memory on a GPU does not grow evenly, nor does a step that works in chunks:
there a larger value may fit by chance, and is not looked for.

Live bytes are computed fast, from formulas or by one run of the ledger. The process never has less, so a value whose
live bytes exceed the budget cannot fit. This bounds the answer from above, and a few estimates then find it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from ..engines.devices import Device, catalogue, find
from ..engines.engine import HOST
from ..errors import InputError, nearest, options, shown
from ..methods.options import MethodOptions
from ..methods.registry import METHODS, method_options
from ..plans.margins import NO_MARGIN, STATED, Margin, verdict_of
from ..plans.plan import Plan, parse_plan
from ..plans.refusals import budget_of
from ..plans.resolve import resolve, tokens_of_images, window_of
from ..programs.step import Step
from ..steps.loss import SHIFTING
from ..steps.trainers import TRAINERS, least_batch
from .estimate import Progress, answer, estimate, live_result
from .formulas import compile_plan
from .result import COMPONENTS, RESIDENT, SCHEMA, Result
from .tabular import Drawn, Tabular

QUESTIONS = {
    "max-seq": "seq",
    "max-batch": "batch",
    "max-rank": "rank",
    "max-target-seq": "target_seq",
    "max-images": "images",
    "max-image-size": "image_size",
}
"""The key that each question looks for. Of ``image_size`` it is the side of a square, in pixels."""
MOST_MULTIPLE = 10**18
LIMITS = {"seq": 10**8, "batch": 10**6, "target_seq": 10**8, "images": 1000, "image_size": 10**5 - 1}
"""The largest values that a plan takes. A sequence has no more tokens than its model has learned positions of."""
_SYMBOLS = {"batch": "B", "seq": "S", "target_seq": "T", "images": "M"}
"""The keys that formulas have symbols for."""
RANKED = tuple(
    name for name, kind in METHODS.items() if kind.rank_key in kind.model_fields and name not in ("oft", "randlora")
)
"""Methods with a rank that can be looked for. OFT has none, since its block size must divide the layer; nor has
RandLora, which trains fewer parameters the higher its rank is."""
FEW_CHUNKS = 8
"""Of layers that cut the sequence into fewer chunks, each chunk is run, and the formula in chunks does not hold."""
CURVE_POINTS = 33
"""The most points of a curve, evenly spread."""
MORE_DEVICES = 4
"""The number of larger devices that an answer lists."""


@dataclass(frozen=True, repr=False)
class Solution(Drawn):
    """The answer to one of ``QUESTIONS``. Sizes are bytes."""

    question: str
    key: str
    """The key that varies; a rank has its name in the method (``r``, ``init_r``)."""
    plan: Plan
    """The plan at the ``value``; at the smallest value where nothing fits."""
    answer: int | None
    """The largest value that fits with the margin; ``None`` where the smallest one does not."""
    answer_without_margin: int | None
    """The largest value that fits without the margin; ``None`` where the smallest one does not."""
    margin: Margin
    result: Result | None
    """The estimate at the ``value``."""
    next_value: int | None
    """The first value that does not fit; ``None`` where the ``value`` is the ``limit``."""
    next_result: Result | None
    """The estimate at ``next_value``; ``None`` where there is no such value or the plan is refused there."""
    refusal: str | None
    """Why the plan is refused at ``next_value``, if it is."""
    limit: int
    """The largest value that is looked at."""
    multiple_of: int
    budget_bytes: int
    estimates: int
    """The number of estimates that it took."""
    warnings: tuple[str, ...] = field(default=())

    def _brief(self) -> Mapping[str, object]:
        return {"model": self.plan.model, self.question.replace("-", "_"): self.answer, "verdict": self.verdict}

    def records(self) -> list[dict[str, Any]]:
        """A row for the answer and one for the next value, with the components in bytes."""
        found = ((self.value, self.result), (self.next_value, self.next_result))
        return [{self.key: value, **result.bytes, "fits": result.fits} for value, result in found if result is not None]

    @property
    def binding(self) -> str | None:
        """Why the next value does not fit: the moment of its peak, or the reason why it is refused."""
        return self.refusal if self.next_result is None else self.next_result.binds

    @property
    def value(self) -> int | None:
        """The answer; where nothing fits with the margin, the answer without it."""
        return self.answer_without_margin if self.answer is None else self.answer

    @property
    def verdict(self) -> str:
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return verdict_of(self.value is not None, self.answer is not None)

    @property
    def margin_bytes(self) -> int | None:
        """Bytes of the budget that are left at the ``value``."""
        return None if self.result is None else self.result.margin_bytes

    @property
    def kept_free_bytes(self) -> int:
        """Bytes that the margin keeps free at the ``value``; 0 where it fits only without the margin."""
        return 0 if self.answer is None or self.result is None else self.result.kept(self.margin)

    @property
    def missing(self) -> int | None:
        """Bytes that the next value needs beyond the budget, with the margin if the answer has one."""
        following = self.next_result
        if following is None or following.margin_bytes is None:
            return None
        return (0 if self.answer is None else following.kept(self.margin)) - following.margin_bytes

    def to_dict(self) -> dict[str, Any]:
        """The solution object of the project's contract (schema 1)."""
        following = self.next_result
        return {
            "schema": SCHEMA,
            "question": self.question,
            "key": self.key,
            "answer": self.answer,
            "answer_without_margin": self.answer_without_margin,
            "verdict": self.verdict,
            "margin_bytes": self.margin_bytes,
            "kept_free_bytes": self.kept_free_bytes,
            "uncertainty_bytes": None if self.result is None else self.result.uncertainty_bytes,
            "bytes": None if self.result is None else dict(self.result.bytes),
            "peak_at": None if self.result is None else self.result.peak_at,
            "next": None
            if self.next_value is None
            else {
                "value": self.next_value,
                "process": None if following is None else following.bytes["process"],
                "peak_at": None if following is None else following.peak_at,
            },
            "binding": self.binding,
            "budget_bytes": self.budget_bytes,
            "limit": self.limit,
            "plan": self.plan.model_dump(exclude_unset=True),
            "assumptions": [asdict(one) for one in self.plan.assumptions()],
            "warnings": list(self.warnings),
        }


def solve(
    question: str,
    plan: Plan | Mapping[str, Any],
    multiple_of: int = 1,
    progress: Progress = lambda: None,
    margin: Margin = STATED,
) -> Solution:
    """The largest value that fits the plan's budget or device. The plan's own value of the key is ignored.

    ``question`` is one of ``QUESTIONS``. Only multiples of ``multiple_of`` are tried. ``progress`` is called after each
    estimate. ``margin`` is kept free, by default the estimate's uncertainty.

    >>> solve("max-seq", {"model": "llama-3.2-1b", "method": "lora", "budget": "16GiB"}).binding
    'loss backward'

    Raises ``InputError`` for wrong input.
    """
    if question not in QUESTIONS:
        raise InputError(f"unknown question '{question}'{nearest(question, QUESTIONS)}; ask {', '.join(QUESTIONS)}")
    if not 1 <= multiple_of <= MOST_MULTIPLE:
        raise InputError(f"no value is a multiple of {shown(multiple_of)}; give a whole number of at least 1")
    plan = plan if isinstance(plan, Plan) else parse_plan(plan)
    budget = budget_of(plan)
    kind = _Search if plan.engine.runs_steps or not plan.engine.is_searched else _PlainSearch
    search = kind(plan, QUESTIONS[question], multiple_of, budget, progress)
    predicted, beyond = search.largest(NO_MARGIN)
    answer, following = (None, None) if predicted is None else search.largest(margin)
    value, following = (predicted, beyond) if answer is None else (answer, following)
    result = None if value is None else search.exact(value)
    next_result = None if following is None else search.exact(following)
    assert not isinstance(result, InputError)
    told = result if isinstance(result, Result) else next_result
    assert isinstance(told, Result)  # largest() raises where the smallest value is refused
    return Solution(
        question=question,
        key=search.name,
        plan=search.at(search.lowest if value is None else value),
        answer=answer,
        answer_without_margin=predicted,
        margin=margin,
        result=result,
        next_value=following,
        next_result=next_result if isinstance(next_result, Result) else None,
        refusal=str(next_result) if isinstance(next_result, InputError) else None,
        limit=search.limit,
        multiple_of=multiple_of,
        budget_bytes=budget,
        estimates=search.estimates,
        warnings=(*told.warnings, *(search.notes(value) if value is not None else ())),
    )


class _Search:
    """The search for the largest value of ``key``, one of ``QUESTIONS``."""

    def __init__(self, plan: Plan, key: str, multiple_of: int, budget: int, progress: Progress) -> None:
        self.plan, self.key, self.multiple_of, self.budget, self.progress = plan, key, multiple_of, budget, progress
        self.name = key
        if key == "rank":
            options = plan.method.inner
            if options.name not in RANKED:
                raise InputError(f"method {options.name} has no rank to look for; those that have: {', '.join(RANKED)}")
            self.name = options.rank_key
        self.estimates = 0
        # There must be at least as many tokens as chunks.
        other = {"seq": plan.batch, "batch": plan.seq}.get(key, plan.mlp_chunks)
        recorded = TRAINERS.get(str(plan.trainer))
        if recorded is not None and recorded.scores and key == "batch":
            unit = plan.num_generations or recorded.num_generations
            self.multiple_of = multiple_of = math.lcm(multiple_of, unit)
        # Labels are shifted by one, and a row of a trainer has a prompt and a completion. A target has text and an end.
        least = 2 if key == "target_seq" or (key == "seq" and (plan.loss in SHIFTING or recorded is not None)) else 1
        least = least_batch(plan.trainer, plan.loss_type) if key == "batch" else least
        least = max(least, tokens_of_images(plan), plan.anchor_seq or 0) if key == "seq" else least
        self.lowest = self._multiple(max(least, -(-plan.mlp_chunks // other)))
        self._results: dict[int, Result | InputError] = {}
        self._lives: dict[tuple[int, int], Callable[[int], float]] = {}
        self._kept: dict[str, Any] = {}
        self.resolved = resolve(self.at(self.lowest))
        largest = self._limit()
        self.limit = largest // multiple_of * multiple_of
        if self.limit < self.lowest:
            raise InputError(f"no {self.name} from 1 to {largest} is a multiple of {multiple_of}; take a smaller one")

    def _multiple(self, value: int) -> int:
        """The first allowed value from ``value`` on."""
        return -(-value // self.multiple_of) * self.multiple_of

    def _limit(self) -> int:
        if self.key == "seq":
            left = self.lowest + self.resolved.spec.positions - self.resolved.plan.tokens_of(self.resolved.spec.head)
            if left < 1:
                raise InputError("max_new_tokens: the model has learned positions of no more tokens; take fewer")
            return int(min(LIMITS["seq"], left))
        if self.key in LIMITS:
            return LIMITS[self.key]
        modules = self.resolved.spec.config.modules.of("linear", "embedding")
        # A product of a rank above a weight's smaller side can be no matrix that it could not be before.
        return max(min(module.shape) for module in modules if self.resolved.method.adapts(module.path))

    def at(self, value: int) -> Plan:
        """The plan with the key at a value. Raises ``InputError`` where a method refuses a rank."""
        if self.key == "rank":
            return self.plan.model_copy(update={"method": _with_rank(self.plan.method, value)})
        return self.plan.model_copy(update={self.key: (value, value) if self.key == "image_size" else value})

    def exact(self, value: int) -> Result | InputError:
        """The estimate at a value, or the error where the plan is refused."""
        if value not in self._results:
            self.estimates += 1
            try:
                self._results[value] = answer(self.at(value), self._kept)
            except InputError as error:
                self._results[value] = error
            self.progress()
        return self._results[value]

    def needed(self, value: int, margin: Margin) -> float:
        """The estimated bytes that the budget limits at a value, and the margin's; infinite where it is refused."""
        result = self.exact(value)
        if not isinstance(result, Result):
            return math.inf
        if result.against == HOST and result.margin_bytes is not None:  # as many too much as the host lacks
            return self.budget - result.margin_bytes + result.kept(margin)
        return result.bytes[result.against] + result.kept(margin)

    def lacks(self, value: int, margin: Margin) -> float:
        """The bytes that the budget lacks at a value, and the margin's.

        A process that runs out of memory has given its cached memory back before. It lacks less than one without a
        budget would reserve.
        """
        result = self.exact(value)
        if isinstance(result, Result) and result.lacking:
            return result.lacking + result.kept(margin)
        return self.needed(value, margin) - self.budget

    def fits(self, value: int, margin: Margin) -> bool:
        """Whether the process at a value and the margin are within the budget."""
        return self.needed(value, margin) <= self.budget

    def notes(self, answer: int) -> list[str]:
        """Warnings about an answer."""
        positions = self.resolved.spec.raw.get("max_position_embeddings")
        tokens = answer + self.resolved.method.virtual_tokens
        if self.plan.task == "train" and self.key == "seq" and isinstance(positions, int) and tokens > positions:
            return [f"the model was made for {positions:,} positions (max_position_embeddings); this is longer"]
        return []

    def largest(self, margin: Margin) -> tuple[int | None, int | None]:
        """The largest value that fits and the next one, which does not fit; ``None`` for one that does not exist.

        Raises ``InputError`` where the smallest value is refused.
        """
        for first, last in self._regimes():
            if (answer := self._largest(first, last, margin)) is not None:
                return answer, None if answer == self.limit else answer + self.multiple_of
        refused = self.exact(self.lowest)
        if isinstance(refused, InputError):
            raise refused
        return None, self.lowest

    def _regimes(self) -> list[tuple[int, int]]:
        """The first and the last allowed value of each regime, the largest values first."""
        window = window_of(self.resolved.spec.config, self.resolved.method)
        loops = (self._chunk or 0) * FEW_CHUNKS
        starts = {"seq": (2, window or 2, loops), "batch": (2,), "target_seq": (2,), "images": (2,)}.get(self.key, ())
        firsts = sorted({self.lowest, *(self._multiple(s) for s in starts if self.lowest < s <= self.limit)})
        ends = [*(first - self.multiple_of for first in firsts[1:]), self.limit]
        return [(a, b) for a, b in zip(firsts, ends, strict=True) if a <= b][::-1]

    def _largest(self, first: int, last: int, margin: Margin) -> int | None:
        """The largest value of a regime that fits; ``None`` where none does."""
        unit, live = self.multiple_of, self._live(first, last)
        before = first // unit - 1
        low, high = before, last // unit
        if first == self.lowest:
            if not self.fits(first, margin):
                return None
            low += 1
        elif live(first) > self.budget:
            return None

        def within(added: float) -> int:
            """The last value, in units, whose live bytes and ``added`` bytes are within the budget."""
            below, above = low, high
            while above - below > 1:
                middle = (below + above) // 2
                below, above = (middle, above) if live(middle * unit) + added <= self.budget else (below, middle)
            return below

        reach = 1
        while low + reach < high and live((low + reach) * unit) <= self.budget:
            reach *= 2
        high = min(high, low + reach)  # far beyond the answer a step may take minutes to run
        if live(high * unit) > self.budget:
            high = within(0) + 1
        elif self.fits(last, margin):
            return last
        for known in sorted(self._results):
            if low * unit < known < high * unit:  # from an earlier search
                low, high = (known // unit, high) if self.fits(known, margin) else (low, min(high, known // unit))
        step, turns, creeps, replays = 0, 0, 0, self.plan.engine.replays
        while high - low > 1:
            below, above = (self._results.get(one * unit) for one in (low, high))
            creeping = abs(turns) == 2 or creeps > 2  # the same end has moved twice, or often
            tried = high if isinstance(above, Result) else low
            if below is above is None:
                guess = high  # that is, the value before it
            elif isinstance(above, InputError) or (creeping and None not in (below, above)):
                guess = (low + high) // 2
            elif (
                tried == high
                and replays
                and isinstance(below, Result)
                and (below.lacking is None or below.kept(margin))
            ):
                # As if bytes grew evenly in between.
                left, missing = (self.needed(one * unit, margin) - self.budget for one in (low, high))
                guess = low + int((high - low) * left / (left - missing))
            else:  # where the budget would end if the runtime lacked or added as much
                guess = within(self.budget + self.lacks(tried * unit, margin) - live(tried * unit))
            # Not next to an end, so that what is left is soon small.
            reach = min(max(2 * step if creeping else step // 4, 1), (high - low) // 2)
            guess = min(max(guess, low + reach), high - reach)
            if self._chunk is not None and self.key == "seq" and guess * unit % self._chunk == 0 and high - guess > 1:
                guess += 1  # steps of whole chunks have a log of their own
            step = min(guess - low, high - guess)
            if self.fits(guess * unit, margin):
                low, turns = guess, 2 if turns == 1 else 1
            else:
                high, turns = guess, -2 if turns == -1 else -1
            creeps += abs(turns) == 2
        return None if low == before else low * unit

    def _live(self, first: int, last: int) -> Callable[[int], float]:
        """The live bytes at the peak as a function of the value in a regime; infinite where the plan is refused."""
        if (first, last) not in self._lives:
            self._lives[first, last] = cache(self._live_formula(first, last))
        return self._lives[first, last]

    def _live_formula(self, first: int, last: int) -> Callable[[int], float]:
        name, chunk = _SYMBOLS.get(self.key), self._chunk
        if first == last or name is None or (name == "S" and first < (chunk or 0) * FEW_CHUNKS):
            return self._run
        plan = self.at(first).model_copy(update={"run": None})  # the step's live bytes
        try:
            if chunk is None:
                compiled = compile_plan(plan, images=name == "M")
            else:  # the number of chunks has jumps, which no formula in the sequence has
                compiled = compile_plan(plan, **({"chunk": chunk} if name == "S" else {"numbers": ("seq",)}))
        except InputError:  # it has an estimate but no formula
            return self._run
        totals = compiled.function([size for _, size in compiled.moments])

        def live(value: int) -> float:
            given = {**compiled.given, name: value}
            if chunk is not None and name == "S":
                given["C"] = value // chunk  # of the whole chunks: not more than of all tokens
            # Python's integers, since the square of 10^8 tokens times heads and layers has more than 64 bits.
            components, moments = totals(given)
            parts = dict(zip(COMPONENTS, components, strict=True))
            return int(sum(parts[name] for name in RESIDENT) + max(moments))

        return live

    @property
    def _chunk(self) -> int | None:
        """The tokens of a chunk of the sequence, where layers cut it."""
        return self.resolved.spec.config.source.chunk_of(self.resolved.step)

    def _run(self, value: int) -> float:
        try:
            return live_result(self.at(value), self._kept).bytes["peak"]
        except InputError:
            return math.inf


class _PlainSearch(_Search):
    """The search on an engine without a step on the ledger: by estimates, which grow with the value."""

    def __init__(self, plan: Plan, key: str, multiple_of: int, budget: int, progress: Progress) -> None:
        if key not in LIMITS:
            raise InputError(f"{key} has no search with runtime: {plan.runtime}; ask `estimator max-seq` or max-batch")
        self.plan, self.key, self.multiple_of, self.budget, self.progress = plan, key, multiple_of, budget, progress
        self.name, self.estimates = key, 0
        self.lowest = multiple_of
        self.limit = LIMITS[key] // multiple_of * multiple_of
        self._results, self._kept = {}, {}

    def notes(self, answer: int) -> list[str]:
        return []

    def largest(self, margin: Margin) -> tuple[int | None, int | None]:
        unit = self.multiple_of
        low, high = 0, 1
        while high * unit <= self.limit and self.fits(high * unit, margin):
            low, high = high, 2 * high
        high = min(high, self.limit // unit + 1)
        while high - low > 1:
            guess = (low + high) // 2
            if low:  # as if bytes grew evenly in between, no nearer to an end than a sixteenth
                below, above = (self.needed(one * unit, margin) for one in (low, high))
                if above < math.inf:
                    share = (self.budget - below) / max(above - below, 1)
                    guess = low + int((high - low) * min(max(share, 1 / 16), 15 / 16))
                    guess = min(max(guess, low + 1), high - 1)
            low, high = (guess, high) if self.fits(guess * unit, margin) else (low, guess)
        if not low:
            refused = self.exact(self.lowest)
            if isinstance(refused, InputError):
                raise refused
            return None, self.lowest
        return low * unit, None if low * unit == self.limit else (low + 1) * unit


def _with_rank(method: MethodOptions, rank: int) -> MethodOptions:
    if method.inner is not method:  # a zeroth-order method has the adapter in a nested block
        return method.model_copy(update={"adapter": _with_rank(method.inner, rank)})
    block = method.model_dump(exclude_unset=True)
    return method_options({**block, "name": method.name, method.rank_key: rank})


def curve(solution: Solution, progress: Progress = lambda: None) -> list[tuple[int, Result]]:
    """Estimates at up to ``CURVE_POINTS`` values from the smallest to twice the answer, for a figure.

    ``progress`` is called after each.
    """
    unit = solution.multiple_of
    key = "rank" if solution.question == "max-rank" else solution.key
    search = _Search(solution.plan, key, unit, solution.budget_bytes, progress)
    middle = solution.value or solution.next_value or search.lowest
    top = min(2 * middle if solution.value else 8 * middle, search.limit)
    values = {
        search.lowest + (top - search.lowest) * i // (CURVE_POINTS - 1) // unit * unit for i in range(CURVE_POINTS)
    }
    values |= {middle, top // unit * unit}
    results = [(value, search.exact(value)) for value in sorted(values)]
    return [(value, result) for value, result in results if isinstance(result, Result)]


@dataclass(frozen=True)
class DeviceFit:
    """The plan's estimate on a device."""

    device: Device
    result: Result
    margin: Margin

    @property
    def margin_bytes(self) -> int:
        """Usable bytes that are left; negative where the plan does not fit."""
        assert self.result.margin_bytes is not None
        return self.result.margin_bytes

    @property
    def missing(self) -> int:
        """Bytes that the device has too few for the plan and the margin; 0 where both fit."""
        return max(self.result.kept(self.margin) - self.margin_bytes, 0)

    def to_dict(self) -> dict[str, Any]:
        """The device by name, and its bytes."""
        return {
            "device": self.device.name,
            "label": self.device.label,
            "kind": self.device.kind,
            "usable_bytes": self.device.usable_bytes,
            "process": self.result.bytes["process"],
            "margin": self.margin_bytes,
            "verdict": self.result.verdict_with(self.margin),
            "peak_at": self.result.peak_at,
        }


@dataclass(frozen=True, repr=False)
class DeviceAnswer(Tabular):
    """The smallest device that fits, by usable bytes."""

    plan: Plan
    best: DeviceFit | None
    """The smallest device that fits with the margin."""
    tight: DeviceFit | None
    """The smallest device that fits without the margin, where it is smaller than the ``best``."""
    others: tuple[DeviceFit, ...]
    """The next larger devices that fit."""
    below: DeviceFit | None
    """The largest device below the best, which does not fit with the margin; if nothing fits, the largest device."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Devices that are not considered, by the reason."""

    def _brief(self) -> Mapping[str, object]:
        device = None if self.found is None else self.found.device.name
        return {"model": self.plan.model, "device": device, "verdict": self.verdict}

    def records(self) -> list[dict[str, Any]]:
        """A row for the device that is found and for the next ones: what it has, what is needed, what is left."""
        found = [one for one in (self.below, self.tight, self.best, *self.others) if one is not None]
        return [
            {
                "device": one.device.name,
                "usable_bytes": one.device.usable_bytes,
                "process": one.result.bytes["process"],
                "margin_bytes": one.margin_bytes,
                "fits": one.result.fits,
            }
            for one in found
        ]

    @property
    def found(self) -> DeviceFit | None:
        """The answer; where nothing fits with the margin, the answer without it."""
        return self.best or self.tight

    @property
    def verdict(self) -> str:
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return verdict_of(self.found is not None, self.best is not None)

    @property
    def on_device(self) -> Plan:
        """The plan on the device that is found; where nothing fits, on the largest device."""
        told = self.found or self.below
        return self.plan if told is None else on_device(self.plan, told.device)

    @property
    def binding(self) -> str | None:
        """The moment of the peak on the next smaller device, which has no room for it."""
        return None if self.below is None else self.below.result.binds

    def to_dict(self) -> dict[str, Any]:
        """The answer as an object like a solution's (schema 1)."""
        found, predicted = self.found, self.tight or self.best
        return {
            "schema": SCHEMA,
            "question": "smallest-device",
            "answer": None if self.best is None else self.best.device.name,
            "answer_without_margin": None if predicted is None else predicted.device.name,
            "verdict": self.verdict,
            "bytes": None if found is None else dict(found.result.bytes),
            "peak_at": None if found is None else found.result.peak_at,
            "below": None if self.below is None else self.below.to_dict(),
            "binding": self.binding,
            "budget_bytes": None if found is None else found.device.usable_bytes,
            "margin": None if found is None else found.margin_bytes,
            "others": [other.to_dict() for other in self.others],
            "left_out": {reason: list(names) for reason, names in self.left_out.items()},
            "plan": self.on_device.model_dump(exclude_unset=True),
            "assumptions": [] if found is None else [asdict(one) for one in found.result.assumptions],
            "warnings": [] if found is None else list(found.result.warnings),
        }


def smallest_device(
    plan: Plan | Mapping[str, Any],
    kind: str | None = None,
    progress: Progress = lambda: None,
    margin: Margin = STATED,
    devices: Sequence[str] = (),
) -> DeviceAnswer:
    """The device with the least usable bytes that a plan fits, and the next larger ones.

    The plan's own device and budget are ignored. ``devices`` are the candidates by name, by default the catalogue. Only
    those whose kind contains ``kind`` are tried, except those without rules here and those on which the plan is
    refused. ``progress`` is called after each estimate. ``margin`` is kept free, by default the estimate's uncertainty.
    Raises ``InputError``, also where the plan is refused everywhere.
    """
    known = list(dict.fromkeys(map(find, devices))) or catalogue()
    plan = plan if isinstance(plan, Plan) else parse_anywhere(plan, known)
    of_kind = [device for device in known if kind is None or kind.lower() in device.kind.lower()]
    if not of_kind:
        kinds = dict.fromkeys(device.kind for device in known)
        raise InputError(f"no device is of kind '{kind}'; kinds are {', '.join(kinds)}")
    candidates: list[Device] = []
    left_out: dict[str, tuple[str, ...]] = {}
    for device in of_kind:
        if (reason := why_left_out(device, bool(kind or devices), plan.sharding is not None)) is None:
            candidates.append(device)
        else:
            left_out[reason] = (*left_out.get(reason, ()), device.name)
    if not candidates:
        raise InputError(f"no device is left: {'; '.join(left_out)}; name others, or another kind")
    candidates.sort(key=lambda device: (device.usable_bytes, device.name))

    @cache
    def fit(device: Device) -> DeviceFit:
        try:
            return DeviceFit(device, estimate(on_device(plan, device)), margin)
        finally:
            progress()

    least: dict[Step, int] = {}
    found: list[DeviceFit] = []
    smaller: list[Device] = []
    tight: DeviceFit | None = None
    refused: InputError | None = None
    for device in candidates:
        try:
            resolved = resolve(on_device(plan, device))
            if resolved.step not in least:
                # Live bytes depend on the kernels only, and rule out most of the small devices.
                least[resolved.step] = live_result(resolved.plan, {}).bytes["peak"]
            within = least[resolved.step] <= device.usable_bytes and fit(device).margin_bytes >= 0
            if within and not fit(device).missing:
                found.append(fit(device))
            elif not found:
                smaller.append(device)
                tight = tight or (fit(device) if within else None)
        except InputError as error:
            refused = error
        if len(found) > MORE_DEVICES:
            break
    if refused is not None and not found and not smaller:
        raise refused
    below = fit(smaller[-1]) if smaller else None
    return DeviceAnswer(plan, found[0] if found else None, tight, tuple(found[1:]), below, left_out)


def why_left_out(device: Device, named: bool, shares: bool = False) -> str | None:
    """Why a device is not considered for a plan in PyTorch; ``None`` where it is. ``named``: it or its kind is.
    ``shares``: the plan's job has several.
    """
    if device.is_card and device.capability is None:
        return "cards without CUDA, whose kernels have no rules here"
    if device.is_phone and not named:
        ask = options({"kind": "phone"})
        return f"phones and tablets, on which PyTorch does not train; {ask} asks about them all the same"
    if shares and device.capability is None and not named:
        return "devices without CUDA, several of which share no model; name some to ask about them all the same"
    return None


def parse_anywhere(keys: Mapping[str, Any], devices: Iterable[Device]) -> Plan:
    """The plan of a question that looks for one of the ``devices``: on their GPUs where a CPU refuses it, as
    ``attention: flash``.

    Raises ``InputError``.
    """
    try:
        return parse_plan(keys)
    except InputError as error:
        if "runtime" not in keys and any(device.capability for device in devices):
            with suppress(InputError):
                return parse_plan({**keys, "runtime": "torch-cuda"})
        raise error


def on_device(plan: Plan, device: Device) -> Plan:
    """The plan on a device, in PyTorch: on CUDA where the device runs it, unless the plan names a runtime."""
    runtime = plan.runtime
    if "runtime" not in plan.model_fields_set:
        runtime = "torch-cuda" if device.capability is not None else "torch-cpu"
    own = {"budget": None, "ios_increased_memory_limit": False}
    return plan.model_copy(update={"device": device.name, "runtime": runtime, **own})
