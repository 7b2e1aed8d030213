"""What the page's worker calls. Every function returns JSON; a refusal is ``{"error": LINE}``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..answers.estimate import estimate
from ..answers.sentences import assumed, breakdown, run_summary, summary, verdict
from ..errors import InputError, asked_in_a_shell, defect
from ..figures.process_parts import process_parts
from ..io.files import NotYaml, parse_json_or_yaml, read_text
from ..methods.registry import read_adapter_config
from ..plans.plan import Plan, parse_plan, read_plan_mapping
from ..text import dumped
from .captured import captured
from .commands.estimate import asked, title

PLAN = Path("/tmp/plan.json")
_OF_A_GGUF = ("seq", "device", "budget", "llama_cpp")
_WANTED = "a config.json, a .gguf file, an adapter_config.json or a training file"


def _answer(ask: Callable[[], dict[str, Any]]) -> str:
    with asked_in_a_shell():
        try:
            return dumped(ask())
        except InputError as error:
            return dumped({"error": str(error)})
        except Exception as error:
            return dumped({"error": defect(error)})


def estimated(plan: str) -> str:
    """The estimate of a plan in JSON: ``result``, the text that ``estimate --json`` prints, and what is shown of it.

    ``parts`` are the process at its peak in bytes, by name: they add up. ``rows`` are the breakdown's labels by the
    keys of the result's ``bytes``.
    """

    def ask() -> dict[str, Any]:
        PLAN.write_text(plan, encoding="utf-8")
        parsed = parse_plan(read_plan_mapping(PLAN))
        result = estimate(parsed)
        return {
            "result": dumped(result.to_dict(), indent=2),
            "title": title(parsed),
            "asked": asked(result.asked),
            "against": result.against,
            "parts": process_parts(result, parsed.gradient_accumulation_steps > 1),
            "rows": dict(breakdown(result)),
            "verdict": verdict(result),
            "summary": " ".join(filter(None, (summary(result), run_summary(result)))),
            "assumed": assumed(result.assumptions),
        }

    return _answer(ask)


def run(words: Sequence[str], plan: str) -> str:
    """What a command prints for a plan in JSON, with ``--json``: ``{"status", "answer"}``."""

    def ask() -> dict[str, Any]:
        printed = captured([*words, "--json"], plan)
        if printed.status == 2:
            raise InputError(printed.error)
        return {"status": printed.status, "answer": json.loads(printed.output)}

    return _answer(ask)


def dropped(path: str) -> str:
    """The keys of a plan that a file stands for: a model, an adapter, or a training file with all that it sets.

    ``beside`` are the keys that stay as they were; without it all do.
    """

    def ask() -> dict[str, Any]:
        if path.lower().endswith(".gguf"):
            return {"keys": {"model": path}, "beside": _OF_A_GGUF}
        if path.lower().endswith((".json", ".yaml", ".yml")):
            try:
                keys = parse_json_or_yaml(read_text(Path(path), _WANTED))
            except NotYaml as error:
                raise InputError(f"'{path}' is not valid YAML or JSON{error.where}; is the file cut off?") from None
            if isinstance(keys, dict) and "peft_type" in keys:
                return {"keys": {"method": read_adapter_config(Path(path))}}
            if isinstance(keys, dict) and "model_type" in keys:
                return {"keys": {"model": path}}
            if isinstance(keys, dict) and "model" in keys and keys.keys() <= Plan.model_fields.keys():
                return {"keys": keys, "beside": []}
        from ..answers.check import check  # which only a training file needs

        checked = check(path)
        if checked.plan is None:
            raise InputError(f"{checked.tool}: {checked.error}")
        return {"keys": json.loads(checked.plan.model_dump_json(exclude_unset=True)), "beside": []}

    return _answer(ask)
