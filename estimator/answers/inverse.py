"""The inverse questions: the longest sequence, largest batch or highest rank that fits, and the smallest device.

What is guaranteed: the answer fits with the margin and the next value does not, each by its own ``estimate``. The
margin is the estimate's own uncertainty where no other is given (``margins.py``). Live bytes
grow with the asked-for key within a regime (``compiled.regimes``), and where the process follows them, as on
runtime torch-cpu, no larger value of the same regime fits; regimes are searched from the largest values down.
Where the runtime adds memory that does not grow evenly (an allocator's reserved memory depends on how blocks
happen to match), a larger value may fit by accident of fragmentation: it is not looked for. The same holds
where work comes in chunks, whose number steps with the tokens.

Live bytes cost little: formulas in batch and sequence where the plan has them, one run of the ledger
otherwise. They are never above the process, so a value whose live bytes alone exceed the budget cannot fit.
That brackets the answer; a few exact estimates close the bracket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from ..errors import InputError, nearest
from ..methods.options import MethodOptions, module_paths
from ..methods.registry import METHODS, method_options
from ..methods.traced import TracedMethod
from ..plans.devices import Device, catalogue
from ..plans.margins import NO_MARGIN, STATED, Margin, verdict_of
from ..plans.plan import Plan, parse_plan
from ..plans.resolve import resolve, window_of
from ..programs.step import Step
from .estimate import estimate, live_result
from .formulas import compile_plan
from .result import COMPONENTS, SCHEMA, Result

QUESTIONS = {"max-seq": "seq", "max-batch": "batch", "max-rank": "rank"}
"""What each question looks for."""
LIMITS = {"seq": 10**8, "batch": 10**6}
"""The largest values a plan takes."""
RANKED = tuple(
    name for name, kind in METHODS.items() if kind.rank_key in kind.model_fields and name not in ("oft", "randlora")
)
"""Methods with a rank. OFT's block size must divide the layer, and RandLora trains fewer parameters the higher
its rank is, so neither has a highest one."""
CURVE_POINTS = 33
MORE_DEVICES = 4

_Step = Callable[[], None]


@dataclass(frozen=True)
class Solution:
    """The answer to one of ``QUESTIONS``. Sizes are bytes."""

    question: str
    key: str
    """What varies: ``seq``, ``batch``, or the rank under its name in the method (``r``, ``init_r``)."""
    plan: Plan
    """The plan at the ``value``; at the smallest value where nothing fits."""
    answer: int | None
    """The largest value that fits with the margin; ``None`` where the smallest one does not."""
    answer_without_margin: int | None
    """The largest value that fits as predicted; ``None`` where the smallest one does not."""
    margin: Margin
    result: Result | None
    """The estimate at the ``value``."""
    next_value: int | None
    """The first value that does not fit; ``None`` where the ``value`` is the ``limit``."""
    next_result: Result | None
    """The estimate there; ``None`` where the plan is refused there (``refusal``) or there is no such value."""
    refusal: str | None
    limit: int
    """The largest value looked at."""
    multiple_of: int
    budget_bytes: int
    estimates: int
    """How many exact estimates it took."""
    warnings: tuple[str, ...] = field(default=())

    @property
    def binding(self) -> str | None:
        """What keeps the value from growing: the moment of the peak, or what refuses it, at the next value."""
        return self.refusal if self.next_result is None else self.next_result.peak_at

    @property
    def value(self) -> int | None:
        """The answer, or where nothing fits with the margin the one without."""
        return self.answer_without_margin if self.answer is None else self.answer

    @property
    def verdict(self) -> str:
        """``fits``; ``tight`` where something fits without the margin only; ``does not fit``."""
        return verdict_of(self.value is not None, self.answer is not None)

    @property
    def margin_bytes(self) -> int | None:
        """Bytes to spare at the ``value``."""
        return None if self.result is None else self.result.margin_bytes

    @property
    def kept_free_bytes(self) -> int:
        """Bytes that the margin keeps free at the ``value``; none where it is left out."""
        return 0 if self.answer is None or self.result is None else self.result.kept(self.margin)

    @property
    def missing(self) -> int | None:
        """Bytes that the next value has too many, the margin's included."""
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
    step: _Step = lambda: None,
    margin: Margin = STATED,
) -> Solution:
    """The largest value that fits the plan's budget or device; the plan's own value of the key plays no part.

    ``question`` is one of ``QUESTIONS``; ``multiple_of`` restricts the values; ``step`` is called after each
    exact estimate; ``margin`` is what is kept free, by default the estimate's uncertainty.

    >>> solve("max-seq", {"model": "llama-3.2-1b", "method": "lora", "budget": "16GiB"}).binding
    'loss backward'

    Raises ``InputError`` for wrong input.
    """
    if question not in QUESTIONS:
        raise InputError(f"unknown question '{question}'{nearest(question, QUESTIONS)}; ask {', '.join(QUESTIONS)}")
    if multiple_of < 1:
        raise InputError(f"a multiple of {multiple_of} is no step; give a whole number of at least 1")
    plan = plan if isinstance(plan, Plan) else parse_plan(plan)
    budget = plan.budget_bytes()
    if budget is None:
        raise InputError(f"{question} needs something to fit; give a budget such as 8GiB, or a device")
    search = _Search(plan, QUESTIONS[question], multiple_of, budget, step)
    predicted, beyond = search.largest(NO_MARGIN)
    answer, following = (None, None) if predicted is None else search.largest(margin)
    value, following = (predicted, beyond) if answer is None else (answer, following)
    result = None if value is None else search.exact(value)
    next_result = None if following is None else search.exact(following)
    assert not isinstance(result, InputError)
    shown = result if isinstance(result, Result) else next_result
    assert isinstance(shown, Result)  # the smallest value is not refused, or largest() had raised
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
        warnings=(*shown.warnings, *(search.notes(value) if value is not None else ())),
    )


class _Search:
    """One plan at values of one key: ``seq``, ``batch`` or ``rank``."""

    def __init__(self, plan: Plan, key: str, multiple_of: int, budget: int, step: _Step) -> None:
        self.plan, self.key, self.multiple_of, self.budget, self.step = plan, key, multiple_of, budget, step
        self.name = key
        if isinstance(plan.method, TracedMethod):
            raise InputError(
                f"this question needs rules, and method {plan.method.name} has none; `estimator estimate` traces it"
            )
        if key == "rank":
            options = plan.method.inner
            if options.name not in RANKED:
                raise InputError(f"method {options.name} has no rank to look for; those that have: {', '.join(RANKED)}")
            self.name = options.rank_key
        self.estimates = 0
        # Tokens are at least as many as the chunks they are cut into.
        other = {"seq": plan.batch, "batch": plan.seq}.get(key, plan.mlp_chunks)
        self.lowest = self._multiple(-(-plan.mlp_chunks // other))
        self._results: dict[int, Result | InputError] = {}
        self._lives: dict[tuple[int, int], Callable[[int], float]] = {}
        self.resolved = resolve(self.at(self.lowest))
        largest = self._limit()
        self.limit = largest // multiple_of * multiple_of
        if self.limit < self.lowest:
            raise InputError(f"no {self.name} from 1 to {largest} is a multiple of {multiple_of}; take a smaller one")

    def _multiple(self, value: int) -> int:
        """The first allowed value from ``value`` on."""
        return -(-value // self.multiple_of) * self.multiple_of

    def _limit(self) -> int:
        if self.key in LIMITS:
            return LIMITS[self.key]
        config = self.resolved.spec.config
        shapes = {**config.linear_shapes(), "embed_tokens": (config.vocab_size, config.hidden_size)}
        # Past a weight's smaller side, more rank adds no matrix that could not be reached before.
        adapted = (path.rpartition(".")[2] for path in module_paths(config) if self.resolved.method.adapts(path))
        return max(min(shapes[name]) for name in adapted)

    def at(self, value: int) -> Plan:
        """The plan with the key at a value. Raises ``InputError`` where a method refuses a rank."""
        if self.key == "rank":
            return self.plan.model_copy(update={"method": _with_rank(self.plan.method, value)})
        return self.plan.model_copy(update={self.key: value})

    def exact(self, value: int) -> Result | InputError:
        """The estimate at a value, or why there is none."""
        if value not in self._results:
            self.estimates += 1
            try:
                self._results[value] = estimate(self.at(value))
            except InputError as error:
                self._results[value] = error
            self.step()
        return self._results[value]

    def needed(self, value: int, margin: Margin) -> float:
        """Bytes of the process at a value and of the margin, by an exact estimate; infinite where it is refused."""
        result = self.exact(value)
        return result.bytes["process"] + result.kept(margin) if isinstance(result, Result) else math.inf

    def fits(self, value: int, margin: Margin) -> bool:
        """Whether a value is within the budget."""
        return self.needed(value, margin) <= self.budget

    def notes(self, answer: int) -> list[str]:
        """What else to know about an answer."""
        positions = self.resolved.spec.raw.get("max_position_embeddings")
        tokens = answer + self.resolved.method.virtual_tokens
        if self.plan.task == "train" and self.key == "seq" and isinstance(positions, int) and tokens > positions:
            return [f"the model was made for {positions:,} positions (max_position_embeddings); this is longer"]
        return []

    def largest(self, margin: Margin) -> tuple[int | None, int | None]:
        """The largest value that fits, and the one after it, which does not; ``None`` where there is none.

        Raises ``InputError`` where the smallest value is refused.
        """
        for first, last in self._regimes():
            if self.fits(first, margin):
                answer = self._largest(first, last, margin)
                return answer, None if answer == self.limit else answer + self.multiple_of
        refused = self.exact(self.lowest)
        if isinstance(refused, InputError):
            raise refused
        return None, self.lowest

    def _regimes(self) -> list[tuple[int, int]]:
        """First and last allowed value of each stretch in which live bytes grow, the largest values first."""
        window = window_of(self.resolved.spec.config, self.resolved.method)
        starts = {"seq": (2, window or 2), "batch": (2,), "rank": ()}[self.key]
        firsts = sorted({self.lowest, *(self._multiple(s) for s in starts if self.lowest < s <= self.limit)})
        ends = [*(first - self.multiple_of for first in firsts[1:]), self.limit]
        return [(a, b) for a, b in zip(firsts, ends, strict=True) if a <= b][::-1]

    def _largest(self, first: int, last: int, margin: Margin) -> int:
        """The largest value of a regime that fits, given that ``first`` does."""
        unit = self.multiple_of
        low, high = first // unit, last // unit
        live = self._live(first, last)

        def within(added: float) -> int:
            """The last step whose live bytes and what is added to them are within the budget."""
            below, above = low, high
            while above - below > 1:
                middle = (below + above) // 2
                below, above = (middle, above) if live(middle * unit) + added <= self.budget else (below, middle)
            return below

        if live(last) > self.budget:
            high = within(0) + 1
        elif self.fits(last, margin):
            return last
        for known in sorted(self._results):
            if low * unit < known < high * unit:  # of an earlier search
                low, high = (known // unit, high) if self.fits(known, margin) else (low, min(high, known // unit))
        value, guesses = low * unit, 0
        while high - low > 1:
            reach = 4 ** max(guesses - 1, 0)
            if high - low <= 2 * reach:
                value = (low + high) // 2 * unit
            else:
                # Where the budget ends if the runtime adds as much as it last did, ever further from both ends.
                added = self.needed(value, margin) - live(value)
                value = min(max(within(added if added < math.inf else 0), low + reach), high - reach) * unit
                guesses += 1
            low, high = (value // unit, high) if self.fits(value, margin) else (low, value // unit)
        return low * unit

    def _live(self, first: int, last: int) -> Callable[[int], float]:
        """Live bytes at the peak as a function of a value of this regime; infinite where the plan is refused."""
        if (first, last) not in self._lives:
            self._lives[first, last] = cache(self._live_formula(first, last))
        return self._lives[first, last]

    def _live_formula(self, first: int, last: int) -> Callable[[int], float]:
        if first == last or self.key == "rank":
            return self._run
        plan = self.at(first)
        try:
            compiled = compile_plan(plan)
        except InputError:  # it has an estimate but no formula
            return self._run
        totals = compiled.function([size for _, size in compiled.moments])
        sizes, name = {"B": plan.batch, "S": plan.seq}, {"batch": "B", "seq": "S"}[self.key]

        def live(value: int) -> float:
            # Python's integers: the square of 10^8 tokens, times heads and layers, is past 64 bits.
            components, moments = totals({**sizes, name: value})
            parts = dict(zip(COMPONENTS, components, strict=True))
            return int(parts["parameters"] + parts["buffers"] + parts["optimizer"] + max(moments))

        return live

    def _run(self, value: int) -> float:
        try:
            return live_result(resolve(self.at(value))).bytes["peak"]
        except InputError:
            return math.inf


def _with_rank(method: MethodOptions, rank: int) -> MethodOptions:
    if method.inner is not method:  # a block within the block, as zeroth-order methods have
        return method.model_copy(update={"adapter": _with_rank(method.inner, rank)})
    block = method.model_dump(exclude_unset=True)
    return method_options({**block, "name": method.name, method.rank_key: rank})


def curve(solution: Solution, step: _Step = lambda: None) -> list[tuple[int, Result]]:
    """Estimates at up to ``CURVE_POINTS`` values from the smallest to twice the answer, for a figure.

    ``step`` is called after each.
    """
    unit = solution.multiple_of
    key = "rank" if solution.question == "max-rank" else solution.key
    search = _Search(solution.plan, key, unit, solution.budget_bytes, step)
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
    """A device and the plan's estimate on it."""

    device: Device
    result: Result
    margin: Margin

    @property
    def margin_bytes(self) -> int:
        """Usable bytes to spare; negative where it does not fit."""
        assert self.result.margin_bytes is not None
        return self.result.margin_bytes

    @property
    def missing(self) -> int:
        """Bytes that it has too few for the plan and the margin; none where it fits with both."""
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


@dataclass(frozen=True)
class DeviceAnswer:
    """The smallest device that fits, by usable bytes."""

    plan: Plan
    best: DeviceFit | None
    """The smallest that fits with the margin."""
    tight: DeviceFit | None
    """The smallest that fits as predicted, where it is smaller than the ``best``."""
    others: tuple[DeviceFit, ...]
    """The next larger ones that fit."""
    below: DeviceFit | None
    """The largest one below the best, which does not fit with the margin; the largest of all where nothing fits."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Devices that are no part of the answer, by the reason."""

    @property
    def found(self) -> DeviceFit | None:
        """The answer, or where nothing fits with the margin the one without."""
        return self.best or self.tight

    @property
    def verdict(self) -> str:
        """``fits``; ``tight`` where something fits without the margin only; ``does not fit``."""
        return verdict_of(self.found is not None, self.best is not None)

    @property
    def on_device(self) -> Plan:
        """The plan on the device that was found; where nothing fits, on the largest."""
        shown = self.found or self.below
        return self.plan if shown is None else _on(self.plan, shown.device)

    @property
    def binding(self) -> str | None:
        """The moment of the peak that the next smaller device has no room for."""
        return None if self.below is None else self.below.result.peak_at

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
    step: _Step = lambda: None,
    margin: Margin = STATED,
) -> DeviceAnswer:
    """The device with the least usable bytes that a plan fits, and the next ones; the plan's own device and
    budget play no part.

    ``kind`` restricts the catalogue to kinds with this text in them; devices that PyTorch does not run on by rules
    known here, or that the plan is refused on, are left out. ``step`` is called
    after each exact estimate; ``margin`` is what is kept free, by default the estimate's uncertainty.
    Raises ``InputError`` for wrong input, also where the plan is refused on every device.
    """
    plan = plan if isinstance(plan, Plan) else parse_plan(plan)
    known = catalogue()
    devices = [device for device in known if kind is None or kind.lower() in device.kind.lower()]
    if not devices:
        kinds = dict.fromkeys(device.kind for device in known)
        raise InputError(f"no device is of kind '{kind}'; kinds are {', '.join(kinds)}")
    left_out: dict[str, tuple[str, ...]] = {}
    for device in devices:
        if (reason := _no_part(device, kind)) is not None:
            left_out[reason] = (*left_out.get(reason, ()), device.name)
    devices = [device for device in devices if _no_part(device, kind) is None]
    if not devices:
        raise InputError(f"no device of kind '{kind}' is left: {'; '.join(left_out)}")

    devices.sort(key=lambda device: (device.usable_bytes, device.name))

    @cache
    def fit(device: Device) -> DeviceFit:
        try:
            return DeviceFit(device, estimate(_on(plan, device)), margin)
        finally:
            step()

    least: dict[Step, int] = {}
    found: list[DeviceFit] = []
    smaller: list[Device] = []
    tight: DeviceFit | None = None
    refused: InputError | None = None
    for device in devices:
        try:
            resolved = resolve(_on(plan, device))
            if resolved.step not in least:
                # Live bytes differ only with the kernels that run; they alone rule out most of the small devices.
                traced = isinstance(plan.method, TracedMethod)
                least[resolved.step] = (fit(device).result if traced else live_result(resolved)).bytes["peak"]
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


def _no_part(device: Device, kind: str | None) -> str | None:
    """Why a device is no part of an answer about PyTorch."""
    if device.is_card and device.capability is None:
        return "cards without CUDA, whose kernels have no rules here"
    if device.is_phone and kind is None:
        return "phones and tablets, on which PyTorch does not train; --kind phone asks about them all the same"
    return None


def _on(plan: Plan, device: Device) -> Plan:
    runtime = plan.runtime
    if "runtime" not in plan.model_fields_set:
        runtime = "torch-cuda" if device.capability is not None else "torch-cpu"
    return plan.model_copy(update={"device": device.name, "budget": None, "runtime": runtime})
