"""The evaluation loop of a real ``Trainer``, measured on PyTorch's CPU allocator."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any
from unittest.mock import patch

from estimator.moments.options import RunOptions
from estimator.plans.resolve import Resolved, resolve
from estimator.witnesses.measure import allocator_events, peak_of, without_matmul_scratch
from estimator.witnesses.reference.model import build_model, storage_bytes


def measured_evaluation(resolved: Resolved, options: RunOptions, folder: Path) -> int:
    """The largest bytes of ``Trainer.evaluate`` above what was there before, scratch of oneDNN's products left out."""
    import torch
    from transformers import Trainer, TrainingArguments

    plan, rows = resolved.plan, options.eval_samples or 0
    torch.set_num_threads(1)
    arguments = TrainingArguments(
        str(folder),
        per_device_eval_batch_size=options.per_device_eval_batch_size,
        eval_accumulation_steps=options.eval_accumulation_steps,
        prediction_loss_only=options.prediction_loss_only,
        batch_eval_metrics=options.batch_eval_metrics,
        eval_do_concat_batches=options.eval_do_concat_batches,
        bf16=plan.autocast == "bfloat16",
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        build_model(resolved),
        arguments,
        eval_dataset=[_row(resolved) for _ in range(rows)],
        compute_metrics=_no_metrics if options.compute_metrics else None,
        preprocess_logits_for_metrics=_argmax if options.preprocess_logits_for_metrics == "argmax" else None,
    )
    with patch("transformers.trainer_pt_utils.numpy_pad_and_concatenate", _concatenate):
        trainer.evaluate()
        events = allocator_events(trainer.evaluate)
    return peak_of(without_matmul_scratch(events))[0]


def measured_trl_evaluation(resolved: Resolved, options: dict[str, Any], folder: Path) -> int:
    """The largest bytes of ``SFTTrainer.evaluate``, as of ``measured_evaluation``."""
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from tests.helpers.trainer_steps import arguments, bare

    plan, rows = resolved.plan, [_row(resolved) for _ in range(options["eval_samples"])]
    torch.set_num_threads(1)
    data = Dataset.from_list([{name: row[name].tolist() for name in ("input_ids", "labels")} for row in rows])
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    trainer = SFTTrainer(
        model=build_model(resolve(bare(plan))),
        args=SFTConfig(
            **arguments(plan, folder),
            per_device_eval_batch_size=options["per_device_eval_batch_size"],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=data,
        eval_dataset=data,
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<unk>"
        ),
    )
    trainer.evaluate()
    return peak_of(without_matmul_scratch(allocator_events(trainer.evaluate)))[0]


def held_by_training(resolved: Resolved, folder: Path) -> int:
    """Bytes of batches that a real training loop holds where it begins to evaluate."""
    import torch
    from transformers import Trainer, TrainingArguments

    plan, seen = resolved.plan, list[int]()
    arguments = TrainingArguments(
        str(folder),
        max_steps=1,
        per_device_train_batch_size=plan.batch,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=True,
    )

    class Evaluates(Trainer):  # type: ignore[misc]
        def evaluate(self, *arguments: Any, **keys: Any) -> dict[str, float]:
            gc.collect()
            tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
            batches = [x for x in tensors if x.shape == (plan.batch, plan.seq) and x.dtype == torch.int64]
            seen.append(storage_bytes(batches))
            return {}

    rows = [_row(resolved) for _ in range(99)]
    Evaluates(build_model(resolved), arguments, train_dataset=rows, eval_dataset=rows[:2]).train()
    return seen[0]


def _row(resolved: Resolved) -> dict[str, Any]:
    import torch

    ids = torch.randint(0, resolved.spec.config.vocab_size, (resolved.plan.seq,))
    row = {"input_ids": ids, "labels": ids.clone()}
    if resolved.step.takes_mask:
        row["attention_mask"] = torch.ones_like(ids)
    if resolved.step.attention_mask:
        row["attention_mask"][-1] = 0
    return row


def _no_metrics(predictions: Any, compute_result: bool = True) -> dict[str, float]:
    return {}


def _argmax(logits: Any, labels: Any) -> Any:
    return logits.argmax(-1)


def _concatenate(array1: Any, array2: Any, padding_index: int = -100) -> Any:
    """``np.concatenate`` into memory of PyTorch's allocator, which reports what NumPy's does not."""
    import numpy as np
    import torch

    shape = (len(array1) + len(array2), *array1.shape[1:])
    joined = torch.empty(shape, dtype=torch.from_numpy(array1[:0]).dtype).numpy()
    return np.concatenate((array1, array2), out=joined)
