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
from estimator.trainers.formats import _MOST_FILES, read
from estimator.trainers.shell import parse

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
    "a template": ("base_model: {{ model }}\nmicro_batch_size: 1\n", r"YAML.*; templates .* are not expanded"),
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
    "mlx's number": ("fine_tune_type: lora\nnum_layers: many\n", "num_layers must be a number"),
    "an adapter's config": ('{"peft_type": "LORA", "r": 8}', "says no step"),
    "Python in YAML": ("base_model: !!python/object/apply:os.system ['touch ran']\n", "not valid YAML"),
    "cut off": ('{"base_model": "x", "micro', r"not valid YAML or JSON(?!.*template).*cut off"),
    "a deep block": ("base_model: a\nmicro_batch_size: 1\nb: " + "[" * 900 + "]" * 900, "more than 50 deep"),
    "many keys": ("base_model: a\n" + "".join(f"key_{i}: 1\n" for i in range(3000)), "has 3,001 keys; give 2,000"),
    "many keys of a block": (
        "model_name_or_path: a\nmax_length: 8\nmodel_init_kwargs:\n" + "".join(f"  key_{i}: 1\n" for i in range(3000)),
        "has 3,000 keys in model_init_kwargs; give 2,000",
    ),
    "not finite": (json.dumps({**AXOLOTL, "sequence_len": 1e300}), "must be a number"),
    "not a number": ("model_name_or_path: a\nmax_length: .nan\n", "max_length must be a number, not nan"),
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


def test_a_launcher_that_launches_itself() -> None:
    with pytest.raises(InputError, match="no keys of a tool that is known"):
        check("uv run " * 6000 + "python train.py --model_name_or_path a")
    assert parse("uv run python train.py --max_length 8", "the line").options == {"max_length": "8"}


def test_a_folder_of_very_many_files(tmp_path: Path) -> None:
    for i in range(_MOST_FILES - 1):
        (tmp_path / f"{i}.json").write_text("[]")
    arguments = "model_name_or_path: gpt2\nper_device_train_batch_size: 3\nlearning_rate: 1.0e-4\n"
    (tmp_path / "own.yaml").write_text(arguments)
    assert read(str(tmp_path), "trl").plan["batch"] == 3
    (tmp_path / "another.json").write_text("[]")
    with pytest.raises(InputError, match=f"holds {_MOST_FILES + 1} files"):
        read(str(tmp_path), "trl")


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


LONG = {
    "a list.yaml": ("micro_batch_size: 1\nbase_model: a\na: [" + "1," * 230_000 + "1]", None),
    "a key in YAML.yaml": ("".join(f"key_{i}: [1, {{a: b}}]\n" for i in range(20_000)), "no keys of a tool"),
    "assignments.sh": ("A=1 " * 120_000 + "trl sft --model_name_or_path a --bf16 true", None),
    "one word.sh": ("accelerate launch a.py " + "a." * 200_000 + "b=1", "longer than 50,000 characters"),
    "names.yaml": ("base_model: a\nlora_target_modules: [" + "a," * 230_000 + "a]\nmicro_batch_size: 1", None),
}


@pytest.mark.share(6)
@pytest.mark.parametrize(("name", "text", "words"), [(name, *case) for name, case in LONG.items()], ids=LONG)
def test_long_files_take_seconds(name: str, text: str, words: str | None, tmp_path: Path) -> None:
    """Files of nearly the largest size are refused, in most cases for the model's name, in under five seconds."""
    path = tmp_path / name
    path.write_text(text)
    start = time.process_time()
    if words is None:
        assert "model" in check(str(path)).error
    else:
        with pytest.raises(InputError, match=words):
            check(str(path))
    assert time.process_time() - start < 5


def test_a_folder_of_long_files(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text("".join(f"key_{i}: [1, {{a: b}}]\n" for i in range(2_000)))
    start = time.process_time()
    with pytest.raises(InputError, match="more than 500,000 bytes of JSON and YAML"):
        check(str(tmp_path))
    assert time.process_time() - start < 5


def test_an_option_takes_the_place_of_a_value_without_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "optimizer": "ademamix", "flex_attention": True}))
    assert "ademamix" in check(str(path)).error
    assert check(str(path), {"optimizer": "adamw"}).error.startswith(str(path))
    assert check(str(path), {"optimizer": "adamw", "attention": "sdpa"}).result is not None


def test_a_refused_estimate_is_one_line_and_json_has_what_was_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "optimizer": "ademamix", "wandb_project": "p"}))
    assert main(["check", str(path), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert "ademamix" in answer["error"]
    assert (answer["plan"]["batch"], answer["plan"]["seq"], answer["plan"]["dtype"]) == (2, 512, "bfloat16")
    assert [one["key"] for one in answer["ignored"]] == ["wandb_project"]
    for command in (["check"], ["advise", "--device", "rtx-4090", "--file"]):
        assert main([*command, str(path)]) == 2
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
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


def test_flash_attention_without_padding(tmp_path: Path) -> None:
    """A row alone is never padded; several are, unless they are packed."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**AXOLOTL, "flash_attention": True}))
    assert check(str(path), {"batch": 1}).result is not None
    assert check(str(path), {"packing": True}).result is not None
    assert "whose shorter rows are padded" in check(str(path)).error


def test_experts_that_are_not_quantised(tmp_path: Path) -> None:
    """bitsandbytes quantises linear layers; under transformers 5 the experts of a layer are one parameter."""
    keys = {"adapter": "qlora", "load_in_4bit": True, "lora_target_modules": ["q_proj"], "sdp_attention": True}
    path = tmp_path / "train.json"
    for model, told in (("mixtral-8x7b", 1), ("mistral-7b-v0.1", 0)):
        path.write_text(json.dumps({**AXOLOTL, **keys, "base_model": model}))
        result = check(str(path)).result
        assert result is not None
        assert sum("does not quantise the experts" in one for one in result.warnings) == told
    path.write_text(json.dumps({**AXOLOTL, **keys, "base_model": "mixtral-8x7b", "quantize_moe_experts": True}))
    assert "quantises experts while they are loaded" in check(str(path)).error


def test_torchao_s_nf4_is_not_bitsandbytes(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    model = {"_component_": "torchtune.models.llama3_2.qlora_llama3_2_1b", "lora_attn_modules": ["q_proj"]}
    path.write_text(json.dumps({"model": model, "batch_size": 1}))
    assert "is torchao's NF4" in check(str(path)).error
    assert check(str(path), {"dtype": "nf4", "seq": 64}).result is not None
    assert check(str(path), {"dtype": "bfloat16", "seq": 64}).result is not None


def test_targets_that_peft_has_no_default_for(tmp_path: Path) -> None:
    """A plan takes all linear layers and says so; training with the file would fail, so the file is refused."""
    from estimator import estimate

    plain = estimate("phi-3.5-mini", method="lora", seq=64)
    named = estimate("phi-3.5-mini", method={"name": "lora", "target_modules": "all-linear"}, seq=64)
    assert plain.bytes == named.bytes
    assert [one.value for one in plain.assumptions if "no default target_modules" in one.why] == ["all-linear"]
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    path = tmp_path / "args.json"
    path.write_text('{"per_device_train_batch_size": 1, "output_dir": "o", "optim": "sgd", "max_steps": 1}')
    assert "PEFT has no default target_modules" in check(str(path), {"model": "phi-3.5-mini", "seq": 64}).error
    assert check(str(path), {"model": "llama-3.2-1b", "seq": 64}).result is not None
