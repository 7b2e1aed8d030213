"""A server of the Model Context Protocol, by the official SDK: a tool for each question, for assistants in editors.

A tool is a command. Each call runs in a process of its own, which is bounded in time and memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool

from ..errors import InputError, nearest
from ..io import fresh
from ..io.version import __version__
from ..plans.plan import Plan
from .topics import COMMANDS

SECONDS = 60
"""The most time that a call may take."""
BYTES = 4 << 30
"""The most address space of a call's process, where the system can limit it."""
_MARGIN = {"type": "string", "description": "what is kept free, as a size or a share: 500MiB, 5%"}
_DEVICES = {"type": "array", "items": {"type": "string"}, "description": "candidates, by the names of `devices`"}
_FILTER = {"type": "string", "description": "a text in the name"}
_FILE = {"type": "string", "description": "the file's path, a folder that holds one, or a shell line"}
_SEQS = {"type": "array", "items": {"type": "integer", "minimum": 1}, "description": "lengths in tokens"}
_SERVED = {"type": "string", "description": "a model, or a whole command line with its options: vllm serve ..."}
QUESTIONS: Mapping[str, Mapping[str, Any]] = {
    "estimate": {},
    "advise": {"margin": _MARGIN},
    "max-seq": {"margin": _MARGIN},
    "max-batch": {"margin": _MARGIN},
    "max-rank": {"margin": _MARGIN},
    "max-target-seq": {"margin": _MARGIN},
    "max-images": {"margin": _MARGIN},
    "max-image-size": {"margin": _MARGIN},
    "max-context": {"margin": _MARGIN},
    "max-gpu-layers": {"margin": _MARGIN},
    "largest-quant": {"margin": _MARGIN},
    "smallest-device": {"margin": _MARGIN, "devices": _DEVICES},
    "smallest-cluster": {"margin": _MARGIN, "devices": _DEVICES, "max_cards": {"type": "integer", "minimum": 1}},
    "compare": {"methods": {"type": "array", "items": {"type": "string"}}, "seqs": _SEQS, "devices": _DEVICES},
    "serving": {
        "device": {"type": "string"},
        "devices": {**_DEVICES, "description": "in place of device: how many of each it takes"},
        "seqs": _SEQS,
        "release": {"type": "string", "description": "of vLLM"},
        "model": _SERVED,
    },
    "explain": {},
    "check": {"file": _FILE},
    "models": {"filter": _FILTER},
    "devices": {"filter": _FILTER},
}
"""The commands that are tools, and what each takes beside the keys of a plan."""
_WITHOUT_PLAN = ("serving", "models", "devices")
_POSITIONAL = ("file", "filter", "model")
"""Keys that are no options. They stand last."""


def tools() -> list[Tool]:
    """The tools, with schemas made from the plan's."""
    schema = Plan.model_json_schema()
    found = []
    for name, own in QUESTIONS.items():
        of_plan = name not in _WITHOUT_PLAN
        required = [key for key in ("file", "model") if key in own] or (["model"] if of_plan else [])
        keys = {key: value for key, value in schema["properties"].items() if of_plan and key not in own}
        given = {"type": "object", "properties": {**own, **keys}, "required": required, "additionalProperties": False}
        if of_plan:
            given["$defs"] = schema["$defs"]
        found.append(Tool(name=name, description=COMMANDS[name], input_schema=given))
    return found


def words_of(name: str, given: Mapping[str, Any]) -> tuple[list[str], dict[str, Any] | None]:
    """A call as a command's words, and the plan that it reads. Raises ``InputError``."""
    if name not in QUESTIONS:
        raise InputError(f"no tool '{name}'{nearest(name, QUESTIONS)}; there are {', '.join(QUESTIONS)}")
    words, plan = [name], dict(given)
    for key in QUESTIONS[name]:
        if (value := plan.pop(key, None)) is not None:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += ["--", text] if key in _POSITIONAL else [f"--{key.replace('_', '-')}={text}"]
    if name not in _WITHOUT_PLAN:
        return words, plan
    if plan:
        raise InputError(f"unknown key '{next(iter(plan))}'; {name} takes {', '.join(QUESTIONS[name])}")
    return words, None


async def answer(name: str, given: Mapping[str, Any]) -> CallToolResult:
    """A tool's answer as text and as JSON; a refusal's line where there is none."""
    try:
        words, plan = words_of(name, given)
        text, record = await asyncio.to_thread(_run, words, plan)
    except InputError as error:
        return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
    structured = record if isinstance(record, dict) else {"rows": record}
    return CallToolResult(content=[TextContent(text=text)], structured_content=structured)


def _run(words: Sequence[str], plan: Mapping[str, Any] | None) -> tuple[str, Any]:
    """What a command prints, and its record. Raises ``InputError`` for a refusal, and where a bound is reached."""
    done = fresh.run("show.captured", {"words": words, "plan": plan, "limit": BYTES}, timeout=SECONDS)
    if done.returncode:
        raise InputError(f"no answer: {fresh.reason(done)}; ask for less, such as a shorter sequence or fewer devices")
    status, error, text, record = json.loads(done.stdout)
    if status == 2:
        raise InputError(error)
    return text, json.loads(record)


async def _listed(context: Any, params: Any) -> ListToolsResult:
    return ListToolsResult(tools=tools())


async def _called(context: Any, params: CallToolRequestParams) -> CallToolResult:
    return await answer(params.name, params.arguments or {})


def serve() -> None:
    """Answer on standard input and output until they are closed."""

    async def run() -> None:
        server = Server("estimator", version=__version__, on_list_tools=_listed, on_call_tool=_called)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    asyncio.run(run())
