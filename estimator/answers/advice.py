"""What to change so that a step fits: the cheapest set of changes, and the front of peak against compute.

The objective is the peak, as the process shows it. A set of changes is cheaper than another one if it
changes the training less (``FIDELITY``), then if it recomputes less, then if it changes less. Exact
changes, which leave the step's result as it was, are all tried together; ones that do not are added
only where the exact ones are not enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from ..errors import InputError
from ..ledger.sizes import whole
from ..methods.traced import TracedMethod
from ..plans.margins import STATED, Margin, verdict_of
from ..plans.plan import Plan, parse_plan
from ..plans.resolve import Resolved, resolve
from ..steps.step import StepTotals, run
from .comparison import label
from .estimate import live_of, to_result
from .result import Result

FIDELITY = (
    "the same step",
    "optimizer states in 8 bits",
    "saved activations in 8 bits",
    "base weights in 16 bits",
    "base weights in 8 bits",
    "base weights in 4 bits",
    "saved activations in 4 bits",
    "half of the adapter frozen",
)
"""What a change does to the training, from nothing to much: its rank is its place here. A ranking of
ours: 8-bit states train as 32-bit ones do (arXiv 2110.02861), 8-bit activations nearly so (2104.14129),
a quantised base costs accuracy with the bits taken (2208.07339, 2305.14314), a frozen lora_A is another
method (2308.03303)."""

ANY: tuple[dict[str, Any], ...] = (
    {"name": "full"},
    {"name": "lora", "r": 16, "target_modules": "all-linear"},
    {"name": "lora-fa", "r": 16, "target_modules": "all-linear"},
    {"name": "ia3"},
)
"""What ``any`` tries, the most trainable parameters first."""


@dataclass(frozen=True, eq=False)
class Change:
    """One change to a plan."""

    text: str
    keys: Mapping[str, Any]
    fidelity: int = 0
    weight: int = 1
    """How much it changes, among changes that cost the same."""


LOGITS = {"keep_logits": False}
_AS_IS = Change("", {}, weight=0)
Axis = tuple[Change, ...]
"""Changes of which one at most is made; the first is none, the last saves most."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan with changes, and what it needs."""

    changes: tuple[Change, ...]
    plan: Plan
    resolved: Resolved
    totals: StepTotals
    work: int
    """Floating-point operations of the matrix products of one optimizer step."""

    @cached_property
    def result(self) -> Result:
        """The plan's estimate: on a GPU a replay, some ten times the work of the ``floor``."""
        return to_result(self.resolved, self.totals, says_where=False)

    @cached_property
    def floor(self) -> int:
        """Bytes that the process has at least: all of it, or on a GPU what is alive and the context."""
        if self.plan.runtime != "torch-cuda":
            return self.bytes
        from .torch_cuda import context_of

        return live_of(self.resolved, self.totals).bytes["peak"] + context_of(self.plan)

    @property
    def fidelity(self) -> str:
        """What the worst of the changes does to the training."""
        return FIDELITY[self.lost[0]]

    @property
    def bytes(self) -> int:
        """What has to fit: the process, in bytes."""
        return self.result.bytes["process"]

    @property
    def lost(self) -> tuple[int, int]:
        """Fidelity lost: the worst change's rank, and all ranks together."""
        ranks = [change.fidelity for change in self.changes]
        return max(ranks, default=0), sum(ranks)

    @property
    def cost(self) -> tuple[Any, ...]:
        """What makes one candidate cheaper than another, whatever it needs."""
        return self.lost, self.work, sum(change.weight for change in self.changes)

    def fits(self, limit: Limit) -> bool:
        """Whether the process and the margin are within the budget."""
        return self.floor <= limit.budget and self.bytes + self.result.kept(limit.margin) <= limit.budget


class Limit(NamedTuple):
    """What has to fit where: bytes of the budget, and what of them is kept free."""

    budget: int
    margin: Margin


@dataclass(frozen=True)
class Step:
    """One change of the advice, made after the ones before it."""

    text: str
    keys: Mapping[str, Any]
    fidelity: str
    bytes: int
    """The process after the change."""
    gain: int
    """Bytes that the change takes off the process, given the ones before it."""
    extra_compute: float
    """Share of the plan's own operations added so far."""


@dataclass(frozen=True)
class Advice:
    """The answer for one method. Sizes are bytes."""

    base: Candidate
    limit: Limit
    best: Candidate
    """The cheapest candidate that fits with the margin, or the smallest one where none does."""
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...] = field(repr=False, default=())

    @property
    def name(self) -> str:
        """The method in a few words."""
        method = self.base.plan.method
        return label({"name": method.name, **method.model_dump(exclude_unset=True)})

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes advised."""
        return self.best.changes

    @property
    def budget_bytes(self) -> int:
        """Bytes of the budget."""
        return self.limit.budget

    @property
    def fits(self) -> bool:
        """Whether anything fits with the margin."""
        return self.best.fits(self.limit)

    @property
    def verdict(self) -> str:
        """``fits``; ``tight`` where something fits without the margin only; ``does not fit``."""
        return verdict_of(self.best.bytes <= self.budget_bytes, self.fits)

    def extra_compute(self, candidate: Candidate) -> float:
        """Operations added, as a share of the unchanged step's."""
        return candidate.work / self.base.work - 1

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """Candidates of which none is both smaller and no more work, the least work first."""
        kept: list[Candidate] = []
        for _, equal in groupby(sorted(self.candidates, key=lambda c: c.work), lambda c: c.work):
            one = _smallest(equal, kept[-1].bytes if kept else None)
            if one is not None:
                kept.append(one)
        return tuple(kept)


def advise(keys: Mapping[str, Any], step: Callable[[], None] = lambda: None, margin: Margin = STATED) -> list[Advice]:
    """Advice for a plan's keys, one for each method tried (``method: any`` tries ``ANY``), the best first.

    The plan needs a budget or a device. ``step`` is called after each estimate; ``margin`` is what is kept free, by
    default the estimate's uncertainty. Raises ``InputError``.
    """
    if keys.get("method") == "any":
        plans = [parse_plan({**keys, "method": block}) for block in ANY]
    else:
        plans = [parse_plan(keys)]
    if plans[0].task == "infer":
        questions = "`max-context` says" if plans[0].runtime == "llama.cpp" else "`max-seq` and `max-batch` say"
        raise InputError(f"advice is of training steps; for task infer, {questions} what fits")
    budget = plans[0].budget_bytes()
    if budget is None:
        raise InputError("advice needs something to fit; give a budget such as 8GiB, or a device")
    found = [_advise(plan, Limit(budget, margin), step) for plan in plans]
    return sorted(found, key=lambda a: (not a.fits, (a.best.cost, a.best.bytes) if a.fits else a.best.bytes))


def _advise(plan: Plan, limit: Limit, step: Callable[[], None]) -> Advice:
    if isinstance(plan.method, TracedMethod):
        raise InputError(f"advice needs rules, and method {plan.method.name} has none; `estimator estimate` traces it")
    base = _candidate(plan, (), step)
    if base is None:
        resolve(plan)
        raise InputError("this plan has no estimate to start from")
    working, free = _working_axes(plan), _free_axes(plan)
    tried: dict[tuple[Change, ...], Candidate | None] = {(): base}

    def candidates(sets: Iterable[tuple[Change, ...]]) -> Iterator[Candidate]:
        for changes in sets:
            made = tuple(change for change in changes if change is not _AS_IS)
            if not _worth_trying(made):
                continue
            if made not in tried:
                tried[made] = _candidate(plan, made, step)
            if (one := tried[made]) is not None:
                yield one

    def extremes(family: tuple[Change, ...]) -> list[Candidate]:
        """The smallest candidates of a family: bytes fall along its axes. With the first step from whole batches to
        micro-batches gradients begin to stay, which can outweigh what smaller batches save less.
        """
        *others, batches = free
        for savings in itertools.product(*(axis[::-1] for axis in others)):
            for least in itertools.islice(candidates((*family, *savings, one) for one in batches[::-1]), 1):
                sizes, fewer = least.totals, plan.batch // least.plan.batch
                if fewer <= 1 or (fewer - 1) * whole(sizes.saved) >= whole(sizes.gradients):
                    return [least]
                return [least, *candidates([(*family, *savings, batches[0])])]
        return []

    found: list[Candidate] = [base]
    for lossy in sorted(itertools.product(*_lossy_axes(plan)), key=_lost):
        if any(change.fidelity for change in lossy):
            # What recomputes most, with everything else that saves: does any of it fit?
            corner = itertools.product(working[0][-2:], *(axis[-1:] for axis in working[1:]))
            least = [one for work in corner for one in extremes((*lossy, *work))]
            found += least
            if not any(one.fits(limit) for one in sorted(least, key=lambda c: c.floor)):
                continue
        families = {work: extremes((*lossy, *work)) for work in itertools.product(*working)}
        found += [one for least in families.values() for one in least]
        # The members of a family cost the same work.
        fitting = [
            (least[0].work, work) for work, least in families.items() if any(c.floor <= limit.budget for c in least)
        ]
        for work_done in sorted({done for done, _ in fitting}):
            families_alike = [work for done, work in fitting if done == work_done]
            members = list(
                candidates((*lossy, *work, *rest) for work in families_alike for rest in itertools.product(*free))
            )
            found += members
            if (cheapest := _cheapest(members, limit)) is not None:
                return Advice(base, limit, cheapest, tuple(_steps(plan, base, cheapest, step)), tuple(found))
    best = _smallest(found)
    assert best is not None
    while True:  # without what saves nothing
        fewer = [tuple(other for other in best.changes if other is not change) for change in best.changes]
        idle = [one for one in candidates(fewer) if one.floor <= best.bytes and one.bytes <= best.bytes]
        if not idle:
            break
        best = min(idle, key=lambda one: one.cost)
        found.append(best)
    return Advice(base, limit, best, tuple(_steps(plan, base, best, step)), tuple(found))


def _cheapest(candidates: Iterable[Candidate], limit: Limit) -> Candidate | None:
    """The cheapest candidate that fits, of equal ones the smallest; ``None`` where none does."""
    for _, equal in groupby(sorted(candidates, key=lambda c: c.cost), lambda c: c.cost):
        if (one := _smallest(equal)) is not None and one.fits(limit):
            return one
    return None


def _smallest(candidates: Iterable[Candidate], below: int | None = None) -> Candidate | None:
    """The candidate with the fewest bytes, fewer than ``below``, of equal ones the cheapest, by few replays."""
    best: Candidate | None = None
    for one in sorted(candidates, key=lambda c: (c.floor, c.cost)):
        if best is not None and one.floor > best.bytes:
            break
        if (below is None or (one.floor < below and one.bytes < below)) and (
            best is None or (one.bytes, one.cost) < (best.bytes, best.cost)
        ):
            best = one
    return best


def _worth_trying(changes: Iterable[Change]) -> bool:
    """Whether no change makes another one idle: there are no logits to let go of with the chunked loss, and
    in segments of layers, recomputed as a whole, chunks of an MLP save next to nothing.
    """
    keys = {key: value for change in changes for key, value in change.keys.items()}
    idle = "keep_logits" in keys and keys.get("loss") == "chunked"
    return not idle and not (keys.get("checkpointing") == "every-2" and "mlp_chunks" in keys)


def _lost(changes: Iterable[Change]) -> tuple[int, int]:
    ranks = [change.fidelity for change in changes]
    return max(ranks), sum(ranks)


def _candidate(plan: Plan, changes: tuple[Change, ...], step: Callable[[], None]) -> Candidate | None:
    """The estimate of a plan with changes; ``None`` where they do not go together."""
    keys = plan.model_dump(exclude_unset=True)
    for change in changes:
        keys.update(change.keys)
    try:
        changed = parse_plan(keys)
        resolved = resolve(changed)
        ledger = resolved.step.ledger(counts_work=True)
        totals = run(resolved.step, resolved.sizes(), resolved.method, changed.batch, changed.seq, ledger=ledger)
    except InputError:
        return None
    finally:
        step()
    assert isinstance(totals.work, int)
    # The step of a plan with accumulation runs two micro-batches: the first one, and one of the others.
    micro_steps = changed.gradient_accumulation_steps
    work = totals.work * micro_steps // (2 if resolved.step.gradients_alive else 1)
    return Candidate(changes, changed, resolved, totals, work)


def _steps(plan: Plan, base: Candidate, best: Candidate, step: Callable[[], None]) -> Iterator[Step]:
    """The changes of the best candidate one after another: what gains most for its cost first."""
    done: tuple[Change, ...] = ()
    before = base
    left = list(best.changes)
    while left:
        options = [(_candidate(plan, (*done, change), step), change) for change in left] if len(left) > 1 else []
        possible = [(one, change) for one, change in options if one is not None]
        after, change = min(possible, key=lambda row: (row[1].fidelity, row[0].floor)) if possible else (best, left[0])
        left.remove(change)
        done = (*done, change)
        yield Step(
            change.text,
            change.keys,
            FIDELITY[change.fidelity],
            after.bytes,
            before.bytes - after.bytes,
            after.work / base.work - 1,
        )
        before = after


def _working_axes(plan: Plan) -> list[Axis]:
    """Changes that leave the step's result as it is, and may take more work; checkpointing first."""
    axes: list[Axis] = []
    if plan.checkpointing == "none":
        axes.append(
            (
                _AS_IS,
                Change("recompute attention alone (checkpointing: attention)", {"checkpointing": "attention"}),
                Change("recompute all but matrix products (checkpointing: matmul)", {"checkpointing": "matmul"}),
                Change("gradient checkpointing of each layer (checkpointing: layer)", {"checkpointing": "layer"}),
                Change(
                    "one checkpoint for two layers (checkpointing: every-2)", {"checkpointing": "every-2"}, weight=2
                ),
            )
        )
    else:
        axes.append((_AS_IS,))
    if plan.use_cache:
        axes.append((_AS_IS, Change("no KV cache in training (use_cache: false)", {"use_cache": False})))
    if plan.attention == "eager":
        axes.append((_AS_IS, Change("fused attention (attention: sdpa)", {"attention": "sdpa"})))
    if plan.loss == "standard":
        axes.append((_AS_IS, Change("loss over chunks of tokens (loss: chunked)", {"loss": "chunked"})))
    if plan.mlp_chunks == 1 and plan.method.by_token:
        axes.append((_AS_IS, Change("MLP over 8 chunks of tokens (mlp_chunks: 8)", {"mlp_chunks": 8})))
    return axes


def _free_axes(plan: Plan) -> list[Axis]:
    """Changes that leave the step's result and its work as they are; micro-batches last."""
    axes: list[Axis] = []
    if plan.keep_logits:
        axes.append((_AS_IS, Change("let the logits go before backward (keep_logits: false)", LOGITS)))
    halvings = [plan.batch]
    while halvings[-1] % 2 == 0:
        halvings.append(halvings[-1] // 2)
    axes.append(
        (
            _AS_IS,
            *(
                Change(
                    f"micro-batches of {batch}, gradients accumulated (batch: {batch}, gradient_accumulation_steps: "
                    f"{plan.gradient_accumulation_steps * plan.batch // batch})",
                    {
                        "batch": batch,
                        "gradient_accumulation_steps": plan.gradient_accumulation_steps * plan.batch // batch,
                    },
                    weight=2 + number,
                )
                for number, batch in enumerate(halvings[1:])
            ),
        )
    )
    return axes


def _lossy_axes(plan: Plan) -> list[Axis]:
    """Changes after which the training is not the same."""
    axes: list[Axis] = []
    if plan.optimizer.startswith("adamw") and "8bit" not in plan.optimizer:
        axes.append(
            (_AS_IS, Change("AdamW's states in 8 bits (optimizer: adamw-8bit)", {"optimizer": "adamw-8bit"}, 1))
        )
    if plan.saved_activations == "as-is":
        axes.append(
            (
                _AS_IS,
                Change("saved activations in 8 bits (saved_activations: int8)", {"saved_activations": "int8"}, 2),
                Change("saved activations in 4 bits (saved_activations: int4)", {"saved_activations": "int4"}, 6),
            )
        )
    base: list[Change] = [_AS_IS]
    if plan.dtype == "float32":
        base.append(Change("weights in 16 bits (dtype: bfloat16)", {"dtype": "bfloat16"}, 3))
    if plan.dtype in ("float32", "bfloat16", "float16") and plan.method.name != "full":
        base.append(Change("base weights in 8 bits (dtype: int8)", {"dtype": "int8", "rest_dtype": plan.dtype}, 4))
        four = {"dtype": "nf4", "rest_dtype": plan.dtype, "compute_dtype": plan.dtype}
        base.append(Change("base weights in 4 bits (dtype: nf4)", four, 5))
    axes.append(tuple(base))
    if plan.method.name == "lora":
        block = {**plan.method.model_dump(exclude_unset=True), "name": "lora-fa"}
        axes.append((_AS_IS, Change("lora_A frozen (method: lora-fa)", {"method": block}, 7)))
    return axes
