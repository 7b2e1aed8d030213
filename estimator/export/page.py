"""The planner page: one file without a network, in which the exported JavaScript answers for pickers and sliders."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from ..answers.comparison import label
from ..answers.estimate import Progress
from ..engines.devices import Device, catalogue, find, limit_of
from ..errors import InputError
from ..plans.plan import Plan, parse_plan
from ..text import printable
from .build import function_of, variable_names
from .code_javascript import javascript
from .code_python import evaluate
from .function import Function
from .heading import heading

_FILES = Path(__file__).parent
_SEPARATOR = " | "
"""What stands between the picks in a program's name, here and in ``page.js``."""
_SHOWN = 4
"""Devices that are shown at first: the plan's, and one of each size that has room for it, the smallest first."""
_NEEDS = ("process", "process_at_most")
"""Components of which the page draws the curve: the first that a function has."""


class Choice(NamedTuple):
    """One program of the page: the value of each picker, and the function."""

    picks: tuple[str, ...]
    function: Function


METHOD_AND_DTYPE = {"method": "Method", "dtype": "Precision of the base"}
RECIPE = {"dtype": "Recipe"}
"""The lists on the page from which one value is picked, with their labels."""


def choices_of(
    keys: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    dtypes: Sequence[str],
    names: Sequence[str],
    strict: bool,
    progress: Progress,
) -> list[Choice]:
    """The functions of a plan's keys with each method and dtype, in the variables ``names`` that each has.

    Pairs that are refused are left out. Raises ``InputError`` where a method, or with ``strict`` a dtype, has none.
    """
    found: list[Choice] = []
    refusals: dict[str, InputError] = {}
    for method in methods or [{}]:
        for dtype in dtypes:
            beside = {"method": dict(method)} if method else {}
            try:
                plan = parse_plan({**keys, **beside, "dtype": dtype})
                known = [name for name in names if name in variable_names(plan)]
                function = function_of(plan, known or names, progress=progress)
            except InputError as error:
                refusals.setdefault(f"method {label(method)}" if method else "", error)
                refusals.setdefault(f"dtype {dtype}", error)
                continue
            found.append(Choice((label(method), dtype) if method else (dtype,), function))
    picked = {f"dtype {choice.picks[-1]}" for choice in found} | {f"method {choice.picks[0]}" for choice in found}
    for what, refused in refusals.items():
        if what and what not in picked and (strict or not found or what.startswith("method")):
            raise refused
    return found


def to_page(choices: Sequence[Choice]) -> str:
    """The page's HTML. ``choices`` are not empty, and of one model and runtime. Raises ``InputError``."""
    plan = choices[0].function.plan
    pickers = METHOD_AND_DTYPE if plan.engine.runs_steps else RECIPE
    devices = _devices(plan)
    needed = _need(choices[0].function)
    of_size = {one["bytes"]: one["name"] for one in reversed(devices)}
    nearest = sorted(of_size, key=lambda nbytes: (nbytes < needed, nbytes))
    shown = [*([] if plan.device is None else [find(plan.device).name]), *(of_size[nbytes] for nbytes in nearest)]
    data = {
        "pickers": [
            {"name": name, "label": words, "values": list(dict.fromkeys(choice.picks[i] for choice in choices))}
            for i, (name, words) in enumerate(pickers.items())
        ],
        "devices": devices,
        "shown": list(dict.fromkeys(shown))[:_SHOWN],
        "along": plan.engine.context_key,
        "needs": list(_NEEDS),
        "unsure": 0.0 if plan.engine.replays else plan.engine.uncertainty,  # of a replay the two bounds say it
    }
    return Template((_FILES / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(printable(f"Memory of {plan.model}")),
        asked=html.escape(plan.asked[0].upper() + plan.asked[1:]),
        style=(_FILES / "page.css").read_text(encoding="utf-8"),
        programs="\n".join(map(_program, choices)),
        data=_json(data),
        script="".join((_FILES / name).read_text(encoding="utf-8") for name in ("drawing.js", "page.js")),
    )


def _program(choice: Choice) -> str:
    about = _json(heading(choice.function))
    return "\n".join(
        [
            f"programs[{_json(_SEPARATOR.join(choice.picks))}] = (() => {{",
            javascript(choice.function),
            f"return {{ variables, components, estimate, about: {about} }};",
            "})();",
        ]
    )


def _json(value: Any) -> str:
    """JSON within a script: no text in it can end the script, or begin a comment."""
    return json.dumps(value).replace("<", "\\u003c")


def _need(f: Function) -> int:
    values = evaluate(f, {v.name: v.value for v in f.variables})
    return next((values[name] for name in _NEEDS if name in values), 0)


def _devices(plan: Plan) -> list[dict[str, Any]]:
    """The devices on which the exported program runs: those whose kernels and backend are the plan's."""

    def beside(device: Device) -> int:
        """Bytes that a device needs more than the exported plan's: the difference of their contexts."""
        engine, there = plan.engine, plan.model_copy(update={"device": device.name})
        return engine.beside(there) - engine.beside(plan) if engine.runs_steps else 0

    found = []
    for device in catalogue():
        if plan.engine.runs_alike(plan, device):
            found.append(
                {
                    "name": device.name,
                    "label": device.label,
                    "bytes": limit_of(device),
                    "against": plan.engine.against(plan, device),
                    "beside": beside(device),
                    # Where dirty memory alone is limited, mapped weights must find room in the RAM, too.
                    "ram": device.ram,
                }
            )
    if not found:
        raise InputError("no device of the catalogue runs this plan's program; take another --device or runtime")
    return found
