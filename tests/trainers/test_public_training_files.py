"""Public training files: each is read as its tool, by its sources, reads it, and nothing is left unsaid.

The witness is the tools' sources, in the releases that ``docs/measured/trainer_defaults`` names; they are read by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from estimator.answers.check import Checked, check
from estimator.errors import InputError
from estimator.plans.models import load
from tests.cases.training_files import FORMATS, cases

CASES = [pytest.param(case, id=f"{name}-{case['address']}") for name in FORMATS for case in cases(name)]


def written(case: dict[str, Any], folder: Path) -> Path:
    """The case as a file of its format, with those that lie beside it."""
    for name, content in case.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content, sort_keys=False))
    config = case["config"]
    path = folder / ("train.sh" if isinstance(config, str) else "train.yaml")
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    return path


ANSWERS: dict[int, Checked] = {}


def read(case: dict[str, Any], folder: Path) -> Checked:
    """The answer to a case, with the options that its user gives ``beside`` the file. It is worked out once."""
    if id(case) not in ANSWERS:
        ANSWERS[id(case)] = check(str(written(case, folder)), case.get("beside"), case.get("format"))
    return ANSWERS[id(case)]


def refusal(case: dict[str, Any], folder: Path) -> str:
    """Why a case has no answer; empty where it has one."""
    try:
        return read(case, folder).error
    except InputError as error:
        return str(error)


@pytest.mark.share(20)
@pytest.mark.parametrize("case", CASES)
def test_a_public_file_is_read_as_its_tool_reads_it(case: dict[str, Any], tmp_path: Path) -> None:
    """A key of the file sets a key of the plan, is assumed about, or is named as ignored; or it is off."""
    expect = dict(case["expect"])
    if "refused" in expect:
        assert refusal(case, tmp_path)
        return
    checked = read(case, tmp_path)
    said = expect.pop("said", [])
    packed = expect.pop("packing", None)
    blocks = {name: expect.pop(name, {}) for name in ("sharding", "mlx")}
    method = expect.pop("method", {})
    keys, block = dict(checked.keys), dict(checked.keys["method"])
    if (model := expect.pop("model", None)) is not None:
        assert keys.get("model") in (model, _built_in(model)), checked.error
    assert {key: keys.get(key) for key in expect} == expect, checked.error
    assert {key: block.get(key) for key in method} == method, checked.error
    for name, expected in blocks.items():
        assert {key: (keys.get(name) or {}).get(key) for key in expected} == expected, checked.error
    named = {word for one in checked.assumptions for word in one.key.split(", ")} | {one.key for one in checked.ignored}
    beginnings = [*named, *checked.said_by.values()]
    unsaid = [key for key in said if not any(one.startswith(key) for one in beginnings) and key not in checked.error]
    assert unsaid == []
    if packed is not None:
        assert packed == (keys.get("packing") is True or any("pack" in one for one in named))
    answer = json.loads(json.dumps(checked.to_dict()))
    assert {"plan", "assumptions", "ignored"} <= answer.keys()
    assert all(one.keys() == {"key", "value", "why"} and one["why"] for one in answer["assumptions"])
    assert all(one.keys() - {"unknown"} == {"key", "why"} and one["why"] for one in answer["ignored"])


def _built_in(model: str) -> str:
    try:
        return load(model).name
    except InputError:
        return model


@pytest.mark.share(40)
@pytest.mark.parametrize("case", CASES)
def test_the_plan_of_a_public_file_has_the_same_estimate(case: dict[str, Any], tmp_path: Path) -> None:
    """The plan that ``check`` prints is whole: asked for again, it gives the same bytes."""
    from estimator import estimate

    if "refused" in case["expect"]:
        return
    checked = read(case, tmp_path)
    if checked.result is None:
        return
    plan = json.loads(json.dumps(checked.to_dict()["plan"]))
    assert estimate(plan).bytes == checked.result.bytes
