"""The answer to a plan, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from ..bases.formats import BITSANDBYTES, TORCHAO
from ..engines.assumptions import Assumption
from ..engines.engine import HOST, Figures, Limit, host_limit
from ..engines.replay import Phase, Usage
from ..engines.torch import LIBRARIES_BYTES
from ..moments.options import processes_of_host
from ..plans.margins import NOT_SURE, STATED, Margin, deciding, verdict_of
from ..plans.models import ModelSpec
from ..plans.plan import Plan
from ..plans.recorded_programs import ignored
from ..plans.resolve import given_of
from ..programs.heads import HEADS
from ..programs.images import Seen
from ..steps.optimizers import OPTIMIZERS
from ..steps.trainers import TRAINERS
from ..text import human
from .tabular import Drawn

if TYPE_CHECKING:  # of plans with the block ``run``
    from ..moments.moment import Moment

SCHEMA = 1
ON_HOST = (
    *("host_pinned", "host_parameters", "host_gradients", "host_optimizer", "host_peak", "host_all"),
    *("host_loading", HOST),
)
"""The keys of ``Result.bytes`` that are of a GPU's host, and no part of the process's figures."""
STEP = "step"
"""The moment of a run that is its training step, whose figures are the result's own."""


@dataclass(frozen=True, repr=False)
class Result(Drawn):
    """The answer to a plan. Sizes are bytes."""

    model: str
    asked: str
    """The question in words: what is done with the model, and in which program."""
    task: str
    runtime: str
    bytes: Mapping[str, int]
    """parameters, adapters, buffers, gradients, optimizer, saved, resident, peak_above_resident, peak, process; for
    task infer also kv_cache; communication, where sharding keeps something between steps. What waits or rests in the
    memory of a GPU's host is no part of these: host_pinned; and where parameters or states rest there,
    host_parameters, host_gradients, host_optimizer, host_peak, and host_all of all processes of a host. For a plan with
    host_memory also host_loading, of all processes, and host, which it limits: the larger of what they hold while they
    load and in a step, and their libraries. run, for a plan with that block, is of the process in the largest moment of
    the run."""
    trainable_parameters: int
    total_parameters: int
    peak_at: str
    moments: Mapping[str, int]
    """Named moments and the bytes above resident reached there."""
    fits: bool | None
    budget_bytes: int | None
    warnings: tuple[str, ...] = field(default=())
    transformers: str = ""
    """The release of transformers whose modules run; empty where none does."""
    peft: str = ""
    """The release of PEFT whose adapters run; empty where none does."""
    communicated: int = 0
    """Bytes that a rank of a sharded step sends to others."""
    ranks: tuple[Mapping[str, Any], ...] = field(default=())
    """On a CPU, where ranks differ: the ``ranks`` that are alike, as "0-5", and their ``bytes``."""
    uncertainty: float = 0.0
    """The share of ``process`` by which measured processes differ from predictions."""
    against: str = "process"
    """The key of the ``bytes`` that the budget limits: ``process``, or what the device's system counts."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Where a device has several limits, the bytes of each, by the key of the ``bytes`` that it limits.
    ``budget_bytes`` is the limit of which least is left."""
    assumptions: tuple[Assumption, ...] = field(default=())
    """Assumptions that are neither published nor measured."""
    run: Mapping[str, Any] | None = None
    """For a plan with ``lengths``: the run's batches, the probability that one runs out of memory, and on a GPU the
    bytes that batches reserve."""
    phases: tuple[Phase, ...] = field(default=())
    """On a GPU: allocated and reserved bytes after loading, in each phase of the step, and after the step."""

    run_moments: tuple[Moment, ...] = field(default=())
    """For a plan with the block ``run``: its moments in their order, above what the process had before."""
    largest: Moment | None = None
    """The moment of the run in which the memory that a budget limits is most in use."""

    devices: tuple[Mapping[str, Any], ...] = field(default=())
    """Where one process uses several devices: the name and the bytes of each, and at the end those of the host."""
    serving: Mapping[str, float] = field(default_factory=dict)
    """Of ``task: serve``: ``kv_tokens``, the tokens of the cache, and ``max_concurrency``, the requests that fit at
    once."""

    unknown: tuple[str, ...] = ()
    """What was read and changes memory by an amount without a rule, by name. The verdict is "not sure"."""
    lacking: int | None = None
    """Where a GPU's process fills the budget: the bytes that it lacked after cached memory went back, 0 if none."""

    images: Mapping[str, Any] = field(default_factory=dict)
    """Of a plan with images: for each of a row its ``tiles``, their ``pixels`` (height and width), its ``tokens``, and
    those ``around`` them that the processor adds; and ``text_tokens``, the tokens of a row that are left."""

    html: ClassVar[Callable[[Any], str]]
    """Writes a result in HTML, with its sentences; put here as ``figure`` is."""

    @property
    def binds(self) -> str:
        """The moment that decides the verdict: of a run, or of the step's peak."""
        return self.peak_at if self.largest is None or self.largest.moment == STEP else self.largest.moment

    @property
    def margin_bytes(self) -> int | None:
        """Bytes of the budget that are left (not those that a ``Margin`` keeps free); negative if some are missing."""
        return None if self.budget_bytes is None else self.budget_bytes - self.bytes[self.against]

    def kept(self, margin: Margin) -> int:
        """Bytes of the budget that a margin keeps free. A share is of the limited bytes, but for dirty and used memory
        of the whole process, since the uncertainty is of measured processes.
        """
        return margin.of(self.bytes["process" if self.against in ("dirty", "used") else self.against], self.uncertainty)

    @property
    def host_memory(self) -> int | None:
        """The machine's RAM in bytes, where the plan has it and something is held there."""
        return self.budget_bytes if self.against == HOST else self.limits.get(HOST)

    def held_against(self, budget: int) -> Result:
        """The same result with a budget in bytes. Where the host runs out, that decides."""
        host, against = self.host_memory, "process" if self.against == HOST else self.against
        if host is not None and self.bytes[HOST] > host:
            budget, against = host, HOST
        return replace(self, budget_bytes=budget, against=against, fits=self.bytes[against] <= budget)

    @property
    def uncertainty_bytes(self) -> int:
        """``uncertainty`` in bytes."""
        return self.kept(STATED)

    def verdict_with(self, margin: Margin) -> str | None:
        """``fits``, ``tight`` (fits only without the margin), ``does not fit``, or ``not sure`` where something is
        ``unknown``; ``None`` without a budget.
        """
        if self.margin_bytes is None:
            return None
        if self.unknown:
            return NOT_SURE
        return verdict_of(bool(self.fits), bool(self.fits) and self.margin_bytes >= self.kept(margin))

    @property
    def verdict(self) -> str | None:
        """The verdict with the uncertainty as margin."""
        return self.verdict_with(STATED)

    def to_dict(self) -> dict[str, Any]:
        """The result object of the project's contract (schema 1)."""
        answer: dict[str, Any] = {
            "schema": SCHEMA,
            "model": self.model,
            "asked": self.asked,
            "task": self.task,
            "runtime": self.runtime,
            "bytes": dict(self.bytes),
            "trainable_parameters": self.trainable_parameters,
            "peak_at": self.peak_at,
            "fits": None if self.unknown else self.fits,
            "budget_bytes": self.budget_bytes,
            "warnings": list(self.warnings),
            "assumptions": [asdict(one) for one in self.assumptions],
        }
        more: dict[str, Any] = {"transformers": self.transformers, "peft": self.peft, "limits": dict(self.limits)}
        more |= {
            "unknown": list(self.unknown),
            "images": dict(self.images),
            "communicated": self.communicated,
            "ranks": [dict(one) for one in self.ranks],
        }
        answer |= {key: value for key, value in more.items() if value}
        if self.verdict is not None:
            answer["verdict"] = self.verdict
            answer["margin_bytes"] = self.margin_bytes
            answer["uncertainty_bytes"] = self.uncertainty_bytes
        if self.phases:
            answer["phases"] = [asdict(phase) for phase in self.phases]
        answer |= self.serving
        if self.devices:
            answer["devices"] = [dict(one) for one in self.devices]
        if self.run is not None:
            answer["run"] = dict(self.run)
        if self.largest is not None:
            answer["run_moments"] = [asdict(one) for one in self.run_moments]
            answer["largest_moment"] = self.largest.moment
        return answer

    def _brief(self) -> Mapping[str, object]:
        verdict = {} if self.verdict is None else {"verdict": self.verdict}
        return {"model": self.model, self.against: human(self.bytes[self.against]), "peak_at": self.peak_at, **verdict}

    def records(self) -> list[dict[str, Any]]:
        """A row for each component, in bytes."""
        return [{"component": name, "bytes": nbytes} for name, nbytes in self.bytes.items()]

    def _repr_html_(self) -> str:
        return type(self).html(self)


def _experts_note(plan: Plan, spec: ModelSpec) -> list[str]:
    """Warnings that experts are not quantised, where all of a layer are one parameter, which is no linear layer, and
    that a trainer's loss has more to it.
    """
    if not spec.config.source.has_experts:
        return []
    balanced = [
        f"trainer: {plan.trainer} adds the experts' load-balancing loss (router_aux_loss_coef), which is left out: it "
        "keeps a few numbers for each token, expert and layer"
    ]
    found = balanced if plan.trainer in TRAINERS and plan.trainer != "trl-reward" else []
    if plan.dtype not in (*BITSANDBYTES, *TORCHAO):
        return found
    return [
        *found,
        f"dtype: {plan.dtype} does not quantise the experts: under transformers {plan.transformers} those of a layer "
        f"are one parameter, which stays in {plan.held_dtype}",
    ]


def _images(plan: Plan, spec: ModelSpec) -> tuple[dict[str, Any], tuple[Assumption, ...]]:
    """``Result.images``, and by which rule it is so."""
    images, video = given_of(plan, spec).images, plan.video_frames is not None
    if not images:
        return {}, ()
    processor = spec.processor("video" if video else "image")
    found: dict[str, Any] = {
        "tiles": [one.tiles for one in images],
        "pixels": [[one.height, one.width] for one in images],
    }
    said = [_seen(one, len(list(same))) for one, same in groupby(images)]
    if HEADS[spec.head].text:
        left = plan.seq - sum((one.tokens or 0) + one.around for one in images)
        found |= {"tokens": [one.tokens for one in images], "around": [one.around for one in images]}
        found["text_tokens"] = left
        said.append(f"{left:,} of seq are left for text")
    if processor is None:
        why = (
            "no preprocessor_config.json lies beside the config.json, so an image is one tile, or whole patches within "
        )
        why += "the limits of the processor's class"
    elif not processor.known:
        why = (
            f"{processor.name} is a class without a rule here, so an image is one tile, or whole patches within limits"
        )
    else:
        why = f"the rule of {processor.name}"
    return found, (Assumption("video_frames" if video else "images", "; ".join(said), why),)


def _seen(one: Seen, count: int) -> str:
    """In words: 2 of 13 tiles of 364x364, 2,197 tokens and 29 around them each."""
    tiles = f"{one.tiles} tiles of " if one.tiles > 1 else ""
    around = f" and {one.around:,} around them" if one.around else ""
    tokens = f", {one.tokens:,} tokens{around}" if one.tokens else ""
    return f"{count} of {tiles}{one.height}x{one.width}{tokens}{' each' if count > 1 and tokens else ''}"


def result_of(plan: Plan, figures: Figures, margin: Margin = STATED) -> Result:
    """The result from an engine's figures. Of several limits, it has the one of which least is left with a margin."""
    sizes, limits, uncertainty = figures.bytes, figures.limits, plan.uncertainty
    verdict, exceeded = judged(limits, uncertainty, margin)
    return Result(
        model=plan.model,
        asked=plan.asked,
        task=plan.task,
        runtime=plan.runtime,
        bytes=sizes,
        trainable_parameters=figures.trainable_parameters,
        total_parameters=figures.total_parameters,
        peak_at=max(figures.moments, key=lambda name: figures.moments[name]),
        moments=dict(sorted(figures.moments.items(), key=lambda item: -item[1])),
        warnings=(*figures.warnings, *exceeded),
        uncertainty=uncertainty,
        **verdict,
        assumptions=(*plan.assumptions(), *figures.assumptions),
        phases=figures.phases,
        devices=figures.devices,
        serving=dict(figures.serving),
        unknown=figures.unknown,
    )


def judged(
    limits: Sequence[Limit], uncertainty: float, margin: Margin = STATED
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a result that its limits decide, and what is said where the nearest of them is exceeded."""
    limit = margin.tightest(limits, uncertainty)
    fields = {
        "fits": None if limit.budget is None else all(one.left >= 0 for one in deciding(limits)),
        "budget_bytes": limit.budget,
        "against": limit.against,
        "limits": {one.against: one.budget for one in limits if one.budget is not None} if len(limits) > 1 else {},
    }
    exceeded = limit.budget is not None and margin.left(limit, uncertainty) < 0
    return fields, tuple(filter(None, (limit.exceeded,))) if exceeded else ()


def make_result(
    plan: Plan,
    spec: ModelSpec,
    components: Mapping[str, int],
    moments: Mapping[str, int],
    usage: Usage | None = None,
    on_host: Mapping[str, int] = MappingProxyType({}),
    warnings: Sequence[str] = (),
) -> Result:
    """The result of a step, from the ``COMPONENTS`` and the bytes of the moments above resident.

    The process is that of ``usage``; without one the live bytes, and what the engine holds beside them. ``on_host`` are
    bytes of a GPU's host.
    """
    shown = {
        "kv_cache": plan.task == "infer",
        **{name: bool(components[name]) for name in ("communication", "reference")},
    }
    sizes = {name: components[name] for name in BYTES if shown.get(name, True)}
    sizes["resident"] = sum(components[name] for name in RESIDENT)
    sizes["peak_above_resident"] = max(moments.values())
    sizes["peak"] = sizes["resident"] + sizes["peak_above_resident"]
    beside = None if usage is None else usage.beside
    process = plan.engine.process(plan, sizes["peak"] if usage is None else usage.reserved_peak)
    process += 0 if beside is None else beside.held
    sizes["process"] = process
    sizes |= on_host
    rests = []
    there = processes_of_host((plan.sharding and plan.sharding.world_size) or 1, plan.run)
    if "host_peak" in sizes:
        sizes["host_all"] = there * sizes["host_peak"]
        rests.append(
            f"the host holds {human(sizes['host_peak'])} of a process beside its interpreter and libraries, "
            f"{human(sizes['host_all'])} of {there:,} processes; each pinned block is a power of two"
        )
    if usage is not None:
        sizes |= {"allocated_peak": usage.allocated_peak, "reserved_peak": usage.reserved_peak}
    limits = [Limit("process", process, plan.budget_bytes(), process)]
    if beside is not None:
        sizes |= beside.bytes
        limits.append(Limit(*beside.limit))
    held = max(sizes.get("host_all", 0), there * sizes.get("host_pinned", 0), sizes.get("host_loading", 0))
    for one in host_limit(held and held + there * LIBRARIES_BYTES, plan.host_memory_bytes()):
        sizes[HOST] = one.needed
        limits.append(one)
    figures = Figures(
        sizes,
        moments,
        components["total_parameters"],
        tuple(limits),
        components["trainable_parameters"],
        (
            *spec.warnings,
            *_on_disk(plan, spec, components["total_parameters"]),
            *_origin(spec),
            *ignored(str(spec.raw.get("model_type")), spec.release),
            *plan.method.inner.notes(plan.engine.has_own_memory, plan.task),
            *_beyond(plan, spec),
            *(() if plan.engine.has_own_memory else OPTIMIZERS[plan.optimizer].warnings),
            *_experts_note(plan, spec),
            *_packing_note(plan),
            *_phase_note(plan, max(moments, key=moments.__getitem__)),
            *warnings,
            *rests,
            *(() if usage is None else usage.warnings),
        ),
        phases=() if usage is None else usage.phases,
    )
    images, by = _images(plan, spec)
    return replace(
        result_of(plan, figures._replace(assumptions=(*figures.assumptions, *by))),
        images=images,
        lacking=None if usage is None else usage.lacking,
        transformers=transformers_of(plan, spec),
        peft=_peft(plan, spec),
        communicated=components["communicated"]
        + max(plan.gradient_accumulation_steps - 3, 0) * components["communicated_again"],
    )


_TURNS = {
    "generation": "fewer completions at once (batch, steps_per_generation), or use_vllm, take less",
    "generation of an update": "a smaller batch takes less",
    "scoring": "a smaller batch with more gradient_accumulation_steps takes less",
    "the update": "a smaller batch with more gradient_accumulation_steps, or checkpointing: layer, takes less",
}
"""What takes less in each phase of a trainer that generates."""


def _phase_note(plan: Plan, peak_at: str) -> list[str]:
    """Of a trainer that generates, which of its phases holds the peak, and what to turn."""
    trainer = TRAINERS.get(plan.trainer or "") if plan.task == "train" else None
    if trainer is None or not trainer.num_generations:
        return []
    phases = {"prefill": "generation", "decode": "generation", "scoring": "scoring"}
    phase = phases.get(peak_at.split()[-1], "the update")
    turn = _TURNS["generation of an update" if phase == "generation" and not trainer.scores else phase]
    return [f"of generation, scoring and the update, {phase} holds the peak of the live bytes; {turn}"]


def _packing_note(plan: Plan) -> list[str]:
    """Of a packed row, what each token attends to."""
    if not plan.packing or plan.batch == 1:
        return []
    if plan.attention == "flash":
        return [f"flash_attn_varlen_func attends within each of the {plan.batch:,} sequences of the packed row alone"]
    return [
        f"attention: {plan.attention} computes the scores of all {plan.row:,} tokens of the packed row, and a mask "
        "hides the other sequences; attention: flash computes those within each sequence alone"
    ]


def _on_disk(plan: Plan, spec: ModelSpec, parameters: int) -> list[str]:
    """Warnings where the weights in the model's folder are others than the plan's: their number, or their dtype."""
    files, found = spec.checkpoint, []
    if files is None:
        return []
    whole = plan.base is None and (plan.task == "infer" or plan.method.name == "full")
    if whole and files.parameters not in (None, parameters):
        found.append(
            f"the files hold {files.parameters:,} parameters, and the model of the config.json has {parameters:,}: the "
            "answer is of the config.json"
        )
    if "dtype" not in plan.model_fields_set and files.dtype not in (None, plan.dtype):
        found.append(f"the files hold {files.dtype}, which from_pretrained keeps: give dtype {files.dtype} for it")
    return found


def _origin(spec: ModelSpec) -> list[str]:
    """A warning that says which releases of the libraries a recorded program is from."""
    return [origin] if (origin := spec.config.source.origin) else []


def transformers_of(plan: Plan, spec: ModelSpec) -> str:
    """The release of transformers whose modules run; empty for another library's, or the user's own."""
    return spec.config.source.release if plan.implementation == "transformers" else ""


def _peft(plan: Plan, spec: ModelSpec) -> str:
    """The release of PEFT whose adapters run; empty for a method that PEFT does not make, and for another library's."""
    of_method = plan.method.inner.peft_release if plan.implementation == "transformers" else ""
    return spec.config.source.peft_release or of_method


def _beyond(plan: Plan, spec: ModelSpec) -> list[str]:
    """A warning where inference has more positions than the model was made for, or a step more than it has learned."""
    tokens = plan.tokens_of(spec.head)
    if tokens <= spec.made_for:
        return []
    if spec.positions < tokens:
        return [f"the model has learned {spec.made_for:,} positions, and a step with {tokens:,} stops in PyTorch"]
    more = f"the model was made for {spec.made_for:,} positions; {tokens:,} are more"
    return [] if plan.task == "train" else [more]


RESIDENT = ("parameters", "buffers", "optimizer", "communication", "reference")
"""The parts of what is there between steps."""
BYTES = (
    *("parameters", "adapters", "buffers", "gradients", "optimizer", "saved", "kv_cache", "communication"),
    "reference",
)
"""The parts of a step's totals that a rank has."""
COMPONENTS = (*BYTES, "communicated", "communicated_again", "trainable_parameters", "total_parameters")
"""The fields of a step's totals beside the moments: bytes that a rank has, bytes that it sends, and two numbers of
parameters."""
