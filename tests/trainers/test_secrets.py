"""What stands at keys that nothing counts, such as a token, is in no answer and in no error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from estimator.errors import InputError, shown
from estimator.trainers.formats import read
from tests.cases.training_files import FORMATS, cases
from tests.helpers.commands import run

SECRET = "hf_Sentinel"
KEYS = ("hub_token", "api_key", "wandb_key", "password", "HF_TOKEN", "token")
TRL: dict[str, Any] = {"model_name_or_path": "HuggingFaceTB/SmolLM2-135M", "max_length": 64}


def planted(value: Any) -> Any:
    """The same file with secrets in each of its blocks."""
    if isinstance(value, dict):
        return {key: planted(inner) for key, inner in value.items()} | {key: SECRET + key for key in KEYS}
    return [planted(one) if isinstance(one, dict) else one for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", FORMATS)
def test_public_files_with_secrets(name: str, tmp_path: Path) -> None:
    """Of each format's public files, each read with secrets in all of its blocks; a command has them as options."""
    named = 0
    for number, case in enumerate(cases(name)[:40]):
        config = case["config"]
        path = tmp_path / (f"{number}.sh" if isinstance(config, str) else f"{number}.yaml")
        options = "".join(f" --{key} {SECRET}" for key in KEYS)
        path.write_text(config.rstrip() + options if isinstance(config, str) else yaml.safe_dump(planted(config)))
        try:
            reading = read(str(path), case.get("format"))
            said, named = repr(reading), named + ("hub_token" in {one.key for one in reading.ignored})
        except InputError as error:
            said = str(error)
        assert SECRET not in said, path
    assert named


@pytest.mark.parametrize("more", [[], ["--json"], ["--world-size", "2"]], ids=["text", "JSON", "processes"])
@pytest.mark.parametrize("zero", [{"stage": 2}, {"stage": 9}, [{"token": SECRET}]], ids=["read", "refused", "wrong"])
def test_a_file_that_names_another(zero: Any, more: list[str], tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({**planted({"optimizer": {}}), "zero_optimization": zero}))
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({**planted({**TRL, "model_init_kwargs": {}}), "deepspeed": "ds.json"})
    )
    seen = run(["check", str(tmp_path / "a.yaml"), *more])
    assert SECRET not in seen.out + seen.err
    assert "hub_token" in seen.out or seen.status == 2


BLOCKS = (
    "deepspeed",
    "fsdp_config",
    "model_init_kwargs",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing_kwargs",
)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("block", ['{"token": "%s"}', '{"token": "%s"', ["%s"]], ids=["text", "cut off", "list"])
def test_a_block_in_another_form(name: str, block: Any, tmp_path: Path) -> None:
    value = block % SECRET if isinstance(block, str) else [{"token": SECRET}]
    (tmp_path / "a.json").write_text(json.dumps({**TRL, "fsdp": "full_shard", name: value}))
    seen = run(["check", str(tmp_path / "a.json"), "--json"])
    assert SECRET not in seen.out + seen.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", f"HF_TOKEN={SECRET} bash train.sh"],
        ["check", f"python train.py --hub_token {SECRET} --bf16 true"],
        ["check", f"python train.py --model_name_or_path qwen3-0.6b --deepspeed \"[{{'token': '{SECRET}'}}]\""],
        ["check", f"python train.py --model_name_or_path qwen3-0.6b --deepspeed \"{{'token' '{SECRET}'\""],
        ["estimate", f"vllm serve qwen3-0.6b --api-key {SECRET}"],
        ["estimate", "smollm2-135m", "--hub_token", SECRET],
        ["estimate", "smollm2-135m", f"--hub_token={SECRET}"],
        ["estimate", "smollm2-135m", "--method", "adapter_config.json"],
    ],
    ids=["variable", "command", "list for a file", "text for a file", "server", "option", "option with =", "adapter"],
)
def test_arguments(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(planted({"peft_type": "LORA", "r": 8})))
    seen = run(arguments)
    assert (seen.status, seen.out, seen.wrong()) == (2, "", "")
    assert SECRET not in seen.err


def test_a_mapping_is_quoted_by_its_keys() -> None:
    assert shown({"stage": 2, "offload": {"device": "cpu"}}) == "{stage: ..., offload: ...}"
    assert shown([{"token": SECRET}]) == "[{token: ...}]"
    assert shown('{"token": "' + SECRET) == "'{...}'"
    assert shown("{{ model }}") == "'{{ model }}'"


@pytest.mark.parametrize("form", ["YAML", "JSON", "one line"])
def test_a_patch_of_a_file(form: str, tmp_path: Path) -> None:
    """Neither its context nor its changed lines have a secret; what shares a line with one is said without a patch."""
    keys = {"hub_token": SECRET, **TRL, "per_device_train_batch_size": 8, "wandb": {"token": SECRET}, "api_key": SECRET}
    path = tmp_path / ("a.yaml" if form == "YAML" else "a.json")
    text = json.dumps(keys, indent=2 if form == "JSON" else None)
    path.write_text(yaml.safe_dump(keys, sort_keys=False) if form == "YAML" else text)
    for more in ([], ["--json"]):
        seen = run(["advise", "--file", str(path), "--budget", "2500MiB", *more])
        assert SECRET not in seen.out + seen.err
        assert ("adamw_8bit" in seen.out, "--- a/" in seen.out) == (True, form != "one line"), seen
