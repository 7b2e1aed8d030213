"""Answers for a module of the user's own, whose program is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from ..errors import InputError
from ..plans.flat import nested
from ..plans.models import ModelSpec
from ..plans.plan import parse_plan
from ..plans.resolve import Resolved, step_of
from ..steps.step import run
from .estimate import to_result
from .result import Result

_KEYS = (
    "task", "optimizer", "optimizer_rank", "autocast", "gradient_accumulation_steps", "gradient_clipping",
    "keep_logits",
    "drop_output_before_step", "device", "budget", "runtime", "torch", "expandable_segments", "sdpa_kernel",
)  # fmt: skip
"""The keys of a plan that act on any module."""


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
    if find_spec("torch") is None:
        raise InputError("record runs a module of PyTorch, which is not installed; pip install '.[trace]' in a clone")
    from ..programs.own import AsRecorded, dtype_of, own_config

    if unknown := [key for key in keys if key not in _KEYS]:
        raise InputError(f"'{unknown[0]}' does not act on a module of your own; keys that do: {', '.join(_KEYS)}")
    name = type(module).__name__
    plan = parse_plan(nested({"model": name, "batch": 1, "seq": 1, "dtype": dtype_of(module)}, keys))
    config = own_config(module, inputs, loss)
    spec = ModelSpec(name, {}, f"the module {name}", read=config)
    resolved = Resolved(plan, spec, AsRecorded(module), step_of(plan, config, None))
    return to_result(resolved, run(resolved.step, resolved.sizes(), resolved.method, plan.batch, plan.seq))
