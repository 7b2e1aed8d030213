"""Engines whose files cannot be had here: what others published of them, by model, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import InputError
from .devices import Device, find
from .engine import Engine, Figures, Limit, Spec


class Row(NamedTuple):
    """A published figure."""

    model: str
    file: str
    context: int
    """Positions of the cache, which the file fixes."""
    peak_bytes: int
    what: str
    """Whose figure it is."""
    source: str
    file_bytes: int = 0
    on: str = ""
    """``android`` or ``ios``, where the figure is of one of them."""
    parameters: int = 0

    @property
    def trained(self) -> int:
        """The longest context."""
        return self.context


@cache
def _rows(runtime: str) -> tuple[Row, ...]:
    data = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return tuple(Row(**row) for row in data[runtime])


class Published(Engine):
    """An engine of which figures are known, and no rule."""

    maps_weights = True
    reads_checkpoints = False
    defaults = MappingProxyType({"task": "infer"})
    rows = (("file", "file"), ("process", "process, as published"))
    always = ("process",)
    uncertainty_of = "not stated by those who published the figure"
    exactness = "figures are as published"
    finds_contexts = True

    def __init__(self, runtime: str, title: str) -> None:
        self.runtime, self.title = runtime, title  # type: ignore[misc] # of this object, not of the class

    def asked(self, plan: Any) -> str:
        return f"inference with {self.title}, a published figure"

    def heading(self, plan: Any) -> str:
        return f"{plan.model}, {self.title}, as published"

    def knows(self, family: str) -> bool:
        return False

    def names(self) -> list[str]:
        """The models with a figure."""
        return list(dict.fromkeys(row.model for row in _rows(self.runtime)))

    def device_of(self, plan: Any) -> Device | None:
        return None if plan.device is None else find(plan.device)

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Row:
        device, name, parameters = self.device_of(plan), plan.model, 0
        with suppress(InputError):  # some of the models are not built in
            spec = load(plan.model)
            name, parameters = spec.name, getattr(spec, "parameters", None) or 0
        on = ("", "ios", "android") if device is None else ("", "ios" if device.is_apple else "android")
        found = [row for row in _rows(self.runtime) if row.model == name and row.on in on]
        if not found:
            where = f" on {device.name}" if device is not None and name in self.names() else ""
            raise InputError(
                f"model: {plan.model} has no published figure with runtime: {plan.runtime}{where}; published are "
                f"{', '.join(self.names())}; take runtime: llama.cpp or executorch, which have rules"
            )
        asked = plan.seq if "seq" in plan.model_fields_set else 0
        fitting = [row for row in found if row.context >= asked]
        if not fitting:
            most = max(row.context for row in found)
            raise InputError(
                f"seq: {asked} is more than the {most:,} positions of {self.title}'s file of {plan.model}; give less"
            )
        best = min(fitting, key=lambda row: (row.peak_bytes, -row.context))
        return best._replace(parameters=parameters)

    def recipe_of(self, plan: Any) -> str | None:
        return None

    def compared(
        self, keys: Mapping[str, Any], recipes: Sequence[str], caches: Sequence[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        return [{key: value for key, value in keys.items() if key != "dtype"}]

    def at_context(self, plan: Any, context: int) -> Any:
        return plan.model_copy(update={"seq": context})

    def parts(self, sizes: Mapping[str, int], peak_at: str, gradients_alive: bool = False) -> dict[str, int]:
        return {"weights": sizes["resident"], "compute": sizes["peak_above_resident"]}

    def figures(self, plan: Any, model: Row) -> Figures:
        peak = model.peak_bytes
        held = min(model.file_bytes, peak)
        sizes = {
            "file": model.file_bytes,
            "kv_cache": 0,
            "compute": peak - held,
            "parameters": held,
            **dict.fromkeys(("adapters", "buffers", "gradients", "optimizer", "saved"), 0),
            "resident": held,
            "peak_above_resident": peak - held,
            "peak": peak,
            "process": peak,
        }
        whose = f"a published figure, no prediction: {model.what}, of {model.file} ({model.source})"
        limit = Limit("process", peak, plan.budget_bytes(), peak)
        return Figures(sizes, {"as published": peak - held}, model.parameters, (limit,), warnings=(whose,))
