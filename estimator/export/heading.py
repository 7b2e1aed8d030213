"""What every exported file says first, in lines of text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from ..answers.result import transformers_of
from ..io.version import __version__
from ..plans.plan import Plan
from ..plans.resolve import resolve
from .components import plan_line
from .function import Function
from .plain_text import fixed_lines

WIDTH = 110
"""The width of exported lines, in characters."""


def heading(f: Function) -> list[str]:
    """What every exported file says first: model, plan, releases, and where it holds. The lines are ASCII."""
    ranges = "; ".join(f"{v.name} from {v.least} to {v.most}" for v in f.variables)
    variables = (f"{v.name}: {v.meaning} (default: {v.value})" for v in f.variables)
    return [
        f"estimate({', '.join(v.name for v in f.variables)}): the bytes of {f.plan.asked}.",
        *origin(f, "export", *_fixed(f), f"holds for whole numbers: {ranges}", *variables),
    ]


def origin(f: Function, command: str, *where: str) -> list[str]:
    """Of which model, plan and releases a function is, ``where`` it holds, how exact it is, and what wrote it."""
    return [
        f"model: {json.dumps(f.plan.model)}",
        f"plan: {plan_line(f.plan)}",
        *fixed_lines(f),
        *release_lines(f.plan),
        *where,
        f.plan.engine.exactness,
        *f.notes,
        f"written by: estimator {command}, llm-memory-estimator {__version__}",
    ]


def fixed_keys(f: Function) -> dict[str, Any]:
    """The keys of the plan beside ``plan_line`` that are no variables: batch, sequence and device."""
    plan, names = f.plan, {v.name for v in f.variables}
    found: dict[str, Any] = {name: getattr(plan, name) for name in plan.engine.fixed_keys if name not in names}
    if (device := plan.engine.device_of(plan)) is not None:
        found["device"] = plan.device or device.name
    return found


def _fixed(f: Function) -> list[str]:
    keys = {name: value for name, value in fixed_keys(f).items() if value is not None}
    return [f"fixed: {json.dumps(keys)}"] if keys else []


def release_lines(plan: Plan) -> list[str]:
    """A line for each library: its name and its release."""
    own = plan.engine.release(plan)
    if not plan.engine.runs_steps:
        return [f"release: {own}"]
    if plan.implementation == "litgpt":
        return [f"release: litgpt {plan.litgpt}"]
    release = transformers_of(plan, resolve(plan).spec)
    return [f"release: {', '.join(filter(None, (f'transformers {release}', own)))}"] if release else []


def in_comment(line: str) -> str:
    """A line of ASCII that neither ends nor opens a comment of C or JavaScript; JSON in it stays the same text."""
    return line.replace("*/", "*\\/").replace("/*", "/\\u002a")


def filled(lines: Sequence[str], indent: str = "") -> list[str]:
    """Lines of text of at most ``WIDTH``, all indented."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "    ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    ]
