"""Formulas as a Python module that needs nothing but Python: to paste or to import."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..compiled import Compiled, regimes
from .formula import EXPORTED, Formula, bounds, formula, legend, plan_line, source

_WIDTH = 110


def to_python(compiled: Sequence[Compiled], components: Sequence[str]) -> str:
    """The source of a module with a function ``<component>_bytes(B, S, ...) -> int`` for each component.

    Each is right for every batch and sequence from 1 on, so ``compiled`` must hold all of the
    plan's regimes. Architecture sizes left symbolic become arguments, with the plan's as defaults.
    """
    plan = compiled[0].plan
    if {c.regime for c in compiled} != set(regimes(plan)):
        raise ValueError("a Python function covers every batch and sequence: compile all regimes of the plan")
    head = f'"""Bytes of one training step, exact. Plan: {_quoted(plan_line(plan))}\n\nWritten by `estimator formula`."""'
    return "\n\n\n".join([head, *(_function([formula(c, name) for c in compiled]) for name in components)])


def _function(formulas: list[Formula]) -> str:
    component, plan = formulas[0].component, formulas[0].plan
    symbols = legend(formulas)
    sizes = {s: value for s, value in symbols.items() if s.name in formulas[0].values}
    arguments = ["B: int", "S: int", *(f"{s.name}: int = {value}" for s, value in sizes.items())]
    lines = [f"def {component}_bytes({', '.join(arguments)}) -> int:"]
    lines += [f'    """Bytes: {EXPORTED[component]}.', "", f"    Plan: {_quoted(plan_line(plan))}", ""]
    lines += ["    B: batch: sequences in one micro-batch", "    S: sequence length in tokens"]
    lines += [f"    {s.name}: {s.meaning} (default: {value})" for s, value in sizes.items()]
    limits = ["B >= 1", "S >= 1", *(bounds([s]) or [f"{s.name} >= 1"] for s in sizes)]
    lines += ["", f"    Holds for {_listed(limits)}; raises ValueError elsewhere.", '    """']
    lines += [f"    if not ({' and '.join(limits)}):"]
    lines += [f'        raise ValueError("{component}_bytes holds for {_listed(limits)}")']
    lines += [f"    {s.name} = {s.source}" for s in symbols if s.function is not None]

    bodies: dict[str, list[str]] = {}
    for f in formulas:
        bodies.setdefault(_body(f), []).append(f.regime.condition())
    *first, (last, where) = bodies.items()
    for body, conditions in first:
        lines += [f"    if {' or '.join(conditions)}:", textwrap.indent(body, "        ")]
    # The regimes cover every B and S, so what remains needs no test.
    lines += [f"    # {' or '.join(where)}"] if first else []
    return "\n".join([*lines, textwrap.indent(last, "    ")])
