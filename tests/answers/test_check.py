"""What ``check`` leaves out of a file that is refused as a whole, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import check, full_keys
from estimator.plans.plan import parse_plan
from estimator.show.cli import main

AXOLOTL = {"base_model": "NousResearch/Llama-3.2-1B", "micro_batch_size": 2, "sequence_len": 512}


def test_what_the_file_says_of_a_choice_goes_with_the_choice(tmp_path: Path) -> None:
    """An option takes the place of a value of the file, and of what the file says of that value alone."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "adapter": "qlora", "load_in_4bit": True, "lora_target_linear": True}))
    checked = check(str(path), {"dtype": "bfloat16"})
    assert checked.plan is not None
    assert checked.plan.dtype == "bfloat16"
    assert any(one.key == "compute_dtype" and "its own dtype" in one.why for one in checked.assumptions)
    assert "compute_dtype belongs to" in check(str(path), {"dtype": "bfloat16", "compute_dtype": "float16"}).error


def test_an_older_release_is_answered_without_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(AXOLOTL))
    older = check(str(path), {"transformers": "4.48"})
    assert older.result is not None
    assert not older.result.run_moments
    assert any(one.key == "run" and "the step alone" in one.why for one in older.assumptions)
    assert "run has no rule" in check(str(path), {"transformers": "4.48", "eval_samples": 9}).error
    assert main(["check", str(path), "--no-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["run"] is None
    assert main(["check", str(path), "--no-run", "--eval-samples", "9"]) == 2


@pytest.mark.parametrize(
    ("keys", "reentrant"),
    [
        ({"checkpointing": "layer"}, False),
        ({"checkpointing": "layer", "transformers": "4.48"}, True),
        ({"checkpointing": "offloaded"}, False),
        ({"checkpointing": "every-2"}, None),
        ({}, None),
        ({"model": "t5-small", "target_seq": 5}, None),
    ],
)
def test_every_key_of_a_plan_is_said(keys: dict[str, Any], reentrant: bool | None) -> None:
    """So that the plan is the same under later defaults. A target goes with an encoder beside the decoder."""
    plan = parse_plan({"model": "smollm2-135m", "method": "lora", "seq": 32, **keys})
    found = full_keys(plan)
    assert found["use_reentrant"] is reentrant
    assert found.get("target_seq") == keys.get("target_seq")
    assert (found["model"], found["method"]["name"]) == (plan.model, "lora")
    assert full_keys(parse_plan(found)) == found
