"""llama.cpp: from a plan to the buffers of the engine's process, and what of it is resident.

The buffers are those that the engine reports. ``process`` is the peak resident set while it decodes: the compute
buffer is reserved for the logits of a whole batch, but where only each sequence's last token has them computed
most of its pages are never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..devices import Device, context_bytes, find
from ..llama_cpp import convert, gguf_file
from ..llama_cpp.builds import BUILDS
from ..llama_cpp.header import Header
from ..llama_cpp.usage import UNCERTAINTY, Usage, usage
from ..specs import existing, load

if TYPE_CHECKING:
    from ..estimate import Result
    from ..plan import Plan

_UNIFIED = ("iPhone", "iPad")
_ARM = ("Android phone", "board")
_PLAIN = ("raspberry-pi-4", "jetson-nano")
"""Boards with ARMv8.0 cores (Cortex-A72, A57), which have no dot-product instructions."""


@dataclass(frozen=True)
class Model:
    """A model as llama.cpp sees it."""

    name: str
    header: Header
    from_file: bool
    """The header is a GGUF file's own, not one made from a config."""
    warnings: tuple[str, ...]


def model_of(plan: Plan) -> Model:
    """A plan's model, from its GGUF file or from its config and recipe. Raises ``InputError``."""
    path = existing(Path(plan.model))
    if path is not None and path.suffix.lower() == ".gguf":
        return Model(path.name, gguf_file.read(path), True, ())
    spec = load(plan.model)
    return Model(spec.name, convert.header(spec.raw, spec.name, plan.recipe), False, spec.warnings)


def device_of(plan: Plan) -> Device | None:
    """The plan's device, whether or not it has a published limit. Raises ``InputError``."""
    return None if plan.device is None else find(plan.device, limited=False)


def backend_of(plan: Plan) -> str:
    """What runs the graph, by the plan's block, else by its device."""
    if plan.llama_cpp.backend is not None:
        return plan.llama_cpp.backend
    device = device_of(plan)
    if device is None:
        return "cpu"
    if device.kind in _UNIFIED or device.kind == "Apple silicon":
        return "metal"
    if device.name.startswith(_PLAIN):
        return "cpu-plain"
    if device.kind in _ARM:
        return "cpu-arm"
    return "cuda" if device.capability is not None else "vulkan" if device.kind.startswith("GPU") else "cpu"


def usage_of(plan: Plan, model: Model) -> Usage:
    """The buffers of a plan. Raises ``InputError``."""
    options, header = plan.llama_cpp, model.header
    trained = header.metadata.get("context_length", 4096)
    seq = plan.seq if "seq" in plan.model_fields_set else None
    return usage(
        header,
        options.parameters(plan.batch, seq, trained if isinstance(trained, int) else 4096),
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


def to_result(plan: Plan, model: Model, use: Usage) -> Result:
    """The answer from the buffers."""
    from ..estimate import Result

    context, weights = use.context, use.weights
    held = weights.mapped + weights.repacked + weights.read + weights.device
    resident = held + context.kv_bytes + context.recurrent_bytes + context.output_bytes
    touched = sum(use.touched)
    on_device = 0
    device = device_of(plan)
    sizes = {
        "weights": weights.total,
        "mapped": weights.mapped,
        "repacked": weights.repacked,
        "kv_cache": context.kv_bytes,
        "recurrent_state": context.recurrent_bytes,
        "compute": use.reserved[0],
        "output": context.output_bytes,
        "parameters": weights.total,
        "adapters": 0,
        "buffers": 0,
        "gradients": 0,
        "optimizer": 0,
        "saved": 0,
        "resident": resident,
        "peak_above_resident": touched,
        "peak": resident + touched,
        "process": resident + touched + use.overhead,
        "clean": use.clean,
        "dirty": use.dirty,
    }
    against = "process"
    if use.gpu:
        sizes["host_compute"] = use.reserved[1]
    if use.backend in ("cuda", "vulkan"):
        on_device = weights.device + context.kv_bytes + context.recurrent_bytes + use.reserved[0]
        if device is not None and device.capability is not None:
            on_device += context_bytes(device)[0]
        sizes["device"] = on_device
        against = "device"
    elif device is not None and device.counts == "dirty":
        against = "dirty"
    elements = sum(prod(tensor.shape) for tensor in model.header.tensors.values())
    budget = plan.budget_bytes()
    moments = {"prompt batch": touched}
    return Result(
        model=plan.model,
        task=plan.task,
        bytes=sizes,
        trainable_parameters=0,
        total_parameters=elements,
        peak_at="prompt batch",
        moments=moments,
        fits=None if budget is None else sizes[against] <= budget,
        budget_bytes=budget,
        warnings=(*model.warnings, *notes(use)),
        uncertainty=UNCERTAINTY,
        against=against,
    )


def notes(use: Usage) -> list[str]:
    """What else to know about an answer."""
    found = []
    trained, context = use.context.hparams.n_ctx_train, use.context
    if context.n_ctx_seq > trained:
        found.append(f"the model was made for {trained:,} positions; {context.n_ctx_seq:,} are more")
    if use.gpu:
        found.append(f"backend {use.backend}: buffers as the scheduler hands them out, checked against public logs only")
    if use.context.n_ctx != context.parameters.n_ctx:
        found.append(f"the engine rounds n_ctx to {context.n_ctx:,}")
    return found
