"""A plan's estimate held against the own step of a real trainer: transformers' ``Trainer``, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from estimator.answers.estimate import estimate
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import Resolved, resolve
from estimator.witnesses.measure import Step, run_step
from tests.cases.small_models import write_config
from tests.helpers.figures import assert_figures
from tests.helpers.measured_steps import EXACT, TOLERANCE

MakeTrainer = Callable[[Plan, Any, Path], Trainer]
"""Makes a trainer of a plan's model, which may write into a folder."""


class _Prepared(Exception):
    pass


def prepared(trainer: Trainer) -> Any:
    """The model as ``Trainer.train`` prepares it, up to the first epoch."""
    found: list[Any] = []

    def run_epoch(model: Any, **_: Any) -> None:
        found.append(model)
        raise _Prepared

    trainer._run_epoch = run_epoch
    with suppress(_Prepared):
        trainer.train()
    return found[0]


class TrainerStep(Step):
    """An update of ``Trainer._run_epoch``, whose batch is made within it."""

    def __init__(self, resolved: Resolved, trainer: Trainer) -> None:
        model = prepared(trainer)
        super().__init__(resolved, resolved.spec.config.vocab_size, model, trainer.optimizer)
        self.trainer = trainer
        trainer.current_gradient_accumulation_steps = 1

    def run(self, keep_gradients: bool = False) -> None:
        trainer, args = self.trainer, self.trainer.args
        batches, count = trainer.get_batch_samples(iter([self._batch()]), 1, args.device)
        for inputs in batches:
            with self._hooks():
                trainer.training_step(self.model, inputs, count)
        trainer._get_grad_norm(self.model, trainer._clip_grad_norm(self.model))
        self.optimizer.step()
        if not keep_gradients:
            self.model.zero_grad()

    def _batch(self) -> dict[str, Any]:
        """A batch without padding, as a data collator makes it."""
        if self.plan.packing:
            return self._packed()
        if self.step.head != "causal-lm":
            return super()._batch()
        ids = torch.randint(0, self.vocab, (self.plan.batch, self.plan.seq))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": self._labels(ids)}


def arguments(plan: Plan, folder: Path) -> dict[str, Any]:
    """The ``TrainingArguments`` that say what a plan says. What it does not say has the class's default."""
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "bf16": plan.autocast == "bfloat16",
        "gradient_checkpointing": plan.checkpointing == "layer",
        "neftune_noise_alpha": plan.neftune_noise_alpha,
    }


def hf_trainer(plan: Plan, model: Any, folder: Path) -> Trainer:
    """transformers' ``Trainer``."""
    args = TrainingArguments(**arguments(plan, folder))
    return Trainer(model=model, args=args, train_dataset=[{"input_ids": [0]}])


def bare(plan: Plan) -> Plan:
    """The plan without what the trainer does to the model."""
    return plan.model_copy(update={"checkpointing": "none", "loss": "standard", "neftune_noise_alpha": None})


def measured_step(
    make: MakeTrainer, config: dict[str, Any], plan: dict[str, Any], folder: Path
) -> tuple[Plan, dict[str, int]]:
    """The trainer's own step on PyTorch's CPU allocator: the plan of it, and what it took, in bytes."""
    parsed = parse_plan({"model": write_config(folder / "model", config), **plan})
    found = run_step(
        resolve(bare(parsed)), make_step=lambda resolved, model: TrainerStep(resolved, make(parsed, model, folder))
    )
    peak = found["peak_without_matmul_scratch"]
    return parsed, {**{name: found[name] for name in EXACT}, "peak_above_resident": peak}


def assert_trainer_step(make: MakeTrainer, config: dict[str, Any], plan: dict[str, Any], folder: Path) -> None:
    """Witness: the trainer's own step."""
    __tracebackhide__ = True
    assert_step_of(*measured_step(make, config, plan, folder))


def assert_step_of(plan: Plan, measured: dict[str, int]) -> None:
    """The estimate is what was measured: saved bytes and the peak within ``TOLERANCE``, all else equal.

    Trainers divide the loss once more, by numbers that are saved.
    """
    __tracebackhide__ = True
    assert_figures(estimate(plan).bytes, measured, {"saved": TOLERANCE, "peak_above_resident": TOLERANCE})


def trl_sft(plan: Plan, model: Any, folder: Path) -> Trainer:
    """TRL's ``SFTTrainer``."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    tokenizer = Tokenizer(WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    return SFTTrainer(
        model=model,
        args=SFTConfig(**arguments(plan, folder)),
        train_dataset=Dataset.from_dict({"input_ids": [[0, 1]]}),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<unk>"
        ),
    )
