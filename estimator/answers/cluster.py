"""The smallest cluster: how many of which card a training step or a forward pass fits on, and how they share the model.

All layouts are tried. One whose live bytes exceed a card is not replayed. Cards share live bytes and logs where their
kernels do not differ in what the step asks of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..engines.devices import Device, find
from ..errors import InputError, options, shown
from ..io.fields import checked
from ..operators.device import Answers, noting
from ..plans.margins import STATED, Margin, verdict_of
from ..plans.plan import Plan
from ..plans.refusals import check, check_question
from ..plans.resolve import resolve
from ..programs import Step
from ..steps.sharding import SHARDINGS, kind_of
from ..steps.sharding.options import SIZES, ShardingOptions, read
from ..steps.step import StepTotals, run
from .estimate import Progress, live_of, to_result
from .inverse import on_device, parse_anywhere, why_left_out
from .result import SCHEMA, Result
from .tabular import Drawn

WAYS: tuple[Mapping[str, Any], ...] = (
    {"name": "ddp"},
    {"name": "zero2"},
    {"name": "zero3"},
    {"name": "fsdp2"},
    {"name": "fsdp2", "reshard_after_forward": False},
)
"""How processes share a model, beside tensor parallelism."""
OFFLOADED: tuple[Mapping[str, Any], ...] = (
    {"name": "zero2", "offload_optimizer": "cpu"},
    {"name": "zero3", "offload_optimizer": "cpu", "offload_param": "cpu"},
    {"name": "fsdp2", "cpu_offload": True},
)
"""How they do with parameters and states on the host, which takes time, and is tried where nothing else fits."""
TENSOR_PARALLEL = (1, 2, 4, 8)
MAX_CARDS = 8
"""The most cards, where a question names no number."""
MOST_CARDS = 4096
LOOKED_FOR = ("name", "world_size", *SIZES, "reshard_after_forward")
"""Keys of the block ``sharding`` that the answer says. The others may be given, and go to the ways that have them."""


class Layout(NamedTuple):
    """A plan on so many cards of a kind. Sizes are bytes, of one rank."""

    device: Device
    cards: int
    sharding: Mapping[str, Any] | None
    """The block of a plan; ``None`` on one card."""
    plan: Plan
    result: Result
    """The estimate; where the live bytes alone are too many, of these."""
    margin: Margin
    exact: bool
    """Whether the process is known: on a GPU it is that of a replay."""

    @property
    def way(self) -> str:
        """How the cards share the model, in a few words."""
        return way_of(self.sharding)

    @property
    def label(self) -> str:
        """The layout in a few words: ``4 x h100-80gb, fsdp2``."""
        return self.device.name if self.sharding is None else f"{self.cards} x {self.device.name}, {self.way}"

    @property
    def spare(self) -> int:
        """Bytes of a card that are left; negative where the plan does not fit."""
        assert self.result.margin_bytes is not None
        return self.result.margin_bytes

    @property
    def verdict(self) -> str:
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return str(self.result.verdict_with(self.margin))

    def to_dict(self) -> dict[str, Any]:
        """The layout as an object; ``sharding`` is a plan's block."""
        return {
            "device": self.device.name,
            "cards": self.cards,
            "sharding": None if self.sharding is None else dict(self.sharding),
            "process": self.result.bytes["process"],
            "communicated": self.result.communicated,
            "margin": self.spare,
            "verdict": self.verdict,
            "peak_at": self.result.peak_at,
        }


@dataclass(frozen=True, repr=False)
class Cluster(Drawn):
    """The layouts with which a training step fits, those with the fewest cards first."""

    plan: Plan
    max_cards: int
    tried: tuple[Layout, ...]
    """All layouts that have rules, by their cards and what a rank sends."""
    left_out: Mapping[str, tuple[str, ...]]
    """What is not tried, by the reason: devices and ways to share."""

    def _brief(self) -> Mapping[str, object]:
        best = self.best
        found = {} if best is None else {"cards": best.cards, "device": best.device.name, "sharding": best.way}
        return {"model": self.plan.model, **found, "verdict": self.verdict}

    def records(self) -> list[dict[str, Any]]:
        """A row for each layout that fits; where none does, for the nearest one."""
        return [{**one.to_dict(), "sharding": one.way} for one in self.layouts or [self.nearest]]

    @property
    def most(self) -> int:
        """The most cards that are tried."""
        return self.tried[-1].cards

    @property
    def layouts(self) -> list[Layout]:
        """Those that fit, with the margin or without."""
        return [one for one in self.tried if one.result.fits]

    @property
    def best(self) -> Layout | None:
        """The first layout that fits with the margin; where none does, without it."""
        return next((one for one in self.layouts if one.verdict == "fits"), next(iter(self.layouts), None))

    @property
    def nearest(self) -> Layout:
        """The layout of which most is left on a card, or least is missing."""
        return max(self.tried, key=lambda one: one.spare)

    @property
    def verdict(self) -> str:
        """``fits``, ``tight`` (fits only without the margin) or ``does not fit``."""
        return verdict_of(bool(self.layouts), self.best is not None and self.best.verdict == "fits")

    def to_dict(self) -> dict[str, Any]:
        """The answer as an object (schema 1); its ``plan`` is one for ``estimate``."""
        best = self.best or self.nearest
        return {
            "schema": SCHEMA,
            "question": "smallest-cluster",
            "verdict": self.verdict,
            "layouts": [one.to_dict() for one in self.layouts],
            "nearest": None if self.layouts else best.to_dict(),
            "max_cards": self.max_cards,
            "left_out": {reason: list(names) for reason, names in self.left_out.items()},
            "plan": best.plan.model_dump(exclude_unset=True),
            "assumptions": [asdict(one) for one in best.result.assumptions],
            "warnings": list(best.result.warnings),
        }


def way_of(sharding: Mapping[str, Any] | None) -> str:
    """A block of sharding in a few words, without its number of processes."""
    if sharding is None:
        return "one process"
    name = sharding.get("name", "")
    kept = "reshard_after_forward" in sharding and not sharding["reshard_after_forward"]
    parts = [f"{name} without resharding" if kept else name, f"tp {sharding['tp']}" if "tp" in sharding else ""]
    host = " on the host" if sharding.get("cpu_offload") or sharding.get("offload_optimizer") == "cpu" else ""
    return ", ".join(filter(None, parts)) + host


def smallest_cluster(
    keys: Mapping[str, Any],
    devices: Sequence[str],
    max_cards: int = MAX_CARDS,
    progress: Progress = lambda: None,
    margin: Margin = STATED,
) -> Cluster:
    """The layouts of a plan on up to ``max_cards`` of one of the ``devices``, which are named.

    The plan's own device and budget are ignored; its batch is one rank's. ``progress`` is called after each layout.
    ``margin`` is kept free, by default the estimate's uncertainty. Raises ``InputError``, also where one card alone is
    refused, or no device is left.
    """
    if type(max_cards) is not int or not 1 <= max_cards <= MOST_CARDS:
        raise InputError(f"max_cards is {shown(max_cards)}; give a whole number from 1 to {MOST_CARDS:,}")
    if not devices:
        raise InputError(
            f"this question needs cards to choose from; name them: {options({'devices': ['h100-80gb', 'rtx-4090']})}"
        )
    plan, own = _without_sharding(keys, [*map(find, devices)])
    check_question("a search for cards", plan)
    left_out: dict[str, tuple[str, ...]] = {}
    cards: list[Device] = []
    for device in dict.fromkeys(map(find, devices)):
        if (why := why_left_out(device, named=False)) is None:
            cards.append(device)
        else:
            reason = why.partition(";")[0]
            left_out[reason] = (*left_out.get(reason, ()), device.name)
    if not cards:
        raise InputError(f"no device is left: {'; '.join(left_out)}; name others")
    tried: list[Layout] = []
    refused: dict[str, set[frozenset[str]]] = {}
    for ways in (WAYS, OFFLOADED):
        apart = [device for device in cards if ways is WAYS or on_device(plan, device).engine.has_own_memory]
        for count, sharding in _layouts(max_cards, own, ways):
            shared: list[_Shared] = []
            for device in apart:
                try:
                    tried.append(_layout(on_device(plan, device), device, count, sharding, margin, shared))
                except InputError as error:
                    if sharding is None:
                        raise
                    refused.setdefault(_reason(str(error)), set()).add(_parts(sharding))
                finally:
                    progress()
        if any(one.result.fits for one in tried):
            break
    tried.sort(key=lambda one: (one.cards, one.result.communicated, one.device.usable_bytes, one.device.name))
    return Cluster(plan, max_cards, tuple(tried), {**left_out, **_ways(refused)})


def _without_sharding(keys: Mapping[str, Any], devices: Iterable[Device]) -> tuple[Plan, Mapping[str, Any]]:
    """The plan of one process, and the options of a block of sharding that are given. Raises ``InputError``."""
    block = keys.get("sharding") or {}
    if not isinstance(block, Mapping) or (given := next((key for key in LOOKED_FOR if key in block), None)):
        named = "sharding" if not isinstance(block, Mapping) or given == "name" else given
        raise InputError(f"smallest-cluster looks for {named}; leave {named} out of the plan")
    checked(ShardingOptions, dict(block), "sharding", "sharding.")
    return parse_anywhere({key: value for key, value in keys.items() if key != "sharding"}, devices), block


def _layouts(
    max_cards: int, own: Mapping[str, Any], ways: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    """How many cards, and the block of sharding; ``own`` options are added to the ways that have them."""
    if ways is WAYS:
        yield 1, None
    cards = 2 if ways is WAYS else 1  # what is on the host needs no others
    while cards <= max_cards:
        for tp in TENSOR_PARALLEL if ways is WAYS else (1,):
            size = {"tp": tp} if tp > 1 else {}
            if tp == cards > 1:
                yield cards, size
            for way in ways if tp == 1 or tp < cards else ():
                name = way["name"]
                taken = {key: value for key, value in own.items() if name in SHARDINGS and _takes(name, key)}
                yield cards, {**way, **taken, "world_size": cards, **size}
        cards *= 2


def _takes(name: str, key: str) -> bool:
    return key in kind_of(name).__dataclass_fields__


class _Shared(NamedTuple):
    """What cards share of one layout, if they answer alike what the rules ask."""

    step: Step
    """That of the first card."""
    answers: Answers
    totals: StepTotals
    logs: Any

    def serves(self, step: Step) -> bool:
        """Whether the step of another card has the same totals and logs."""
        device = self.step.device
        return step._replace(device=device) == self.step and step.device.is_alike(device, self.answers)


def _layout(
    plan: Plan, device: Device, cards: int, sharding: Mapping[str, Any] | None, margin: Margin, shared: list[_Shared]
) -> Layout:
    """A layout with its estimate. Raises ``InputError`` where it is refused."""
    if sharding is not None:
        plan = plan.model_copy(update={"sharding": read(sharding)})
        check(plan)
    resolved = resolve(plan)
    step = resolved.step
    known = next((one for one in shared if one.serves(step)), None)
    with noting({} if known is None else known.answers) as answers:
        if known is None:
            totals = run(step, resolved.sizes(), resolved.method, plan.batch, plan.seq)
            known = _Shared(step, answers, totals, plan.engine.logs() if plan.engine.replays else None)
            shared.append(known)
        result = live_of(resolved, known.totals)
        exact = not plan.engine.replays or bool(result.fits)
        if plan.engine.replays and exact:
            result = to_result(resolved, known.totals, says_where=False, logs=known.logs)
    return Layout(device, cards, sharding, plan, result, margin, exact)


def _parts(sharding: Mapping[str, Any]) -> frozenset[str]:
    """What a layout is made of: the name of its way to share, tensor parallelism, or both."""
    return frozenset({str(sharding["name"])} if "name" in sharding else ()) | ({"tp"} if "tp" in sharding else set())


_OF_A_WAY = re.compile(r"^sharding: .+?(?= does not go with ) ")
"""What a refusal begins with that names the way, which its reason does not repeat."""


def _reason(refusal: str) -> str:
    """Why layouts are refused, the same for all that have no rule with something."""
    said = _OF_A_WAY.sub("", refusal.partition(";")[0].partition(" (`")[0])
    _, no_rule, rest = said.partition("has no rule")
    if not no_rule:
        return said
    return "no rule yet" if "with sharding" in rest else f"no rule{rest.removeprefix('s')}"  # a pair, or a way alone


def _ways(refused: Mapping[str, Collection[frozenset[str]]]) -> dict[str, tuple[str, ...]]:
    """The ways that are refused, by the reason, each once. One that is refused by itself says it for its pairs."""
    known = {way for ways in refused.values() for way in ways}
    left = {way for way in known if not any(other < way for other in known)}
    found: dict[str, tuple[str, ...]] = {}
    for reason, ways in refused.items():
        if own := left & {*ways}:
            found[reason] = tuple(sorted(" x ".join(sorted(way, key="tp".__eq__)) for way in own))
        left -= own
    return found
