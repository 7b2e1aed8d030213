"""Plans in files and on standard input, and options beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estimator.answers.estimate import estimate
from estimator.errors import InputError
from tests.helpers.commands import answer, refused, run
from tests.helpers.files import write

MODEL = "smollm-135m"
LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}
YAML_PLAN = """\
model: smollm-135m
batch: 2   # a comment
seq: 512
method: {name: lora, r: 16, target_modules: [q_proj, v_proj]}
keep_logits: false
"""
KEYS = {"model": MODEL, "batch": 2, "seq": 512, "method": LORA, "keep_logits": False}


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json", "plan-with-tabs.json", "plan-with-mark.json"])
def test_plan_files(name: str, tmp_path: Path) -> None:
    """Asks the contract: a plan is one YAML or JSON object (JSON with tabs is no YAML, some editors write a mark)."""
    texts = {"plan.yaml": YAML_PLAN, "plan-with-tabs.json": json.dumps(KEYS, indent="\t")}
    texts["plan-with-mark.json"] = "\ufeff" + json.dumps(KEYS)
    file = write(tmp_path / name, texts.get(name, KEYS))
    assert answer("--plan", file) == estimate(KEYS).to_dict()


def test_options_override_the_plan(tmp_path: Path) -> None:
    """Asks the contract: an option has the last word, key by key, the method's keys too."""
    file = write(tmp_path / "plan.yaml", YAML_PLAN)
    assert answer("--plan", file, "--batch", 5) == estimate({**KEYS, "batch": 5}).to_dict()
    assert answer("smollm2-360m", "--plan", file) == estimate({**KEYS, "model": "smollm2-360m"}).to_dict()
    assert answer("--plan", file, "--keep-logits") == estimate({**KEYS, "keep_logits": True}).to_dict()
    assert answer("--plan", file, "--r", 2) == estimate({**KEYS, "method": {**LORA, "r": 2}}).to_dict()
    assert answer("--plan", file, "--method", "full") == estimate({**KEYS, "method": "full"}).to_dict()


SMOLLM2 = "smollm2-135m"


def test_standard_input(tmp_path: Path) -> None:
    """Asks the contract: ``-`` is a plan, an adapter or lengths; what is too long is refused."""
    answers = [
        run(
            ["estimate", "--plan", "-", "--json"],
            b'{"model": "smollm2-135m", "seq": 64, "method": {"name": "lora", "r": 4}}',
        ),
        run(["estimate", SMOLLM2, "--seq", "64", "--method", "-", "--json"], b'{"peft_type": "LORA", "r": 4}'),
        run(["estimate", SMOLLM2, "--method", "lora", "--r", "4", "--lengths", "-", "--json"], b"64\n32\n"),
    ]
    assert [seen.status for seen in answers] == [0, 0, 0]
    assert len({json.loads(seen.out)["bytes"]["peak"] for seen in answers}) == 1
    refused("--plan", "-", stdin=b"x" * 200_000)
    refused(SMOLLM2, "--method", "-", stdin=b" " * 2_000_000)
    refused("--plan", "-", stdin=b"")
    for plan in (
        {"model": SMOLLM2, "method": "-"},
        {"model": SMOLLM2, "lengths": "-"},
    ):  # a line of a batch reads no input
        with pytest.raises(InputError):
            estimate(plan)
