"""What ``check`` leaves out of a file that is refused as a whole, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import check
from estimator.show.cli import main

AXOLOTL = {"base_model": "NousResearch/Llama-3.2-1B", "micro_batch_size": 2, "sequence_len": 512}
TRL = {"model_name_or_path": "Qwen/Qwen3-0.6B", "max_length": 512}

TEXTS = {
    "conflicting precision": ('{"output_dir": "o", "optim": "sgd", "bf16": true, "fp16": true}', "bf16 and fp16"),
    "conflicting widths": (
        json.dumps({**TRL, "load_in_4bit": True, "load_in_8bit": True}),
        "load_in_4bit and load_in_8bit are both true",
    ),
    "two names of one key": (json.dumps({**TRL, "max_seq_length": 1024}), "one key with two values"),
    "a key twice": ("base_model: a\nbase_model: b\n", "key twice"),
    "an alias": ("base_model: &a x\nadapter: *a\n", "alias"),
    "a bomb of aliases": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "alias"),
    "a template": ("base_model: {{ model }}\nmicro_batch_size: 1\n", "YAML|template"),
    "a template in a text": ('base_model: "{{ model }}"\nmicro_batch_size: 1\n', "variable or a template"),
    "a variable": ("base_model: ${MODEL}\nmicro_batch_size: 1\n", "variable or a template"),
    "no number": (json.dumps({**AXOLOTL, "micro_batch_size": "two"}), "micro_batch_size must be a number"),
    "half a number": (json.dumps({**AXOLOTL, "micro_batch_size": 1.5}), "must be a whole number"),
    "no number among an optimizer's": (
        '{"max_steps": 1, "optim": "sgd", "optim_args": "momentum=much"}',
        r"optim_args\.momentum must be a number",
    ),
    "no flag": (json.dumps({**AXOLOTL, "bf16": [1]}), "must be true or false"),
    "no mapping": ("- a\n- b\n", "no mapping"),
    "no keys that are known": ('{"a": 1}', "--format names it"),
    "keys of two tools": (
        json.dumps({"model_name_or_path": "m", "max_length": 8, "cutoff_len": 8}),
        "fits trl and llama-factory",
    ),
    "mlx": ("fine_tune_type: lora\nmask_prompt: true\n", "mlx-lm"),
    "an adapter's config": ('{"peft_type": "LORA", "r": 8}', "says no step"),
    "Python in YAML": ("base_model: !!python/object/apply:os.system ['touch ran']\n", "not valid YAML"),
    "cut off": ('{"base_model": "x", "micro', "not valid YAML or JSON"),
    "a deep block": ("base_model: a\nmicro_batch_size: 1\nb: " + "[" * 900 + "]" * 900, "more than 50 deep"),
    "many keys": ("base_model: a\n" + "".join(f"key_{i}: 1\n" for i in range(3000)), "has 3,001 keys; give 2,000"),
    "many keys of a block": (
        "model_name_or_path: a\nmax_length: 8\nmodel_init_kwargs:\n" + "".join(f"  key_{i}: 1\n" for i in range(3000)),
        "has 3,000 keys in model_init_kwargs; give 2,000",
    ),
    "not finite": (json.dumps({**AXOLOTL, "sequence_len": 1e300}), "must be a number"),
}


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
