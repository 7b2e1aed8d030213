"""Plans as functions: which keys can be variables, and the function of those that are named."""

from __future__ import annotations

from collections.abc import Sequence

from ..answers.estimate import Progress
from ..answers.formulas import images_of
from ..errors import InputError, nearest
from ..plans.plan import Plan
from ..plans.resolve import resolve
from .contexts import function_of_context
from .function import Function
from .step_function import PLAN_KEYS, SYMBOLS, function_of_step


def variable_names(plan: Plan) -> list[str]:
    """The keys that can be variables of a plan."""
    if not plan.engine.runs_steps:
        return [plan.engine.context_key]
    found = ["batch", "seq"]
    if plan.generate is not None:
        found.append("max_new_tokens")
    if plan.method.open_values():
        found.append("r")
    resolved = resolve(plan)
    found += [name for name, symbol in SYMBOLS.items() if symbol in dict(resolved.step.lengths)]
    found += ["images"] * (images_of(resolved) is not None)
    config = resolved.spec.config
    if plan.open_sizes and config.open_sizes:
        values = config.values()
        found += [name for name, symbol in SYMBOLS.items() if name not in PLAN_KEYS and symbol in values]
    return found


def default_names(plan: Plan) -> list[str]:
    """The variables of a function where none are named."""
    return ["batch", "seq"] if plan.engine.runs_steps else [plan.engine.context_key]


def function_of(plan: Plan, names: Sequence[str], ceiling: bool = True, progress: Progress = lambda: None) -> Function:
    """The bytes of a plan as a function of the keys ``names``. Raises ``InputError`` where it has no formula.

    ``ceiling``: on a GPU, ``process_at_most`` is among them, for which the plan is replayed some sixty times;
    ``progress`` is called after each.
    """
    known = variable_names(plan)
    for name in names:
        if name not in known:
            raise InputError(
                f"'{name}' cannot be a variable of this plan{nearest(name, known)}; it can have {', '.join(known)}"
            )
    if {"num_attention_heads", "num_key_value_heads"} <= set(names):
        raise InputError("num_attention_heads and num_key_value_heads cannot both be variables; leave one of them out")
    if len(set(names)) < len(names):
        raise InputError("a variable is named twice; name each once")
    if not names:
        raise InputError(f"no variable is named; a function of this plan can have {', '.join(known)}")
    if not plan.engine.runs_steps:
        return function_of_context(plan, progress)
    return function_of_step(plan, names, ceiling, progress)
