"""LLaMA-Factory's trainers with a small model and rows of equal length, as a plan has them. Needs LLaMA-Factory."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from estimator.recorder import trainer_family
from estimator.recorder.trl import tokenizer_of


def builder_of(trainer: str) -> Callable[..., Any]:
    """What makes a trainer by its name in a plan: ``trainer_of``, or that of TRL or of sentence-transformers."""
    return trainer_of if trainer.startswith("llama-factory") else trainer_family.builder_of(trainer)


def trainer_of(
    name: str,
    config: Mapping[str, Any],
    folder: Path,
    batch: int,
    seq: int,
    prompt_seq: int,
    dtype: str = "float32",
    peft_config: Any = None,
    reference: Mapping[str, Any] | None = None,
    unequal: bool = False,
    **arguments: Any,
) -> Any:
    """A trainer of ``llama-factory-dpo`` or ``llama-factory-kto``; see ``trl.trainer_of``.

    LLaMA-Factory's own collator pads rows to a multiple of 8 tokens; here a row has ``seq``.
    """
    import torch
    from accelerate.state import AcceleratorState
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

    os.environ["DISABLE_VERSION_CHECK"] = "1"
    sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))  # which only its audio needs
    from llamafactory.data import collator, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments
    from llamafactory.model.model_utils.checkpointing import prepare_model_for_training

    AcceleratorState._reset_state(reset_partial_state=True)  # which holds the precision of a trainer before
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if arguments.get("bf16") else "no"
    stage = name.removeprefix("llama-factory-")
    given = {key: value for key, value in config.items() if key != "transformers_version"}

    def model_of(keys: Mapping[str, Any], its_dtype: str) -> Any:
        read = AutoConfig.for_model(**{**keys, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1})
        return AutoModelForCausalLM.from_config(read, dtype=getattr(torch, its_dtype))

    model = model_of(given, dtype)
    checkpoints = arguments.pop("gradient_checkpointing", False)
    model_arguments = ModelArguments(model_name_or_path="model", disable_gradient_checkpointing=not checkpoints)
    prepare_model_for_training(model, model_arguments)
    loss = arguments.pop("loss_type", "sigmoid")
    own = FinetuningArguments(
        stage=stage,
        finetuning_type="full" if peft_config is None else "lora",
        pref_loss="sigmoid" if stage == "kto" else loss,
        disable_shuffling=True,
    )
    other = None
    if reference is not None:
        other = model_of(reference["config"], reference["dtype"])
    elif peft_config is None and (stage == "kto" or own.use_ref_model):
        other = model_of(given, dtype)
    if peft_config is not None:
        model = get_peft_model(model, peft_config)
    if other is not None:
        other.requires_grad_(False).eval()
    tokenizer = tokenizer_of(given["vocab_size"])
    tokenizer.padding_side = "right"
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="empty"))
    module = importlib.import_module(f"llamafactory.train.{stage}.trainer")
    trainer_class = getattr(module, f"Custom{stage.upper()}Trainer")
    made: Any = collator.KTODataCollatorWithPadding if stage == "kto" else collator.PairwiseDataCollatorWithPadding
    return trainer_class(
        model=model,
        ref_model=other,
        args=TrainingArguments(
            output_dir=str(folder / "output"),
            use_cpu=True,
            report_to=[],
            per_device_train_batch_size=batch,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            **{"max_steps": 2, **arguments},
        ),
        finetuning_args=own,
        data_collator=made(template=template, model=model, tokenizer=tokenizer),
        train_dataset=Dataset.from_dict(
            _rows(stage, batch * 8, seq, prompt_seq, min(given["vocab_size"], 50), unequal)
        ),
        tokenizer=tokenizer,
        processor=None,
    )


def _rows(stage: str, count: int, seq: int, prompt: int, words: int, unequal: bool) -> dict[str, list[Any]]:
    """Rows of token ids, half of which are desirable; of ``unequal`` ones the first of four has all tokens."""

    def columns(prefix: str, start: int) -> dict[str, list[Any]]:
        lengths = [seq - (0, 3, 7, 11)[i % 4] if unequal else seq for i in range(count)]
        ids = [[3 + (i * 7 + j + start) % (words - 3) for j in range(n)] for i, n in enumerate(lengths)]
        return {
            f"{prefix}input_ids": ids,
            f"{prefix}attention_mask": [[1] * len(row) for row in ids],
            f"{prefix}labels": [[-100] * prompt + row[prompt:] for row in ids],
        }

    first, second = ("", "kl_") if stage == "kto" else ("chosen_", "rejected_")
    media = dict.fromkeys(("images", "videos", "audios"), [None] * count)
    tags = {"kto_tags": [i % 2 == 0 for i in range(count)]} if stage == "kto" else {}
    return {**columns(first, 0), **columns(second, 5), **media, **tags}
