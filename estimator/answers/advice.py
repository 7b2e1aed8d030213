"""The cheapest changes to a plan with which its step fits, and the front of peak memory against compute.

A set of changes is cheaper than another if it affects the training less (``FIDELITY``); then if it recomputes less;
then if it changes less. All sets of exact changes, which leave the result of the step as it is, are tried first.
Others are added only where these are not enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from ..engines.engine import HOST
from ..errors import InputError, TooLong
from ..ledger import whole
from ..plans.margins import STATED, Margin, verdict_of
from ..plans.plan import Plan, parse_plan
from ..plans.refusals import budget_of, check_question
from ..plans.resolve import Resolved, resolve
from ..programs import Step as ProgramStep
from ..steps.sharding.options import SIZES, ShardingOptions
from ..steps.step import StepTotals, run
from ..steps.trainers import TRAINERS as RECORDED
from ..text import human
from .comparison import label, label_of
from .estimate import Progress, live_of, to_result
from .result import Result
from .tabular import Drawn

FIDELITY = (
    "the same step",
    "optimizer states in 8 bits",
    "saved activations in 8 bits",
    "base weights in 16 bits",
    "base weights in 8 bits",
    "base weights in 4 bits",
    "saved activations in 4 bits",
    "half of the adapter frozen",
    "the same step, slower by copies from and to the host",
    "more cards, each with a batch of its own",
)
"""What a change does to the training, from nothing to much; a change's ``fidelity`` is the index. The order is our own
judgement: 8-bit states train as 32-bit ones do (arXiv 2110.02861), 8-bit activations nearly so (2104.14129), a
quantised base costs more accuracy the fewer its bits (2208.07339, 2305.14314), a frozen lora_A is another method
(2308.03303). What rests on the host changes no step, and takes time; more cards cost most."""
ON_HOST = len(FIDELITY) - 2
"""What resting on the host does."""
CARDS = (2, 4, 8)
"""How many cards share a model that one has no room for."""
SHARES_MORE: Mapping[str, tuple[str, ...]] = {"ddp": ("fsdp2",), "zero1": ("zero2", "zero3"), "zero2": ("zero3",)}
"""The ways to share that hold less in a process, by the way, in the same or a related library."""

ANY: tuple[dict[str, Any], ...] = (
    {"name": "full"},
    {"name": "lora", "r": 16, "target_modules": "all-linear"},
    {"name": "lora-fa", "r": 16, "target_modules": "all-linear"},
    {"name": "ia3"},
)
"""The methods that ``any`` tries, those with most trainable parameters first."""


@dataclass(frozen=True, eq=False)
class Change:
    """One change to a plan."""

    text: str
    keys: Mapping[str, Any]
    fidelity: int = 0
    weight: int = 1
    """How much is changed; it decides between changes of the same fidelity and work."""


Made = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
"""A change, given by its keys, with all that it brings; ``None`` where it may not be made."""
_LOSSES = {
    "chunked": "loss over chunks of tokens",
    "liger": "Liger's loss, fused with the head",
    "ce-chunked-output": "torchtune's loss over chunks of the logits",
    "cce": "cut cross entropy",
}
_AS_IS = Change("", {}, weight=0)
Axis = tuple[Change, ...]
"""Changes of which one is made. The first is ``_AS_IS``, the last saves most."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan with changes, and the memory that it needs."""

    changes: tuple[Change, ...]
    plan: Plan
    resolved: Resolved
    totals: StepTotals
    work: int
    """Floating-point operations of the matrix products of one optimizer step."""
    long: list[frozenset[Change]] = field(default_factory=list, repr=False)
    """Sets of changes with which an estimate took too long, shared by all candidates."""

    @cached_property
    def result(self) -> Result:
        """The plan's estimate. On a GPU it takes a replay, some ten times the work of the ``floor``."""
        return to_result(self.resolved, self.totals, says_where=False)

    @cached_property
    def floor(self) -> int:
        """The least bytes that the process can have: the live bytes, and what is outside of tensors."""
        return live_of(self.resolved, self.totals).bytes["process"]

    @cached_property
    def is_answered(self) -> bool:
        """Whether the plan's estimate does not take too long. It does where fewer changes already did: of the others
        than those of precision, since most add tensors.
        """
        changes = frozenset(change for change in self.changes if not change.fidelity)
        if any(fewer <= changes for fewer in self.long):
            return False
        try:
            return bool(self.result.bytes)
        except TooLong:
            self.long.append(changes)
            return False

    @property
    def fidelity(self) -> str:
        """What the worst of the changes does to the training."""
        return FIDELITY[self.lost[0]]

    @property
    def bytes(self) -> int:
        """The bytes of the process, which have to fit."""
        return self.result.bytes["process"]

    @property
    def lost(self) -> tuple[int, int]:
        """The largest ``fidelity`` index among the changes, and the sum of all."""
        return _lost(self.changes)

    @property
    def cost(self) -> tuple[Any, ...]:
        """The key by which candidates are sorted, the cheapest first, whatever memory they need."""
        return self.lost, self.work, sum(change.weight for change in self.changes)

    def fits(self, limit: Limit) -> bool:
        """Whether the process and the margin are within the budget, and the host has room."""
        if self.floor > limit.budget or not self.is_answered:
            return False
        if self.result.against == HOST:
            return self.result.verdict_with(limit.margin) == "fits"
        return self.bytes + self.result.kept(limit.margin) <= limit.budget


class Limit(NamedTuple):
    """The bytes of the budget, and the margin of them that is kept free."""

    budget: int
    margin: Margin


@dataclass(frozen=True)
class Step:
    """One change of the advice, in the order in which they are made."""

    text: str
    keys: Mapping[str, Any]
    fidelity: str
    bytes: int
    """Bytes of the process after the change."""
    gain: int
    """Bytes that the change saves after the ones before it."""
    extra_compute: float
    """Operations added so far, as a share of the plan's own."""

    def to_dict(self) -> dict[str, Any]:
        """The step as an object."""
        return {
            "change": dict(self.keys),
            "text": self.text,
            "fidelity": self.fidelity,
            "gain_bytes": self.gain,
            "bytes": self.bytes,
            "extra_compute": self.extra_compute,
        }


@dataclass(frozen=True, repr=False)
class Advice(Drawn):
    """The advice for one method. Sizes are bytes."""

    base: Candidate
    limit: Limit
    best: Candidate
    """The cheapest candidate that fits with the margin; the smallest where none does."""
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...] = field(repr=False, default=())
    refused: tuple[tuple[str, str], ...] = ()
    """Of the methods that ``any`` tries, those that are refused with this plan, with why."""

    def _brief(self) -> Mapping[str, object]:
        changes = ", ".join(step.text for step in self.steps)
        return {"model": self.base.plan.model, "changes": changes, "verdict": self.verdict}

    def records(self) -> list[dict[str, Any]]:
        """A row for each change, in the order in which they are made."""
        return [
            {"change": one["text"], **{key: one[key] for key in ("gain_bytes", "bytes", "extra_compute", "fidelity")}}
            for one in map(Step.to_dict, self.steps)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The advice as an object; its ``plan`` is one for ``estimate``."""
        return {
            "method": self.best.plan.method.name,
            "budget_bytes": self.budget_bytes,
            "before_bytes": self.base.bytes,
            "after_bytes": self.best.bytes,
            "fits": self.fits,
            "verdict": self.verdict,
            "assumptions": [asdict(one) for one in self.best.plan.assumptions()],
            "extra_compute": self.extra_compute(self.best),
            "steps": [step.to_dict() for step in self.steps],
            "plan": self.best.plan.model_dump(exclude_unset=True),
            "front": [
                {
                    "bytes": one.bytes,
                    "extra_compute": self.extra_compute(one),
                    "fidelity": one.fidelity,
                    "changes": [change.text for change in one.changes],
                }
                for one in self.front
            ],
        }

    @property
    def name(self) -> str:
        """The method in a few words."""
        return label_of(self.base.plan)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes of the ``best`` candidate."""
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
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return verdict_of(self.best.bytes <= self.budget_bytes, self.fits)

    def extra_compute(self, candidate: Candidate) -> float:
        """Operations added, as a share of the unchanged step's."""
        return candidate.work / self.base.work - 1

    @property
    def too_long(self) -> int:
        """How many of the candidates are left out, because their estimates take too long."""
        return sum(not one.__dict__.get("is_answered", True) for one in self.candidates)

    @cached_property
    def front(self) -> tuple[Candidate, ...]:
        """The candidates with the fewest bytes for their work, the least work first."""
        kept: list[Candidate] = []
        for _, equal in groupby(sorted(self.candidates, key=lambda c: c.work), lambda c: c.work):
            one = _smallest(equal, kept[-1].bytes if kept else None)
            if one is not None:
                kept.append(one)
        return tuple(kept)


def advise(
    keys: Mapping[str, Any],
    progress: Progress = lambda: None,
    margin: Margin = STATED,
    made: Made = dict,
) -> list[Advice]:
    """Advice for a plan's keys, the best method first where ``method`` is ``any``. Raises ``InputError``.

    Of ``any``, a method that is refused is left out (``Advice.refused``), unless all are. The plan needs a budget or a
    device. ``progress`` is called after each estimate. ``margin`` is kept free, by default the estimate's uncertainty.
    ``made`` says which changes may be.
    """
    if keys.get("method") != "any":
        return [_asked(keys, progress, margin, made)]
    found: list[Advice] = []
    refused: list[tuple[str, InputError]] = []
    for block in ANY:
        try:
            found.append(_asked({**keys, "method": block}, progress, margin, made))
        except InputError as error:
            refused.append((label(block), error))
    if not found:
        raise refused[0][1]
    found = [replace(one, refused=tuple((name, str(error)) for name, error in refused)) for one in found]
    return sorted(found, key=lambda a: (not a.fits, (a.best.cost, a.best.bytes) if a.fits else a.best.bytes))


def _asked(keys: Mapping[str, Any], progress: Progress, margin: Margin, made: Made) -> Advice:
    plan = parse_plan(keys)
    check_question("advice", plan)
    return _advise(plan, Limit(budget_of(plan), margin), progress, made)


def _advise(plan: Plan, limit: Limit, progress: Progress, made: Made) -> Advice:
    base = _candidate(plan, (), progress)
    if base is None:
        resolve(plan)
        raise InputError("this plan has no estimate to start from")
    base.result  # noqa: B018  # raises where it takes too long
    axes = (_working_axes(plan, made), _free_axes(plan), _lossy_axes(plan))
    working, free, losing = ([tuple(_that_may_be(axis, made)) for axis in kind] for kind in axes)
    # The corner of the search, with the last change of each axis, must not be refused for one that goes with nothing.
    every = [change for kind in (working, free, losing) for axis in kind for change in axis]
    working, free = ([tuple(_that_resolve(axis, plan, every)) for axis in kind] for kind in (working, free))
    tried: dict[tuple[frozenset[Change], str], Candidate | None] = {}

    def candidate(changes: tuple[Change, ...]) -> Candidate | None:
        keys = {key: value for change in changes for key, value in change.keys.items()}
        if (same := (frozenset(changes), repr(sorted(keys.items())))) not in tried:
            tried[same] = _candidate(plan, changes, progress, base.long) if changes else base
        return tried[same]

    def candidates(sets: Iterable[tuple[Change, ...]]) -> Iterator[Candidate]:
        for changes in sets:
            real = tuple(change for change in changes if change is not _AS_IS)
            if not _worth_trying(real):
                continue
            if (one := candidate(real)) is not None:
                yield one

    def extremes(family: tuple[Change, ...]) -> list[Candidate]:
        """The smallest candidates of a family, the sets that differ only in their free changes.

        Bytes fall along each axis, with one exception: with micro-batches, gradients stay from one to the next, which
        can cost more than a smaller batch saves.
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
    cards = [(change,) for change in _that_may_be((*_on_host(plan), *_on_cards(plan)), made)]
    for lossy in [*sorted(itertools.product(*losing), key=_lost), *cards]:
        if any(change.fidelity for change in lossy) and lossy not in cards:  # which have no rule with some of the most
            # Does anything fit with the most recomputation and all the other changes?
            corner = itertools.product(working[0][-2:], *(axis[-1:] for axis in working[1:]))
            least = [one for work in corner for one in extremes((*lossy, *work))]
            found += least
            if least and not any(one.fits(limit) for one in sorted(least, key=lambda c: c.floor)):
                continue  # if all of them are refused together, fewer changes may not be
        families = {work: extremes((*lossy, *work)) for work in itertools.product(*working)}
        found += [one for least in families.values() for one in least]
        # All candidates of a family take the same work.
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
                return Advice(base, limit, cheapest, tuple(_steps(base, cheapest, candidate)), tuple(found))
    best = _smallest(found)
    assert best is not None
    while True:  # leave out changes that save nothing
        fewer = [tuple(other for other in best.changes if other is not change) for change in best.changes]
        alike = [one for one in candidates(fewer) if one.floor <= best.bytes]
        idle = [one for one in alike if one.is_answered and one.bytes <= best.bytes]
        if not idle:
            break
        best = min(idle, key=lambda one: one.cost)
        found.append(best)
    return Advice(base, limit, best, tuple(_steps(base, best, candidate)), tuple(found))


def _cheapest(candidates: Iterable[Candidate], limit: Limit) -> Candidate | None:
    """The cheapest candidate that fits, the smallest of several as cheap; ``None`` where none fits."""
    for _, equal in groupby(sorted(candidates, key=lambda c: c.cost), lambda c: c.cost):
        if (one := _smallest(equal)) is not None and one.fits(limit):
            return one
    return None


def _smallest(candidates: Iterable[Candidate], below: int | None = None) -> Candidate | None:
    """The candidate with the fewest bytes, the cheapest of several; ``None`` where none has fewer than ``below``.

    The floors save most of the replays.
    """
    best: Candidate | None = None
    for one in sorted(candidates, key=lambda c: (c.floor, c.cost)):
        if best is not None and one.floor > best.bytes:
            break
        if (below is not None and one.floor >= below) or not one.is_answered:
            continue
        if (below is None or one.bytes < below) and (best is None or (one.bytes, one.cost) < (best.bytes, best.cost)):
            best = one
    return best


def _worth_trying(changes: Iterable[Change]) -> bool:
    """Whether no change makes another one pointless.

    The chunked loss makes no logits that could be dropped. Where two layers are recomputed together, chunks of an MLP
    save next to nothing.
    """
    keys = {key: value for change in changes for key, value in change.keys.items()}
    pointless = "keep_logits" in keys and keys.get("loss") == "chunked"
    return not pointless and not (keys.get("checkpointing") == "every-2" and "mlp_chunks" in keys)


def _lost(changes: Iterable[Change]) -> tuple[int, int]:
    ranks = [change.fidelity for change in changes]
    return max(ranks, default=0), sum(ranks)


def _candidate(
    plan: Plan, changes: tuple[Change, ...], progress: Progress, long: list[frozenset[Change]] | None = None
) -> Candidate | None:
    """A plan with changes and its estimate; ``None`` where the changes are refused."""
    keys = plan.model_dump(exclude_unset=True)
    for change in changes:
        keys.update(change.keys)
    try:
        changed = parse_plan(keys)
        resolved = resolve(changed)
        totals = counted = _counted(resolved, resolved.step)
        if getattr(resolved.step.procedure, "every", 0) > 1 and resolved.step.micro_batches == 1:
            counted = _counted(resolved, resolved.step._replace(micro_batches=2))  # of which the second generates none
    except InputError:
        return None
    finally:
        progress()
    work = _work(counted, changed, resolved.step)
    return Candidate(changes, changed, resolved, totals, work, [] if long is None else long)


def _counted(resolved: Resolved, step: ProgramStep) -> StepTotals:
    """The totals of a step, with its operations."""
    plan, ledger = resolved.plan, step.ledger(counts_work=True)
    return run(step, resolved.sizes(), resolved.method, plan.batch, plan.seq, ledger=ledger)


def _work(totals: StepTotals, plan: Plan, step: ProgramStep) -> int:
    """The operations of all micro-batches of an update, on average: those that generate do what the first one did, as a
    trainer's others do what the last one did that was run. One generation may serve several updates.
    """
    batches = [whole(one) for one in totals.work_of_batches] or [0]
    number, every = plan.gradient_accumulation_steps, getattr(step.procedure, "every", 0) or 1
    outside = whole(totals.work) - sum(batches)
    return outside + number * (batches[0] + (every - 1) * batches[-1]) // every


def _steps(
    base: Candidate, best: Candidate, candidate: Callable[[tuple[Change, ...]], Candidate | None]
) -> Iterator[Step]:
    """The changes of the best candidate one by one; of those with the best fidelity, the one that saves most first."""
    done: tuple[Change, ...] = ()
    before = base
    left = list(best.changes)
    while left:
        options = [(candidate((*done, change)), change) for change in left] if len(left) > 1 else []
        possible = [(one, change) for one, change in options if one is not None]
        possible.sort(key=lambda row: (row[1].fidelity, row[0].floor))
        after, change = next((row for row in possible if row[0].is_answered), (best, left[0]))
        left.remove(change)
        done = (*done, change)
        held = live_of(after.resolved, after.totals).bytes.get("host_all")
        yield Step(
            f"{change.text}; {human(held)} of host RAM" if held and change.fidelity == ON_HOST else change.text,
            change.keys,
            FIDELITY[change.fidelity],
            after.bytes,
            before.bytes - after.bytes,
            after.work / base.work - 1,
        )
        before = after


def _that_may_be(changes: Iterable[Change], made: Made) -> Iterator[Change]:
    for change in changes:
        if change is _AS_IS:
            yield change
        elif (keys := made(change.keys)) is not None:
            yield replace(change, keys=keys)


def _that_resolve(changes: Iterable[Change], plan: Plan, others: Iterable[Change]) -> Iterator[Change]:
    """The changes that the plan takes one by one, each alone or with one of the others."""
    keys, others = plan.model_dump(exclude_unset=True), list(others)
    for change in changes:
        for other in others:
            with suppress(InputError):
                resolve(parse_plan({**keys, **other.keys, **change.keys}))
                yield change
                break


def _working_axes(plan: Plan, made: Made = dict) -> list[Axis]:
    """Changes that leave the result of the step as it is but can take more work; checkpointing is the first axis."""
    axes: list[Axis] = [(_AS_IS,)]
    trains = plan.task == "train"
    if trains and plan.checkpointing == "none":
        axes[0] += (
            _change("recompute attention alone", checkpointing="attention"),
            _change("recompute all but matrix products", checkpointing="matmul"),
            _change("gradient checkpointing of each layer", checkpointing="layer"),
            _change("one checkpoint for two layers", weight=2, checkpointing="every-2"),
        )
    recorded = RECORDED.get(plan.trainer or "")
    if recorded is not None and recorded.precomputes and not plan.precompute_ref_log_probs:
        axes.append((_AS_IS, _change("the reference asked before the training", precompute_ref_log_probs=True)))
    if trains and plan.use_cache:
        axes.append((_AS_IS, _change("no KV cache in training", use_cache=False)))
    if plan.attention == "eager":
        axes.append((_AS_IS, _change("fused attention", attention="sdpa")))
    if trains and plan.loss == "standard":
        kinds = ("chunked", *(("liger", "cce") if plan.engine.has_own_memory else ()), "ce-chunked-output")
        kind = next((kind for kind in kinds if made({"loss": kind}) is not None), "chunked")
        axes.append((_AS_IS, _change(_LOSSES[kind], loss=kind)))
    if trains and plan.mlp_chunks == 1 and plan.method.by_token:
        axes.append((_AS_IS, _change("MLP over 8 chunks of tokens", mlp_chunks=8)))
    if plan.sharding is not None and (shares := _sharing_axis(plan.sharding, made)):
        axes.append((_AS_IS, *shares))
    return axes


def _sharing_axis(sharding: ShardingOptions, made: Made = dict) -> Axis:
    """Changes of how the same processes share the model. They send more, which is no work of matrix products."""
    block = sharding.model_dump(exclude_unset=True)
    if sharding.reshard_after_forward not in (None, True):
        freed = {key: value for key, value in block.items() if key != "reshard_after_forward"}
        words = "parameters freed after forward (no reshard_after_forward)"
        if made({"sharding": freed}) is None:  # a file whose tool asks PyTorch for one choice for all
            words = "parameters freed after forward (reshard_after_forward: true)"
            freed["reshard_after_forward"] = True
        return (Change(words, {"sharding": freed}, weight=2),)
    sizes = {key: block[key] for key in ("world_size", *SIZES) if key in block}
    return tuple(
        Change(f"another way to share (sharding: {name})", {"sharding": {"name": name, **sizes}}, weight=2 + number)
        for number, name in enumerate(SHARES_MORE.get(str(sharding.name), ()))
    )


def _free_axes(plan: Plan) -> list[Axis]:
    """Changes that leave the result and the work of the step as they are; micro-batches are the last axis."""
    if plan.task != "train":
        return [(_AS_IS,)]
    axes: list[Axis] = []
    if plan.keep_logits:
        axes.append((_AS_IS, _change("let the logits go before backward", keep_logits=False)))
    recorded = RECORDED.get(plan.trainer or "")
    if recorded is not None and plan.reference == "copy" and plan.method.inner.peft:
        axes.append((_AS_IS, _change("the policy without its adapter for a copy", reference="adapter-off")))
    if recorded is not None and recorded.scores:
        axes.append((_AS_IS, *_fewer_at_once(plan)))
    micro_batches, batch, steps = [_AS_IS], plan.batch, plan.gradient_accumulation_steps
    while batch % 2 == 0:
        batch, steps = batch // 2, steps * 2
        words, weight = f"micro-batches of {batch}, gradients accumulated", 1 + len(micro_batches)
        micro_batches.append(_change(words, 0, weight, batch=batch, gradient_accumulation_steps=steps))
    return [*axes, tuple(micro_batches)]


def _fewer_at_once(plan: Plan) -> Iterator[Change]:
    """Completions of fewer batches in one call of ``generate``. The policy is the same for all batches of an update."""
    steps, weight = plan.steps_per_generation or plan.gradient_accumulation_steps, 1
    while steps % 2 == 0:
        steps, weight = steps // 2, weight + 1
        yield _change("fewer completions at once", 0, weight, steps_per_generation=steps)


def _lossy_axes(plan: Plan) -> list[Axis]:
    """Changes that change the training."""
    axes: list[Axis] = []
    trains = plan.task == "train"
    if trains and plan.optimizer.startswith("adamw") and "8bit" not in plan.optimizer:
        axes.append((_AS_IS, _change("AdamW's states in 8 bits", 1, optimizer="adamw-8bit")))
    if trains and plan.saved_activations == "as-is":
        eight = _change("saved activations in 8 bits", 2, saved_activations="int8")
        axes.append((_AS_IS, eight, _change("saved activations in 4 bits", 6, saved_activations="int4")))
    base: Axis = (_AS_IS,)
    if plan.dtype == "float32":
        base += (_change("weights in 16 bits", 3, dtype="bfloat16"),)
    if plan.dtype in ("float32", "bfloat16", "float16") and not (trains and plan.method.name == "full"):
        base += (_in_fewer_bits(plan, "int8", 8, 4), _in_fewer_bits(plan, "nf4", 4, 5, "compute_dtype"))
    axes.append(base)
    if trains and plan.method.name == "lora":
        block = {**plan.method.model_dump(exclude_unset=True), "name": "lora-fa"}
        axes.append((_AS_IS, Change("lora_A frozen (method: lora-fa)", {"method": block}, 7)))
    return axes


def _in_fewer_bits(plan: Plan, dtype: str, bits: int, fidelity: int, *same: str) -> Change:
    """A quantised base, the rest of which keeps the plan's dtype; or is in bfloat16, where that alone has a rule.

    The keys of ``same`` have the dtype of the rest.
    """
    changes = []
    for rest in dict.fromkeys((plan.dtype, "bfloat16")):
        words = f"base weights in {bits} bits (dtype: {dtype}" + (rest != plan.dtype) * f", rest_dtype: {rest}" + ")"
        changes.append(Change(words, {"dtype": dtype, **dict.fromkeys(("rest_dtype", *same), rest)}, fidelity))
    return next(_that_resolve(changes, plan, [_AS_IS]), changes[0])


RESTS: Mapping[str, Mapping[str, Any]] = {
    **{name: {"cpu_offload": True} for name in ("fsdp1", "fsdp2", "hsdp")},
    **{name: {"offload_optimizer": "cpu"} for name in ("zero1", "zero2")},
    "zero3": {"offload_optimizer": "cpu", "offload_param": "cpu"},
}
"""What lets most rest on the host, by the way to share."""


def _on_host(plan: Plan) -> list[Change]:
    """What may rest on the host: of a step on one card by FSDP2."""
    alone: dict[str, Any] = {"name": "fsdp2", "world_size": 1}
    block = alone if plan.sharding is None else plan.sharding.model_dump(exclude_unset=True)
    more = RESTS.get(str(block.get("name")), {})
    if not plan.engine.has_own_memory or more.items() <= block.items():
        return []
    said = ", ".join(f"{key}: {str(value).lower()}" for key, value in more.items())
    words = f"parameters, gradients and states on the host (sharding: {block['name']}, {said})"
    if block["name"] in ("zero1", "zero2"):
        words = words.removeprefix("parameters, ")
    return [Change(words, {"sharding": {**block, **more}}, ON_HOST, 4)]


def _on_cards(plan: Plan) -> list[Change]:
    """Cards that share the model of a step on one. They are tried last, and beside changes that are exact alone.

    Inference shares each product first, where the model has a plan for it.
    """
    if plan.sharding is not None or not plan.engine.has_own_memory:
        return []
    blocks: list[tuple[int, str, dict[str, Any]]] = []
    for cards in CARDS:
        blocks += [(cards, f"tp: {cards}", {"tp": cards})] if plan.task == "infer" else []
        blocks += [(cards, f"fsdp2, world_size: {cards}", {"name": "fsdp2", "world_size": cards})]
    last = len(FIDELITY) - 1
    return [
        Change(f"{cards} cards that share the model (sharding: {said})", {"sharding": block}, last, cards)
        for cards, said, block in blocks
    ]


def _change(words: str, fidelity: int = 0, weight: int = 1, **keys: Any) -> Change:
    """A change whose text ends in its keys, as YAML has them."""
    said = ", ".join(f"{key}: {'false' if value is False else value}" for key, value in keys.items())
    return Change(f"{words} ({said})", keys, fidelity, weight)
