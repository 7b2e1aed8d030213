"""What servers on GPUs have in common: one question, what an engine says at its start, and the figures of a plan."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from ...errors import InputError
from ..devices import Device, find
from ..engine import Engine, Figures, Limit, Spec, host_limit
from .checkpoint import Checkpoint, checkpoint, positions
from .command_line import Grammar
from .weights import shapes_of

GIB = 2**30


class Cache(Protocol):
    """What a rank keeps of requests."""

    def needed(self, tokens: int, options: Any) -> int:
        """Blocks of a request of so many tokens."""


@dataclass(frozen=True)
class Start:
    """What an engine says at its start."""

    options: Any
    bytes: dict[str, int]
    """Of the GPU that has the fewest blocks; among them ``weights``, ``non_torch``, ``requested`` (what the engine may
    take), ``available`` (what is left for the cache, below 0 where it is missing), ``kv_cache`` and ``block``.
    """
    cache: Cache
    blocks: int
    kv_tokens: int
    max_concurrency: float
    """Requests of the longest length that fit at once."""
    refusal: str | None
    """The error that stops it, in its words."""
    log: tuple[str, ...]
    """What its log says, in its words."""
    step: int
    """Tokens of which a request's cache is a multiple."""
    warnings: tuple[str, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether it starts, and takes a request of the longest length."""
        return self.refusal is None and self.max_concurrency >= 1


class Served(Engine):
    """An engine that serves requests from GPUs."""

    has_own_memory = True
    reads_checkpoints = False
    reads_programs = True
    defaults = MappingProxyType({"task": "serve"})

    block: ClassVar[str]
    """The key of a plan with its options."""
    grammar: ClassVar[Grammar]
    """Its command line."""
    options: ClassVar[type[BaseModel]]
    """Its options, with the dtype, which is a plan's own key."""
    length: ClassVar[str]
    share: ClassVar[str]
    ranks_key: ClassVar[str]
    stages_key: ClassVar[str]
    rows_key: ClassVar[str]
    draft: ClassVar[str]
    """Its names for the longest request, its share of a GPU, the ranks that split layers and those that have some of
    them, the requests of a step, and the model that drafts."""
    labels: ClassVar[Mapping[str, str]]
    """The parts of a GPU's memory, with their labels."""
    resident: ClassVar[Sequence[str]] = ("weights",)
    working: ClassVar[Sequence[str]]
    """Of them those that stay, beside the cache, and those that steps use."""
    moment: ClassVar[str] = "profiling run"
    """When they use most."""
    often: ClassVar[Sequence[str]]
    """Options that ``--help`` shows."""

    # What an engine says.

    @abstractmethod
    def resolved(self, options: Any, spec: Spec, gpu: Device) -> Any:
        """The options with the engine's defaults. Raises ``InputError`` in its words."""

    @abstractmethod
    def check(self, options: Any, gpu: Device) -> None:
        """Raise ``InputError`` for a device that is no CUDA GPU, or on which the engine refuses the options."""

    @abstractmethod
    def start(self, model: Checkpoint, options: Any, gpu: Device) -> Start:
        """What it says of options with its defaults. Raises ``InputError`` in its words."""

    @abstractmethod
    def remedies(self, options: Any) -> Mapping[str, Sequence[Any]]:
        """Options that take less, each with values, the best first."""

    def notes(self, options: Any) -> tuple[str, ...]:
        """Sentences about options with its defaults."""
        return ()

    # Plans.

    def asked(self, plan: Any) -> str:
        return f"serving with {self.title}"

    def heading(self, plan: Any) -> str:
        return f"{plan.model}, {plan.batch:,} requests of {plan.seq:,} tokens, {self.release(plan)}, {plan.device}"

    def release(self, plan: Any) -> str:
        return f"{self.title} {getattr(plan, self.block).release}"

    def device_of(self, plan: Any) -> Device | None:
        return None if plan.device is None else find(plan.device)

    def runs_alike(self, plan: Any, device: Device) -> bool:
        return device.capability is not None

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Checkpoint:
        return checkpoint(plan.model, load, getattr(getattr(plan, self.block), self.draft))

    def given(self, plan: Any) -> dict[str, Any]:
        """The options that a plan gives; the engine's defaults of others depend on these."""
        options: dict[str, Any] = getattr(plan, self.block).model_dump(exclude_unset=True)
        return options

    def contexts(self, plan: Any, model: Checkpoint) -> tuple[int, int, int, int]:
        gpu = find(plan.device)
        options = self.resolved(self.options(**self.given(plan)), model.spec, gpu)
        return plan.seq, 1, positions(model.spec.raw) or plan.seq, self.start(model, options, gpu).step

    def figures(self, plan: Any, model: Checkpoint) -> Figures:
        gpu = find(plan.device)
        dtype = plan.dtype if "dtype" in plan.model_fields_set else "auto"
        asked = {self.length: plan.seq, **self.given(plan), "dtype": dtype}
        given = self.options(**asked)
        options = self.resolved(given, model.spec, gpu)
        self.check(options, gpu)
        found = self.start(model, options, gpu)
        sizes = found.bytes
        cache = plan.batch * found.cache.needed(plan.seq, options) * sizes["block"]
        above = sum(sizes[part] for part in self.working)
        resident = sum(sizes[part] for part in self.resident) + cache
        process = resident + above + sizes["non_torch"]
        on_host = self.on_host(options)
        of_host = host_limit(sum(on_host.values()), plan.host_memory_bytes())
        limits = (Limit("process", process, sizes["requested"], process), *of_host)
        figures = {
            **{name: sizes[name] for name in self.labels if name not in ("kv_cache", "requested")},
            "kv_cache": cache,
            "available": sizes["kv_cache"],
            "requested": sizes["requested"],
            **on_host,
            **{one.against: one.needed for one in of_host},
            "parameters": sizes["weights"],
            **dict.fromkeys(("adapters", "buffers", "gradients", "optimizer", "saved"), 0),
            "resident": resident,
            "peak_above_resident": above,
            "peak": resident + above,
            "process": process,
        }
        return Figures(
            figures,
            {self.moment: above},
            sum(prod(shape) for shape in shapes_of(model.spec.config).values()),
            limits,
            warnings=(*model.warnings, *model.spec.warnings, *filter(None, (found.refusal,)), *found.warnings),
            unknown=self.unknown(model, given, gpu) if all(one.left >= 0 for one in limits) else (),
            serving={"kv_tokens": found.kv_tokens, "max_concurrency": round(found.max_concurrency, 2)},
        )

    def unknown(self, model: Checkpoint, options: Any, gpu: Device) -> tuple[str, ...]:
        """What takes more of the GPU by an amount without a rule, by name. ``options`` are those that were given."""
        family = str(model.spec.raw.get("model_type"))
        looks = family.endswith("_text") and family != "gemma3_text"  # which Gemma 3 1B has, without a vision encoder
        looks = looks or getattr(model.spec, "whole", None) is not None
        found = ["the vision encoder of its checkpoint"] if looks else []
        return (*found, *(["the free share of unified memory"] if gpu.kind == "board" else []))

    def on_host(self, options: Any) -> Mapping[str, int]:
        """Figures of the host's memory, of all ranks. SGLang and vLLM keep the first weights of each rank there."""
        offloaded = round(options.cpu_offload_gb * GIB) * options.world
        return {"host_weights": offloaded} if offloaded else {}

    def check_capability(self, options: Any, gpu: Device, least: tuple[int, int]) -> None:
        """Raise ``InputError`` for a device that is no CUDA GPU, or none for the engine and the dtype."""
        if gpu.capability is None:
            raise InputError(
                f"device {gpu.name} runs no CUDA; name a GPU that `estimator devices` lists, such as a100-80gb"
            )
        if gpu.capability < least:
            raise InputError(
                f"{self.title} needs compute capability {'{}.{}'.format(*least)}, and {gpu.label} has "
                f"{'{}.{}'.format(*gpu.capability)}"
            )
        if options.dtype == "bfloat16" and gpu.capability < (8, 0):
            raise InputError(
                f"{self.title} refuses bfloat16 below compute capability 8.0, which {gpu.label} is; set dtype to "
                "float16"
            )
