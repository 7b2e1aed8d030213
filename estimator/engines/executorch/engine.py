"""The engine: the arena that a program's file fixes, its weights, and what XNNPACK makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import InputError
from ...io.files import existing
from ...text import human, printable
from ..assumptions import Assumption
from ..devices import Device, find
from ..engine import Engine, Figures, Limit, Spec
from . import pte_file, xnnpack
from .options import BLOCK, delegate_of, is_pte
from .plan import cache_bytes, constant_bytes, parameter_count, planned_bytes, unread_bytes
from .shapes import FAMILIES, shape_of

PROGRAM_BYTES = 6_700_000
"""What a process holds beside its program: pages of the library's code that ran. They were 6.4 to 7.2 MB in recorded
runs with the wheel of 1.5.1 for x86-64 (``docs/measured/executorch.json``)."""


@dataclass(frozen=True)
class Model:
    """A model to export, or a file."""

    name: str
    raw: Mapping[str, Any]
    program: pte_file.Program | None
    warnings: tuple[str, ...] = ()

    @property
    def trained(self) -> int:
        """The positions that it was made for; of a file those that its cache has. Raises ``InputError``."""
        found = self.program.number("get_max_context_len") if self.program else self.raw.get("max_position_embeddings")
        if not isinstance(found, int) or found < 1:
            raise InputError(
                f"model: {self.name} does not say for how many positions it was made; give max_context_length"
            )
        return found


class ExecuTorch(Engine):
    """ExecuTorch on a phone's or a board's CPU."""

    title = "ExecuTorch"
    maps_weights = finds_contexts = True
    reads_checkpoints = False
    defaults = MappingProxyType({"task": "infer", "dtype": "8da4w"})
    rows = (
        ("weights", "weights"),
        ("mapped", "  mapped from the file"),
        ("packed", "  packed by XNNPACK"),
        ("kv_cache", "KV cache"),
        ("activations", "activations"),
        ("planned", "arena, as planned"),
        ("workspace", "XNNPACK's workspace"),
        ("clean", "clean (can be dropped)"),
        ("dirty", "dirty"),
        ("used", "in use for every token"),
        ("process", "process"),
    )
    always = ("planned", "process", "dirty")
    uncertainty = xnnpack.UNCERTAINTY
    uncertainty_of = xnnpack.UNCERTAINTY_OF
    context_key = "seq"
    context_step = 128
    """A search goes by the exporter's default length; a program may have any."""
    exactness = "the arena is exact to the byte where no delegate runs"

    def asked(self, plan: Any) -> str:
        return f"inference with {self.title}, {'XNNPACK' if delegate_of(plan) == 'xnnpack' else 'portable kernels'}"

    def heading(self, plan: Any) -> str:
        name = printable(plan.model)
        if is_pte(plan.model):
            return f"{name}, {self.title}"
        options = plan.executorch
        context = options.max_context_length or plan.seq
        cache = ", cache int8" if options.quantize_kv_cache else ""
        return f"{name}, {plan.dtype}, context {context:,}{cache}, {self.title} ({self._runs(plan)})"

    def _runs(self, plan: Any) -> str:
        return "XNNPACK" if delegate_of(plan) == "xnnpack" else "portable kernels"

    def release(self, plan: Any) -> str:
        return f"{self.title} 1.5"

    def knows(self, family: str) -> bool:
        return family in FAMILIES

    def recipe_of(self, plan: Any) -> str | None:
        return None if is_pte(plan.model) else plan.dtype

    def cache_of(self, plan: Any) -> str:
        return "int8" if plan.executorch.quantize_kv_cache else "" if is_pte(plan.model) else "float32"

    def device_of(self, plan: Any) -> Device | None:
        return None if plan.device is None else find(plan.device)

    def against(self, plan: Any, device: Device | None) -> tuple[str, str]:
        name = "process" if device is None else _COUNTED[device.counts]
        return name, name

    def parts(self, sizes: Mapping[str, int], peak_at: str, gradients_alive: bool = False) -> dict[str, int]:
        return {
            "weights": sizes["weights"],
            "KV cache and states": sizes["kv_cache"],
            "compute": sizes["peak_above_resident"],
        }

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Model:
        if is_pte(plan.model):
            path = existing(Path(plan.model))
            if path is None:
                raise InputError(f"no file '{plan.model}'; give a .pte file, or a model to export")
            return Model(path.name, {}, pte_file.read(path))
        spec = load(plan.model)
        return Model(spec.name, spec.raw, None, spec.warnings)

    def at_context(self, plan: Any, context: int) -> Any:
        """The plan exported for a context of so many tokens; the calls stay as long as they were."""
        options = plan.executorch.model_copy(update={"max_context_length": context})
        return plan.model_copy(update={"seq": context, BLOCK: options})

    def figures(self, plan: Any, model: Model) -> Figures:
        return self._of_file(plan, model.program) if model.program else self._of_export(plan, model)

    def _of_export(self, plan: Any, model: Model) -> Figures:
        shape = shape_of(model.raw, model.name, plan.executorch, plan.dtype, plan.seq)
        warnings = [*model.warnings]
        if isinstance(model.raw.get("max_position_embeddings"), int) and shape.max_context_length > model.trained:
            warnings.append(
                f"the model was made for {model.trained:,} positions; {shape.max_context_length:,} are more"
            )
        cache = cache_bytes(shape) if shape.use_kv_cache else 0
        if delegate_of(plan) == "xnnpack":
            options = plan.executorch
            parts = xnnpack.parts_of(
                shape, plan.dtype == "8da4w", options.quantization_group_size, options.embedding_quantize
            )
        else:
            mapped = constant_bytes(shape)
            parts = xnnpack.Parts(planned_bytes(shape), mapped, 0, 0, unread_bytes(shape))
        return self._figures(plan, parts, cache, parameter_count(shape), tuple(warnings))

    def _of_file(self, plan: Any, program: pte_file.Program) -> Figures:
        context = program.number("get_max_context_len")
        asked = plan.executorch.max_context_length or (plan.seq if "seq" in plan.model_fields_set else None)
        if asked is not None and context is not None and asked > context:
            raise InputError(
                f"a context of {asked:,} does not go with {program.name}, which has {context:,}; export it anew"
            )
        planned = max(method.planned for method in program.methods)
        delegates = {name for method in program.methods for name in method.delegates}
        others = sorted(delegates - {"XnnpackBackend"})
        if others:
            raise InputError(
                f"model: {program.name} has parts for {', '.join(others)}, whose memory no rule knows; give one for "
                "XNNPACK or without a delegate"
            )
        packed = program.constants if delegates else 0
        parts = xnnpack.Parts(planned, program.constants - packed, packed, 0, 0)
        warnings: tuple[str, ...] = ()
        if delegates:
            warnings = ("what XNNPACK packs is counted as large as in the file, and its workspace is left out",)
        return self._figures(plan, parts, 0, 0, warnings)

    def _figures(
        self, plan: Any, parts: xnnpack.Parts, cache: int, parameters: int, warnings: tuple[str, ...]
    ) -> Figures:
        weights = parts.mapped + parts.packed
        above = parts.planned - cache + parts.workspace
        resident = weights + cache
        process = resident + above + parts.heap + PROGRAM_BYTES
        sizes = {
            "weights": weights,
            "mapped": parts.mapped,
            "packed": parts.packed,
            "kv_cache": cache,
            "activations": parts.planned - cache,
            "planned": parts.planned,
            "workspace": parts.workspace,
            "compute": above,
            "parameters": weights,
            **dict.fromkeys(("adapters", "buffers", "gradients", "optimizer", "saved"), 0),
            "resident": resident,
            "peak_above_resident": above,
            "peak": resident + above,
            "process": process,
            "clean": parts.mapped,
            "dirty": process - parts.mapped,
            "used": process - parts.unread,
        }
        limits, assumptions = _limits(plan, sizes)
        return Figures(sizes, {"prompt": above}, parameters, limits, warnings=warnings, assumptions=assumptions)


_COUNTED = {"all": "process", "used": "used", "dirty": "dirty"}
"""The figure that a device's system counts."""
_RAM_BINDS = "the RAM that the system leaves binds before the limit of dirty memory"


def _limits(plan: Any, sizes: Mapping[str, int]) -> tuple[tuple[Limit, ...], tuple[Assumption, ...]]:
    """The budget, or what a device's system lets one app have, held against the figure that the system counts."""
    device, budget = ENGINE.device_of(plan), plan.budget_bytes()
    against = ENGINE.against(plan, device)[0]
    first = Limit(against, sizes[against], budget, sizes["process"])
    if device is None or device.ram is None or budget is None:
        return (first,), ()
    ram = max(device.ram, budget)
    second = Limit("used", sizes["used"], ram, sizes["process"], _RAM_BINDS)
    if ram > device.ram:
        return (first, second), ()
    why = f"{device.system_assumed}. {device.source}. A budget above {human(device.ram)} beside the device replaces it"
    return (first, second), (Assumption("system", device.system_bytes, why),)


ENGINE = ExecuTorch()
