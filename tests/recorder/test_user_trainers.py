"""Witness: the trainer's own loop on PyTorch's CPU allocator, from the second step's begin to its end."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")

import estimator  # noqa: E402
from estimator.errors import InputError  # noqa: E402
from estimator.operators import THREADS  # noqa: E402
from estimator.witnesses.measure import Profile, peak_of, without_matmul_scratch  # noqa: E402
from tests.cases.recorded_programs import trainer_of  # noqa: E402

COUNT = 4
"""Bytes of ``num_items_in_batch``, which the loop holds for a later batch of an update."""


def trainer_class() -> Any:
    """A trainer whose loss nobody has a rule for: cross entropy, and a penalty on confident tokens."""
    from transformers import Trainer

    class Confident(Trainer):  # type: ignore[misc]
        """Its loss."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            """Asks the model for its loss and its logits."""
            out = model(**inputs)
            log_probabilities = out.logits.float().log_softmax(-1)
            loss = out.loss - 0.01 * (log_probabilities.exp() * log_probabilities).sum(-1).mean()
            return (loss, out) if return_outputs else loss

    return Confident


def distiller(teacher: Any) -> Any:
    """A trainer with a teacher of another size, which returns a cache that its output keeps."""
    from transformers import Trainer

    class Distils(Trainer):  # type: ignore[misc]
        """Its loss."""

        def __init__(self, *args: Any, **keys: Any) -> None:
            super().__init__(*args, **keys)
            self.teacher = self.accelerator.prepare_model(teacher.eval(), evaluation_mode=True)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            """The divergence from what the teacher says."""
            out = model(**inputs)
            with torch.no_grad():
                taught = self.teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            own, others = out.logits.log_softmax(-1), taught.logits.log_softmax(-1)
            loss = torch.nn.functional.kl_div(own, others, reduction="batchmean", log_target=True)
            return (loss, out) if return_outputs else loss

    return Distils


def made(folder: Path, adapted: bool, more: dict[str, Any], rows: int = 40, teacher: Any = None) -> Any:
    """The trainer of a small model of three layers, with rows of 33 tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

    config = AutoConfig.for_model(
        "qwen2", hidden_size=96, num_attention_heads=4, num_key_value_heads=2, intermediate_size=190,
        num_hidden_layers=3, vocab_size=777,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    if adapted:
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1))
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], per_device_train_batch_size=2,
        max_steps=2 if rows == 40 else -1, num_train_epochs=1,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, **more,
    )  # fmt: skip
    row = {name: [value] * 33 for name, value in (("input_ids", 5), ("attention_mask", 1), ("labels", 5))}
    kind = trainer_class() if teacher is None else distiller(teacher)
    return kind(model=model, args=arguments, train_dataset=[row] * rows)


def measured(trainer: Any) -> int:
    """The peak of the second step above what there was before it."""
    from transformers import TrainerCallback

    torch.set_num_threads(THREADS)
    profile, steps = Profile(), itertools.count(1)

    class Second(TrainerCallback):  # type: ignore[misc]
        number = 0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            Second.number = next(steps)
            if Second.number == 2:
                profile.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if Second.number == 2:
                profile.stop()

    trainer.add_callback(Second())
    trainer.train()
    return peak_of(without_matmul_scratch(profile.events()))[0]


@pytest.mark.share(6)
@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize(
    "more",
    [{"optim": "adamw_torch"}, {"bf16": True, "gradient_checkpointing": True}],
    ids=["float32", "autocast, checkpoints"],
)
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "LoRA"])
def test_a_trainer_of_the_users_own(adapted: bool, more: dict[str, Any], micro_batches: int, tmp_path: Path) -> None:
    more = {**more, "gradient_accumulation_steps": micro_batches}
    answer = estimator.step(made(tmp_path, adapted, more))
    assert answer.bytes["peak_above_resident"] == measured(made(tmp_path, adapted, more)) - COUNT * (micro_batches > 1)
    assert answer.model == "Qwen2ForCausalLM"


@pytest.mark.share(2)
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize(
    "more", [{}, {"gradient_checkpointing": True}, {"bf16": True}], ids=["float32", "checkpoints", "autocast"]
)
def test_a_teacher_of_another_size(adapted: bool, more: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama", hidden_size=160, num_attention_heads=4, num_key_value_heads=2, intermediate_size=390,
        num_hidden_layers=5, vocab_size=777,
    )  # fmt: skip
    teachers = [AutoModelForCausalLM.from_config(config, dtype=torch.float32) for _ in range(2)]
    answer = estimator.step(made(tmp_path, adapted, more, teacher=teachers[0]))
    assert answer.bytes["peak_above_resident"] == measured(made(tmp_path, adapted, more, teacher=teachers[1]))
    assert answer.bytes["reference"] == sum(p.nbytes for p in teachers[0].parameters())


def test_the_trainer_is_not_run(tmp_path: Path) -> None:
    """No weight changes, no callback is called, and the model has its own functions again."""
    trainer = made(tmp_path, False, {})
    before, forward = [p.clone() for p in trainer.model.parameters()], trainer.model.forward
    trainer.add_callback(loud())
    estimator.step(trainer)
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.model.forward == forward
    assert "generate" not in vars(trainer.model)
    with pytest.raises(AssertionError, match="called"):
        trainer.train()


def loud() -> Any:
    """A callback that may not be called."""
    from transformers import TrainerCallback

    class Raises(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            raise AssertionError("called")

    return Raises()


def test_a_trainer_that_ends_before_its_second_update(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends after 2 batches; its second update, batch 4, is asked"):
        estimator.step(made(tmp_path, False, {"gradient_accumulation_steps": 3}, rows=4))


def test_a_batch_that_a_generating_trainer_did_not_generate(tmp_path: Path) -> None:
    """It says that completions of several batches wait, and takes ids of the data set for each of these."""
    trainer = trainer_of(tmp_path, "rewarded", gradient_accumulation_steps=2)
    with pytest.raises(InputError, match="gives its model input_ids of a batch that it did not generate"):
        estimator.step(trainer)


def test_a_trainer_on_a_gpu(tmp_path: Path) -> None:
    """Derived, not measured: that the allocator is replayed."""
    answer = estimator.step(made(tmp_path, True, {}), device="rtx-4090")
    assert answer.bytes["process"] > answer.bytes["peak"]
    assert answer.fits


@pytest.mark.parametrize(
    ("kind", "config", "row", "says"),
    [
        (
            "AutoModelForSequenceClassification",
            {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1},
            {"input_ids": [5] * 9, "labels": 1},
            "asks BertForSequenceClassification for its loss",
        ),
        (
            "AutoModelForImageClassification",
            {"model_type": "vit", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1},
            {"pixel_values": [0.0], "labels": 1},
            "ViTForImageClassification is no decoder or encoder of text",
        ),
    ],
)
def test_models_that_a_trainer_may_not_have(
    kind: str, config: dict[str, Any], row: dict[str, Any], says: str, tmp_path: Path
) -> None:
    import transformers

    model = getattr(transformers, kind).from_config(transformers.AutoConfig.for_model(**config))
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(InputError, match=says):
        estimator.step(transformers.Trainer(model=model, args=arguments, train_dataset=[row] * 40))
