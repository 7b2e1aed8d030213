"""Answers for a module of the user's own, whose program is recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError, shown
from ..plans.flat import nested
from ..plans.models import ModelSpec
from ..plans.plan import parse_plan
from ..plans.resolve import Resolved, step_of
from ..programs import Method
from ..programs.libraries import is_installed
from ..programs.program import Program
from ..programs.recorded import Source, no_language_model
from ..steps.loop import Loop
from ..steps.step import run
from .estimate import to_result
from .result import Result

_KEYS = (
    "task", "optimizer", "optimizer_rank", "autocast", "gradient_accumulation_steps", "gradient_clipping",
    "keep_logits",
    "drop_output_before_step", "device", "budget", "runtime", "torch", "expandable_segments", "sdpa_kernel",
)  # fmt: skip
"""The keys of a plan that act on any module."""
_STEP_KEYS = ("device", "budget", "runtime", "torch", "expandable_segments", "sdpa_kernel")
"""The keys of a plan that act on a step which the user wrote."""


def record(module: Any, inputs: Mapping[str, Any], loss: Callable[[Any], Any] | None = None, **keys: Any) -> Result:
    """Answer for a ``torch.nn.Module`` that is called with ``inputs``, by name; nothing is computed.

    The module is run once on the meta device, whatever device it is on, and what it calls is run through the operator
    rules. ``loss`` maps its output to a scalar; without it, the output is the loss or has one (``out.loss``). ``keys``
    are a plan's: task, optimizer, device, budget and others that act on any module.

    Raises:
        InputError: for wrong input, an operator without a rule, or a module that reads its data.

    Examples:
        >>> import torch
        >>> module = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
        >>> inputs = {"input": torch.empty(32, 64)}
        >>> record(module, inputs, loss=lambda out: out.mean()).bytes["parameters"]
        132352

    """
    _check(keys, _KEYS, "a module")
    import torch

    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{shown(module)} is no torch.nn.Module; for a step of your own ask estimator.step")
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs is {shown(inputs)}; give a mapping of the arguments by name, such as {{'input': x}}")
    from ..recorder.user_module import AsRecorded, dtype_of, own_config

    name = type(module).__name__
    plan = parse_plan(nested({"model": name, "batch": 1, "seq": 1, "dtype": dtype_of(module)}, keys))
    config = own_config(module, inputs, loss)
    spec = ModelSpec(name, {}, f"the module {name}", read=config)
    resolved = Resolved(plan, spec, AsRecorded(module), step_of(plan, config, None))
    return to_result(resolved, run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq))


def step(function: Callable[[], Any], **keys: Any) -> Result:
    """Answer for a training step that you wrote: its forward passes, ``backward()``, your optimizer, your accumulation.

    ``function`` runs one step, on modules, an optimizer and batches that were made under ``torch.device("meta")``, so
    nothing is computed. It is run twice: the second step finds the optimizer's states. ``keys`` are a plan's: device,
    budget, runtime, torch, expandable_segments, sdpa_kernel.

    In place of a function it may be a trainer of transformers or TRL, also of a class of your own whose loss calls its
    models as TRL's does: with their inputs, for logits or for a fused head. Its loop begins, on the CPU and with your
    data, up to the second update. Its models are not run, and none of its callbacks is called. Make another trainer to
    train with.

    Raises:
        InputError: for wrong input, an operator without a rule, or a step that computes with data.

    Examples:
        >>> import torch
        >>> with torch.device("meta"):
        ...     module = torch.nn.Linear(64, 64)
        >>> optimizer = torch.optim.SGD(module.parameters(), momentum=0.9)
        >>> def train() -> None:
        ...     for _ in range(2):
        ...         module(torch.empty(32, 64, device="meta")).mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> step(train).bytes["optimizer"]
        16640

    """
    _check(keys, _STEP_KEYS, "a step")
    transformers = sys.modules.get("transformers")  # else no trainer of its can be there
    if transformers is not None and isinstance(function, transformers.Trainer):
        from .user_trainers import of_trainer

        return of_trainer(function, keys)
    if not callable(function):
        raise InputError(f"{shown(function)} is no function; give one without arguments, which runs a step")
    from ..recorder.user_step import record_step
    from ..steps.user_step import OwnStep

    name = getattr(function, "__name__", "step")
    plan = parse_plan(nested({"model": name, "batch": 1, "seq": 1}, keys))
    config = no_language_model(name, _NoModel())
    spec = ModelSpec(name, {}, f"the step {name}", read=config)
    resolved = Resolved(plan, spec, Method(), step_of(plan, config, None))
    program, states = record_step(function, resolved.step.device.type)
    procedure = OwnStep(program, frozenset(states))
    totals = Loop(resolved.step.ledger(), resolved.step).run(procedure)
    return to_result(resolved, totals, procedure=procedure)


class _NoModel(Source):
    """A step of the user's own has no model that could be run by itself."""

    attention = "eager"
    origin = release = ""

    def modules(self) -> tuple[Any, ...]:
        return ()

    def parameters(self) -> dict[str, Any]:
        return {}

    def at(self, *_: Any) -> Program:
        raise InputError("a step of your own can be run as a whole only")


def _check(keys: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    if not is_installed("torch"):
        raise InputError(f"{what} of your own runs PyTorch, which is not installed; pip install '.[trace]' in a clone")
    if unknown := [key for key in keys if key not in known]:
        raise InputError(f"'{unknown[0]}' does not act on {what} of your own; keys that do: {', '.join(known)}")
