"""llama.cpp: from a plan to the buffers of a process, and to its resident memory.

The buffers are those that the engine reports. ``process`` is the peak resident set while it decodes. The compute
buffer is reserved for the logits of a whole batch; decoding computes them for the last token of each sequence only, and
never touches most of the buffer's pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from ..engines.assumptions import Assumption
from ..engines.devices import Device, context_bytes, find
from ..engines.llama_cpp import convert, gguf_file, hparams
from ..engines.llama_cpp.builds import BUILDS
from ..engines.llama_cpp.header import Header
from ..engines.llama_cpp.usage import UNCERTAINTY, Usage, usage
from ..files import existing
from ..plans.margins import NO_MARGIN, STATED, Margin
from ..plans.models import load
from ..plans.plan import Plan
from ..text import human
from .result import Result

_ARM = ("Android phone", "board")
_PLAIN = ("raspberry-pi-4", "jetson-nano")
"""Boards with ARMv8.0 cores (Cortex-A72, A57), which have no dot-product instructions."""


@dataclass(frozen=True)
class Model:
    """A model as llama.cpp sees it."""

    name: str
    header: Header
    from_file: bool
    """Whether the header was read from a GGUF file, not made from a config."""
    warnings: tuple[str, ...]

    @cached_property
    def trained(self) -> int:
        """The positions that it was made for. Raises ``InputError`` where the header does not say."""
        return hparams.read(self.header).n_ctx_train


def model_of(plan: Plan) -> Model:
    """A plan's model, from its GGUF file or from its config and recipe. Raises ``InputError``."""
    path = existing(Path(plan.model))
    if path is not None and plan.from_gguf:
        return Model(path.name, gguf_file.read(path), True, ())
    spec = load(plan.model)
    return Model(spec.name, convert.header(spec.raw, spec.name, plan.dtype), False, spec.warnings)


def device_of(plan: Plan) -> Device | None:
    """The plan's device. Raises ``InputError``."""
    return None if plan.device is None else find(plan.device)


def backend_of(plan: Plan) -> str:
    """The plan's backend, by default its device's. Raises ``InputError`` for an unknown device."""
    device, chosen = device_of(plan), plan.llama_cpp.backend
    if device is None or chosen is not None:
        return chosen or "cpu"
    if device.is_apple:
        return "metal"
    if device.name.startswith(_PLAIN):
        return "cpu-plain"
    if device.kind in _ARM:
        return "cpu-arm"
    return "cuda" if device.capability is not None else "vulkan" if device.kind.startswith("GPU") else "cpu"


def usage_of(plan: Plan, model: Model) -> Usage:
    """The buffers of a plan. Raises ``InputError``."""
    options, header = plan.llama_cpp, model.header
    seq = plan.seq if "seq" in plan.model_fields_set else None
    return usage(
        header,
        options.parameters(plan.batch, seq, model.trained),
        BUILDS[options.build],
        backend_of(plan),
        use_mmap=options.use_mmap,
        repack=options.repack,
        tokenizer=header.tokens is not None or not model.from_file,
    )


def estimate(plan: Plan) -> Result:
    """The answer to a plan of runtime llama.cpp. Raises ``InputError``."""
    model = model_of(plan)
    return to_result(plan, model, usage_of(plan, model))


@dataclass(frozen=True)
class Limit:
    """A limit of a plan's memory. Sizes are bytes."""

    against: str
    """The bytes that are limited: ``process``, ``dirty``, ``used`` or ``device``."""
    needed: int
    budget: int | None
    uncertain: int
    """The bytes of which the uncertainty is a share. For dirty and used memory it is the whole process: its clean pages
    are certain, so that all of its difference from a prediction is dirty memory."""

    def left(self, margin: Margin) -> int:
        """Bytes of the budget that remain beside the need and the margin; negative if some are missing."""
        assert self.budget is not None
        return self.budget - self.needed - margin.of(self.uncertain, UNCERTAINTY)


def limits_of(plan: Plan, use: Usage) -> tuple[Limit, ...]:
    """All limits of a plan: the budget, or what the device's system allows one app. Raises ``InputError``.

    iOS limits the dirty memory of an app. Mapped weights that are read for every token must find room in the RAM, too,
    or they are read from storage each time: the RAM that the system leaves is then a second limit. A budget replaces
    the limit of one app; if it is more than the system is assumed to leave, it replaces the second limit, too.
    """
    device, budget = device_of(plan), plan.budget_bytes()
    process = use.clean + use.dirty
    if use.backend in ("cuda", "vulkan"):
        needed = _on_device(plan, use)
        return (Limit("device", needed, budget, needed),)
    if device is None or device.counts == "all":
        return (Limit("process", process, budget, process),)
    if device.counts == "used":
        return (Limit("used", use.used, budget, process),)
    assert budget is not None
    ram = max(device.total_bytes - device.system_bytes, budget)
    return (Limit("dirty", use.dirty, budget, process), Limit("used", use.used, ram, process))


def limit_of(limits: tuple[Limit, ...], margin: Margin) -> Limit:
    """The limit of which least is left."""
    return limits[0] if limits[0].budget is None else min(limits, key=lambda limit: limit.left(margin))


def _on_device(plan: Plan, use: Usage) -> int:
    """Bytes of a GPU's memory: the buffers, and the CUDA context of a known device."""
    device = device_of(plan)
    driver = context_bytes(device)[0] if device is not None and device.capability is not None else 0
    return use.weights.device + use.context.kv_bytes + use.context.recurrent_bytes + use.reserved[0] + driver


def to_result(plan: Plan, model: Model, use: Usage, margin: Margin = STATED) -> Result:
    """The result from the buffers. Of several limits, it has the one of which least is left with the ``margin``."""
    context, weights, touched = use.context, use.weights, sum(use.touched)
    held = weights.mapped + weights.repacked + weights.read + weights.device
    resident = held + context.kv_bytes + context.recurrent_bytes + context.output_bytes
    sizes = {
        "weights": weights.total,
        "mapped": weights.mapped,
        "repacked": weights.repacked,
        "kv_cache": context.kv_bytes,
        "recurrent_state": context.recurrent_bytes,
        "compute": use.reserved[0],
        "output": context.output_bytes,
        "parameters": weights.total,
        **dict.fromkeys(("adapters", "buffers", "gradients", "optimizer", "saved"), 0),
        "resident": resident,
        "peak_above_resident": touched,
        "peak": resident + touched,
        "process": resident + touched + use.overhead,
        "clean": use.clean,
        "dirty": use.dirty,
        "used": use.used,
    }
    if use.gpu:
        sizes["host_compute"] = use.reserved[1]
    limits = limits_of(plan, use)
    limit = limit_of(limits, margin)
    if limit.against == "device":
        sizes["device"] = limit.needed
    return Result(
        model=plan.model,
        asked=plan.asked,
        task=plan.task,
        runtime=plan.runtime,
        bytes=sizes,
        trainable_parameters=0,
        total_parameters=sum(prod(tensor.shape) for tensor in model.header.tensors.values()),
        peak_at="prompt batch",
        moments={"prompt batch": touched},
        fits=None if limit.budget is None else all(one.left(NO_MARGIN) >= 0 for one in limits),
        budget_bytes=limit.budget,
        warnings=(*model.warnings, *notes(use), *_device_notes(plan, use, limits, margin)),
        uncertainty=UNCERTAINTY,
        against=limit.against,
        limits={one.against: one.budget for one in limits if one.budget is not None} if len(limits) > 1 else {},
        assumptions=assumptions_of(plan, limits),
    )


def assumptions_of(plan: Plan, limits: tuple[Limit, ...]) -> tuple[Assumption, ...]:
    """The assumptions behind the limits: the device's, and the system's part of the RAM where it limits the plan."""
    device = device_of(plan)
    found = plan.assumptions()
    if device is None or len(limits) < 2 or _system_left(plan, limits) is not None:
        return found
    override = f"A budget above {human(device.total_bytes - device.system_bytes)} beside the device replaces it"
    why = f"{device.system_assumed}. {device.source}. {override}"
    return (*found, Assumption("system", device.system_bytes, why))


def _system_left(plan: Plan, limits: tuple[Limit, ...]) -> int | None:
    """Bytes of the RAM that a budget leaves to the system; ``None`` where they are as many as assumed, or more."""
    device = device_of(plan)
    if device is None or len(limits) < 2 or limits[1].budget is None:
        return None
    left = device.total_bytes - limits[1].budget
    return left if left < device.system_bytes else None


RAM_BINDS = (
    "the RAM that the system leaves binds before the limit of dirty memory: mapped weights that find no room are read "
    "from storage again for every token"
)


def _device_notes(plan: Plan, use: Usage, limits: tuple[Limit, ...], margin: Margin) -> list[str]:
    """Warnings about a result on a device."""
    device, limit = device_of(plan), limit_of(limits, margin)
    if limit.against == "device" and device is None:
        return ["the GPU's CUDA context is not counted; name a device to count it"] if use.backend == "cuda" else []
    if device is None:
        return []
    found = []
    if (left := _system_left(plan, limits)) is not None:
        found.append(
            f"the budget is more than the {human(device.total_bytes - device.system_bytes)} that iOS is assumed to "
            f"leave of the RAM; it is taken to limit the RAM in use, too, and iOS keeps {human(left)}"
        )
    if device.counts == "dirty" and limit.against == "used" and limit.left(margin) < 0:
        found.append(RAM_BINDS)
    if not use.gpu and device.capability is not None:
        found.append(f"counted on the CPU of {device.name}; its GPU runs it with backend cuda")
    return found


def notes(use: Usage) -> list[str]:
    """Warnings about a result on any device."""
    found = []
    trained, context = use.context.hparams.n_ctx_train, use.context
    if context.n_ctx_seq > trained:
        found.append(f"the model was made for {trained:,} positions; {context.n_ctx_seq:,} are more")
    if use.gpu:
        found.append(
            f"backend {use.backend}: buffers as the scheduler hands them out, checked against public logs only"
        )
    if context.n_ctx != context.parameters.n_ctx:
        found.append(f"the engine rounds n_ctx to {context.n_ctx:,}")
    return found
