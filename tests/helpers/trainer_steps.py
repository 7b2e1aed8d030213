"""A plan's estimate held against the own step of a real trainer: transformers' ``Trainer``, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
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


class TrainerStep(Step):
    """An update of ``Trainer._run_epoch``, whose batch is made within it."""

    def __init__(self, resolved: Resolved, trainer: Trainer) -> None:
        model, _ = trainer._prepare_for_training(10, None, None)
        super().__init__(resolved.plan, resolved.spec.config.vocab_size, model, trainer.optimizer)
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
        """A batch without padding, as ``DataCollatorForLanguageModeling`` makes it."""
        ids = torch.randint(0, self.vocab, (self.plan.batch, self.plan.seq))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


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


def assert_trainer_step(make: MakeTrainer, config: dict[str, Any], plan: dict[str, Any], folder: Path) -> None:
    """Witness: the trainer's own step on PyTorch's CPU allocator. Saved bytes and the peak within ``TOLERANCE``.

    Trainers divide the loss once more, by numbers that are saved.
    """
    __tracebackhide__ = True
    parsed = parse_plan({"model": write_config(folder / "model", config), **plan})

    def make_step(resolved: Resolved, model: Any) -> Step:
        return TrainerStep(resolved, make(parsed, model, folder))

    measured = run_step(resolve(parsed), make_step=make_step)
    peak = measured["peak_without_matmul_scratch"]
    witness = {**{name: measured[name] for name in EXACT}, "peak_above_resident": peak}
    assert_figures(estimate(parsed).bytes, witness, {"saved": TOLERANCE, "peak_above_resident": TOLERANCE})
