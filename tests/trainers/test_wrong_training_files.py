"""Wrong training files: one line that says what is wrong, exit status 2, nothing run, and soon."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from estimator.answers.check import check
from estimator.errors import InputError
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
    "not finite": (json.dumps({**AXOLOTL, "sequence_len": 1e300}), "must be a number"),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS)
def test_a_wrong_text_is_refused_in_one_line(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.yaml"
    path.write_text(text)
    assert main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(InputError, match=words):
        check(str(path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    class Run:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "training_args.bin"
    path.write_bytes(pickle.dumps(Run()))
    with pytest.raises(InputError, match="pickle"):
        check(str(path))
    with pytest.raises(InputError, match="pickle"):
        check(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_program_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(InputError, match="never run"):
        check(str(path))
    for line in (f"python -c 'open(1)' {path}", "accelerate launch", "echo hi", f"rm -rf {tmp_path}"):
        with pytest.raises(InputError):
            check(line)
    assert path.exists()
    assert not (tmp_path / "ran").exists()


def test_large_and_odd_files_are_refused_soon(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(100 << 20)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    start = time.process_time()
    with pytest.raises(InputError, match="larger than"):
        check(str(large))
    with pytest.raises(InputError, match="named pipe"):
        check(str(pipe))
    with pytest.raises(InputError, match="no file"):
        check(str(tmp_path / "absent.yaml"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no training file"):
        check(str(tmp_path / "empty"))
    assert time.process_time() - start < 2


def test_an_option_takes_the_place_of_a_value_without_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "optimizer": "ademamix", "flex_attention": True}))
    assert "ademamix" in check(str(path)).error
    assert check(str(path), {"optimizer": "adamw"}).error.startswith(str(path))
    assert check(str(path), {"optimizer": "adamw", "attention": "sdpa"}).result is not None


def test_what_was_understood_is_printed_though_the_estimate_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "optimizer": "ademamix", "wandb_project": "p"}))
    assert main(["check", str(path), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert "ademamix" in answer["error"]
    assert (answer["plan"]["batch"], answer["plan"]["seq"], answer["plan"]["dtype"]) == (2, 512, "bfloat16")
    assert [one["key"] for one in answer["ignored"]] == ["wandb_project"]
    assert main(["check", str(path)]) == 2
    shown = capsys.readouterr()
    assert "wandb_project" in shown.out
    assert "ademamix" in shown.err


def test_a_misspelt_key_is_named_with_the_one_that_it_resembles(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "sequence_length": 4096}))
    (ignored,) = (one for one in check(str(path)).ignored if one.key == "sequence_length")
    assert "did you mean sequence_len" in ignored.why


def test_several_training_files_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(AXOLOTL))
    with pytest.raises(InputError, match=r"a\.json, b\.json"):
        check(str(tmp_path))
