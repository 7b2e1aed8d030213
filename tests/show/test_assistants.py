"""The tools for assistants, through the SDK's own client. The witness is the command line."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

pytest.importorskip("mcp")

from jsonschema import Draft202012Validator
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from estimator.errors import InputError
from estimator.plans.plan import Plan
from estimator.show import assistants
from estimator.show.captured import captured


def called(*calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What a server in a process of its own answers, after the list of its tools."""

    async def run() -> list[Any]:
        server = StdioServerParameters(command=sys.executable, args=["-m", "estimator", "mcp"], env=dict(os.environ))
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            return [(await session.list_tools()).tools, *[await session.call_tool(*call) for call in calls]]

    return asyncio.run(run())


@pytest.mark.share(9)
def test_a_client_asks() -> None:
    plan = {"model": "smollm2-135m", "method": {"name": "lora", "r": 4}, "budget": "2GiB"}
    words = ["smollm2-135m", "--method", "lora", "--r", "4", "--budget", "2GiB"]
    tools, estimate, longest, refused, unknown, listed, served, compared = called(
        ("estimate", plan),
        ("max-seq", {**plan, "margin": "10%"}),
        ("estimate", {"model": "nope"}),
        ("estimate", {"model": "smollm2-135m", "seqq": 5}),
        ("models", {"filter": "smollm2"}),
        ("serving", {"model": "vllm serve llama-3.1-8b --max-model-len 4096", "device": "h100-80gb"}),
        ("compare", {"model": "smollm2-135m", "methods": ["lora", "ia3"], "seqs": [512]}),
    )
    assert {one.name for one in tools} == set(assistants.QUESTIONS)
    assert estimate.structured_content == json.loads(captured(["estimate", *words, "--json"]).output)
    assert estimate.content[0].text == captured(["estimate", *words]).output
    answer = json.loads(captured(["max-seq", *words, "--margin", "10%", "--json"]).output)
    assert longest.structured_content == answer
    assert refused.is_error
    assert "nope" in refused.content[0].text
    assert unknown.is_error
    assert "seqq" in unknown.content[0].text
    line = ["serving", "vllm serve llama-3.1-8b --max-model-len 4096", "--device", "h100-80gb"]
    assert served.content[0].text == captured(line).output
    assert compared.content[0].text == captured(["compare", "smollm2-135m", "--methods=lora,ia3", "--seqs=512"]).output
    assert {one["name"] for one in listed.structured_content["rows"]} == {
        "smollm2-135m", "smollm2-360m", "smollm2-1.7b",
    }  # fmt: skip


@pytest.mark.share(9)
def test_schemas_are_the_plans() -> None:
    for tool in assistants.tools():
        Draft202012Validator.check_schema(tool.input_schema)
        if tool.name not in ("models", "devices", "serving"):
            assert tool.input_schema["properties"].keys() >= Plan.model_fields.keys()
    schema = next(one.input_schema for one in assistants.tools() if one.name == "estimate")
    valid = Draft202012Validator(schema).is_valid
    assert valid({"model": "llama-3.1-8b", "method": {"name": "lora", "r": 8}, "sharding": {"name": "ddp"}})
    assert not valid({"method": "lora"})
    assert not valid({"model": "x", "modl": 1})


CARDS = {"devices": ["a", "b"], "max_cards": 4}


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("check", {"file": "--x"}, ["check", "--", "--x"]),
        ("smallest-cluster", CARDS, ["smallest-cluster", "--devices=a,b", "--max-cards=4"]),
        ("serving", {"model": "--x", "seqs": [1, 2]}, ["serving", "--seqs=1,2", "--", "--x"]),
    ],
)
def test_a_call_as_words(name: str, given: dict[str, Any], words: list[str]) -> None:
    assert assistants.words_of(name, given)[0] == words


@pytest.mark.parametrize(
    ("name", "given"),
    [("check", {"file": "--help"}), ("devices", {"filter": "-h"}), ("models", {"filter": "\ud800"})],
)
def test_odd_values_are_answered_or_refused(name: str, given: dict[str, Any]) -> None:
    """A value that looks like an option is a value."""
    found = asyncio.run(assistants.answer(name, given))
    assert found.model_dump_json()
    assert "usage:" not in found.content[0].text


def test_a_call_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assistants, "SECONDS", 0.01)
    found = asyncio.run(assistants.answer("estimate", {"model": "smollm2-135m"}))
    assert found.is_error
    assert "0.01 seconds" in found.content[0].text
    monkeypatch.undo()
    monkeypatch.setattr(assistants, "BYTES", 1 << 20)
    found = asyncio.run(assistants.answer("estimate", {"model": "smollm2-135m", "device": "rtx-4090"}))
    assert found.is_error
    # Wherever, and however, Python meets the bound.
    assert found.content[0].text.startswith(("out of memory; ", "no answer: "))


def test_a_key_of_a_plan_where_none_is_asked_about() -> None:
    with pytest.raises(InputError, match="unknown key 'batch'; serving takes device, devices, seqs, release, model"):
        assistants.words_of("serving", {"model": "llama-3.1-8b", "batch": 4})


def test_other_tools_are_named() -> None:
    found = asyncio.run(assistants.answer("estimat", {}))
    assert found.is_error
    assert "did you mean" in found.content[0].text or "estimate" in found.content[0].text
