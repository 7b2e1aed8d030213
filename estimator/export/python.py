"""Formulas as a Python module without dependencies, to paste or to import."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..answers.formulas import Compiled, regimes
from .formula import EXPORTED, Formula, bounds, fixed_line, formula, legend, plan_line, source

_WIDTH = 110


def to_python(compiled: Sequence[Compiled], components: Sequence[str]) -> str:
    """The source of a module with a function ``<component>_bytes(B, S, ...) -> int`` for each component.

    Each function holds for every batch and sequence from 1 on, so ``compiled`` must have all regimes of the plan.
    Symbolic sizes of the architecture become arguments, with the plan's values as defaults.
    """
    plan = compiled[0].plan
    if {c.regime for c in compiled} != set(regimes(plan)):
        raise ValueError("a Python function covers every batch and sequence: compile all regimes of the plan")
    head = '"""Memory of one training step, exact. Written by `estimator formula`."""'
    return "\n\n\n".join([head, *(_function([formula(c, name) for c in compiled]) for name in components)])


def _function(formulas: list[Formula]) -> str:
    component, plan = formulas[0].component, formulas[0].plan
    symbols = legend(formulas)
    sizes = {s: value for s, value in symbols.items() if s.name in formulas[0].values}
    new = ["N"] if plan.generate is not None else []
    arguments = [
        "B: int",
        "S: int",
        *(f"{name}: int" for name in new),
        *(f"{s.name}: int = {value}" for s, value in sizes.items()),
    ]
    lines = [f"def {component}_bytes({', '.join(arguments)}) -> int:"]
    if len(lines[0]) > _WIDTH:
        lines = [f"def {component}_bytes(", *(f"    {argument}," for argument in arguments), ") -> int:"]
    lines += [f'    """Bytes: {EXPORTED[component]}.', "", *_paragraph(f"Plan: {quoted(plan_line(plan))}"), ""]
    lines += ["    B: batch: sequences in one micro-batch", "    S: sequence length in tokens"]
    lines += [f"    {name}: new tokens of the call" for name in new]
    lines += [f"    {s.name}: {s.meaning} (default: {value})" for s, value in sizes.items()]
    if formulas[0].fixed:
        lines.append(f"    Filled in, since the formulas differ elsewhere: {fixed_line(formulas[0])}")
    limits = ["B >= 1", "S >= 1", *(f"{name} >= 1" for name in new), *bounds(list(sizes), 1)]
    lines += ["", f"    Holds for {_listed(limits)}; raises ValueError elsewhere.", '    """']
    lines += [f"    if not ({' and '.join(limits)}):"]
    lines += [f'        raise ValueError("{component}_bytes holds for {_listed(limits)}")']
    lines += [f"    {s.name} = {s.source}" for s in symbols if s.function is not None]

    bodies: dict[str, list[str]] = {}
    for f in formulas:
        bodies.setdefault(_body(f), []).append(f.regime.condition())
    *first, (last, where) = bodies.items()
    for body, conditions in first:
        lines += [f"    if {_either(conditions)}:", textwrap.indent(body, "        ")]
    # The regimes cover every B and S, so the last one needs no condition.
    lines += [f"    # {_either(where)}"] if first else []
    return "\n".join([*lines, textwrap.indent(last, "    ")])


def _body(f: Formula) -> str:
    moments: dict[str, str] = {}
    for name, value in f.moments:
        moments.setdefault(source(value), name)
    if not moments:
        return _wrapped("return ", source(f.base))
    lines = [_wrapped(f"{f.base_name} = ", source(f.base))] if f.base else []
    added = f"{f.base_name} + " if f.base else ""
    if len(moments) == 1:
        return "\n".join([*lines, _wrapped(f"return {added}", *moments)])
    lines.append(f"return {added}max(")
    for text, name in moments.items():
        lines.append(f"{textwrap.fill(text, _WIDTH, initial_indent='    ', subsequent_indent=' ' * 8)},  # {name}")
    return "\n".join([*lines, ")"])


def _wrapped(start: str, text: str) -> str:
    if len(start + text) <= _WIDTH:
        return start + text
    lines = textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{start}(\n{lines}\n)"


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False)


def _either(conditions: list[str]) -> str:
    return conditions[0] if len(conditions) == 1 else " or ".join(f"({c})" for c in conditions)


def _listed(limits: list[str]) -> str:
    return f"{', '.join(limits[:-1])} and {limits[-1]}"


def quoted(text: str) -> str:
    """A text with the escapes that it needs in a docstring."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
