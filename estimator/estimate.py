"""From a plan to its answer: resolve names, run the ledger, read totals and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .adapters.base import Method
from .architectures.base import Sizes
from .errors import InputError
from .plan import Plan, parse_plan
from .runtimes import torch_cpu
from .specs import LAYER_MODULES, LAYER_NORMS, Config, ModelSpec, load
from .symbols import Size
from .training.step import StepOptions, StepTotals, run

SCHEMA = 1


@dataclass(frozen=True)
class Resolved:
    """A plan whose names have been looked up and checked."""

    plan: Plan
    spec: ModelSpec
    method: Method
    options: StepOptions

    def sizes(self, symbolic: bool = False) -> Sizes:
        """The model's sizes; layers that the method treats alike share a run."""
        return self.spec.config.sizes(layer_signature(self.method), symbolic)


def layer_signature(method: Method) -> Any:
    """What a method does to the layer at a path, module by module."""
    if not method.by_layer:
        return lambda prefix: None
    return lambda prefix: tuple(method.signature(prefix + module) for module in (*LAYER_MODULES, *LAYER_NORMS))


def resolve(plan: Plan) -> Resolved:
    """Look up a plan's names. Raises ``InputError``."""
    spec = load(plan.model)
    config = spec.config
    if plan.attention == "sdpa" and config.attention_dropout > 0:
        raise InputError(
            "attention_dropout above 0 with sdpa runs PyTorch's math kernel, which has no rule yet; "
            "use attention: eager, or set attention_dropout to 0"
        )
    plan.method.check(plan)
    method = plan.method.build(config, plan.dtype)
    window = window_of(config, method)
    options = StepOptions(
        family=config.family,
        dtype=plan.dtype,
        autocast=plan.autocast,
        attention=plan.attention,
        checkpointing=plan.checkpointing,
        optimizer=plan.optimizer,
        keep_logits=plan.keep_logits,
        padding_mask=plan.attention_mask,
        use_cache=plan.use_cache,
        window_reached=window is not None and plan.seq >= window,
        gradients_alive=plan.gradient_accumulation_steps > 1,
    )
    return Resolved(plan, spec, method, options)


def window_of(config: Config, method: Method) -> int | None:
    """The sequence length from which on a sliding window hides keys; ``None`` where no layer has one."""
    if not any(config.windowed_layers):
        return None
    assert config.sliding_window is not None
    return max(config.sliding_window - method.virtual_tokens, 1)


@dataclass(frozen=True)
class Result:
    """The answer to a plan. Sizes are bytes."""

    model: str
    task: str
    bytes: Mapping[str, int]
    """parameters, adapters, buffers, gradients, optimizer, saved, resident, peak_above_resident, peak, process."""
    trainable_parameters: int
    total_parameters: int
    peak_at: str
    moments: Mapping[str, int]
    """Named moments and the bytes above resident reached there."""
    fits: bool | None
    budget_bytes: int | None
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The result object of the project's contract (schema 1)."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "task": self.task,
            "bytes": dict(self.bytes),
            "trainable_parameters": self.trainable_parameters,
            "peak_at": self.peak_at,
            "fits": self.fits,
            "budget_bytes": self.budget_bytes,
            "warnings": list(self.warnings),
        }

    def _repr_html_(self) -> str:
        from .report import result_html

        return result_html(self)


def estimate(plan: Plan | Mapping[str, Any] | None = None, /, **keys: Any) -> Result:
    """Answer a plan: a ``Plan``, a mapping of its keys, or the keys themselves.

    >>> estimate(model="llama-3.2-1b", method={"name": "lora", "r": 16}, seq=2048).peak_at
    'loss backward'

    Raises ``InputError`` for wrong input.
    """
    if plan is None:
        plan = parse_plan(keys)
    elif not isinstance(plan, Plan):
        plan = parse_plan({**plan, **keys})
    elif keys:
        raise TypeError("give a plan or keys, not both")
    resolved = resolve(plan)
    totals = run(resolved.options, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    return to_result(resolved, totals)


def to_result(resolved: Resolved, totals: StepTotals) -> Result:
    """The answer from a step's totals, all of them integers."""
    moments = {name: max(_integer(v) for v in values) for name, values in totals.moments.items()}
    components = {name: _integer(getattr(totals, name)) for name in COMPONENTS}
    return make_result(resolved.plan, resolved.spec, components, moments)


def make_result(plan: Plan, spec: ModelSpec, components: Mapping[str, int], moments: Mapping[str, int]) -> Result:
    """The answer from the bytes of ``COMPONENTS`` and of the moments above resident."""
    peak_at = max(moments, key=lambda name: moments[name])
    above = moments[peak_at]
    sizes = {name: components[name] for name in COMPONENTS if not name.endswith("_parameters")}
    sizes["resident"] = sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
    sizes["peak_above_resident"] = above
    sizes["peak"] = sizes["resident"] + above
    sizes["process"] = torch_cpu.process_bytes(sizes)
    budget = plan.budget_bytes()
    return Result(
        model=plan.model,
        task=plan.task,
        bytes=sizes,
        trainable_parameters=components["trainable_parameters"],
        total_parameters=components["total_parameters"],
        peak_at=peak_at,
        moments=dict(sorted(moments.items(), key=lambda item: -item[1])),
        fits=None if budget is None else sizes["process"] <= budget,
        budget_bytes=budget,
        warnings=spec.warnings,
    )


COMPONENTS = (
    "parameters",
    "adapters",
    "buffers",
    "gradients",
    "optimizer",
    "saved",
    "trainable_parameters",
    "total_parameters",
)
"""What a step's totals hold beside the moments: bytes, and two counts of parameters."""


def _integer(size: Size) -> int:
    assert isinstance(size, int)
    return size
