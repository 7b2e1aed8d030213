"""The Trainer's callback, in real runs on the CPU, and the table of its records."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import estimator
from estimator.answers.callback import DoesNotFit
from estimator.answers.measured_runs import medians, read
from estimator.errors import InputError
from estimator.show.cli import main

SEQ = 32


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Eight samples of ``SEQ`` tokens."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.full((SEQ,), index)
        return {"input_ids": ids, "labels": ids}


def trained(folder: Path, callback: Any, adapted: bool = True, name: str = "") -> Any:
    """A run of two steps with the callback, of a model that was loaded under a name."""
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    config._name_or_path = name
    model: Any = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=2, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Tokens(), callbacks=[callback])
    trainer.train()
    assert trainer.state.global_step == 2
    return callback


def test_an_estimate_that_takes_long_is_one_line_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long ends soon after its limit, so that it takes no time from the steps either."""
    ended = threading.Event()

    def endless(*_: Any) -> Any:
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr("estimator.answers.callback.check", endless)
    done = trained(tmp_path, estimator.callback(seq=SEQ, time_limit=0.2))
    assert [one.getMessage() for one in caplog.records if one.name == "estimator"] == [
        "estimator: no estimate: no whole answer in 0.2 seconds"
    ]
    assert (done.checked, done.record) == (None, None)
    assert ended.wait(5)
    for wrong in (0, -1, True, "5", float("nan")):
        with pytest.raises(InputError, match="time_limit must be a number of seconds"):
            estimator.callback(time_limit=wrong)  # type: ignore[arg-type]


def test_a_run_is_estimated_as_its_objects_say_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is that of the arguments, the config and the adapter; a line and a record compare both figures."""
    output = tmp_path / "runs.jsonl"
    done = trained(tmp_path, estimator.callback(seq=SEQ, budget="8GiB", output=output))
    plan = done.checked.plan
    assert (plan.batch, plan.seq, plan.dtype, plan.method.name, plan.method.r) == (2, SEQ, "bfloat16", "lora", 4)
    assert (plan.runtime, plan.optimizer, plan.gradient_clipping) == ("torch-cpu", "adamw-fused", True)
    assert done.checked.result.fits
    assert "process" in capsys.readouterr().out
    rows = read([str(output)])
    assert rows[0].predicted["process"] == done.checked.result.bytes["process"]
    assert rows[0].measured["process"] > 0
    assert rows[0].versions["transformers"] == transformers.__version__
    trained(tmp_path, estimator.callback(seq=SEQ, output=output), adapted=False)
    assert main(["report", str(output), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.split("\n", 2)[-1])
    assert len(answer["runs"]) == 2
    assert answer["medians"] == medians(read([str(output)]))


def test_a_run_that_does_not_fit_stops_before_its_first_step(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="Does not fit in 100"):
        trained(tmp_path, estimator.callback(seq=SEQ, budget="100MiB", on_failure="stop"))


def test_a_run_that_does_not_fit_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path, estimator.callback(seq=SEQ, budget="100MiB"))
    assert "Does not fit in 100" in caplog.text


def test_a_run_without_an_estimate_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = trained(tmp_path, estimator.callback(seq=SEQ, attention="flash"))
    assert "no estimate" in caplog.text
    assert done.record.error
    assert "no estimate" in done.record.line()


NAMES = {
    ".": "llama", "..": "llama", "/": "llama", "": "llama", "n" * 300: "n" * 60, "a/ü漢" + "b" * 300: "ü漢" + "b" * 58,
    "training_args.json": "training_args.json", "a\0b": "a-b", "=x|y": "-x-y",
}  # fmt: skip
"""By the name of a model's folder, what the estimate calls it: the model's kind where nothing is left of the name."""


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_any_name_is_estimated(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "runs.jsonl"
    done = trained(tmp_path, estimator.callback(seq=SEQ, output=output), adapted=False, name=name)
    assert done.checked.result is not None
    assert Path(done.checked.plan.model).name == NAMES[name]
    assert not caplog.text
    assert read([str(output)])[0].predicted


def test_an_output_that_cannot_be_written_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run and its line stay."""
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "missing" / "x", tmp_path, tmp_path / "pipe", Path("/dev/full"), Path("n" * 300)):
        caplog.clear()
        done = trained(tmp_path, estimator.callback(seq=SEQ, output=output), adapted=False)
        assert done.record is not None
        assert [one.levelname for one in caplog.records if one.name == "estimator"] == ["WARNING"]
        assert "cannot write" in caplog.text


def test_no_folder_for_temporary_files_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on; the line says what the system said."""
    callback = estimator.callback(seq=SEQ)
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/none")
    callback.on_train_begin(transformers.TrainingArguments(str(tmp_path), use_cpu=True), None, None, model=None)
    assert "no estimate: [Errno 20] Not a directory" in caplog.text
    assert "defect" not in caplog.text


def test_an_output_that_is_no_path_is_refused_before_the_run() -> None:
    with pytest.raises(InputError, match="output must be a file's path, not 3"):
        estimator.callback(output=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [RuntimeError("x\ny"), MemoryError(), RecursionError(), SystemExit(3), GeneratorExit()]
)
@pytest.mark.parametrize("where", ["_checked", "_begin", "_record"])
def test_a_defect_of_ours_does_not_end_a_run(
    where: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(f"estimator.answers.callback.{where}", broken)
    callback, arguments = estimator.callback(seq=SEQ), transformers.TrainingArguments(str(tmp_path), use_cpu=True)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )

    def run() -> None:
        callback.on_train_begin(arguments, None, None, model=model)
        callback.on_train_end(arguments, None, None)

    run()
    assert [one.levelname for one in caplog.records if one.name == "estimator"] == ["WARNING"]
    error = KeyboardInterrupt()  # a signal would do nothing where the suite runs in the background
    with pytest.raises(KeyboardInterrupt):
        run()


def test_wrong_records_are_refused_in_one_line(tmp_path: Path) -> None:
    wrong = {
        "not JSON": "is it cut off",
        "{}": "schema 1",
        '{"schema": 1}': "not whole",
        '{"schema": 1, "model": "m", "device": "d", "date": "x", "error": "", "predicted": {"process": "1"}, '
        '"measured": {}, "versions": {}}': "bytes by name",
        "": "no records",
    }
    for text, words in wrong.items():
        path = tmp_path / "wrong.jsonl"
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read([str(path)])


def test_a_wrong_way_to_fail_is_refused() -> None:
    with pytest.raises(InputError, match="warn or stop"):
        estimator.callback(on_failure="explode")  # type: ignore[arg-type]
