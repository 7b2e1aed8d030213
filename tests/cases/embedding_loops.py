"""Steps of sentence-transformers' trainer in its own loop on the CPU, from ``on_step_begin`` to ``on_step_end``.

``python -m tests.cases.embedding_loops`` writes ``tests/data/embedding_loops.json`` anew, where the library is
installed; ``make witness`` does so.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cases.trl_loops import Case, held, profiled, states_of
from tests.helpers.files import DATA

RECORD = DATA / "embedding_loops.json"
SIZES: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": 140, "pad_token_id": 0}
BERT: dict[str, Any] = {
    "model_type": "bert", "num_attention_heads": 4, "max_position_embeddings": 140, "pad_token_id": 0,
    "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 190, "vocab_size": 307,
}  # fmt: skip
RANKING = "MultipleNegativesRankingLoss"
LORA = {"name": "lora", "r": 4, "lora_dropout": 0.1, "target_modules": ["query", "value"]}
CASES: list[Case] = [
    ("ranking-full", BERT, {"loss_type": RANKING, "batch": 5, "seq": 43}),
    ("ranking-lora", BERT,
     {"loss_type": RANKING, "batch": 2, "seq": 31, "anchor_seq": 10, "pooling_mode": "cls", "method": LORA}),
    ("ranking-autocast", BERT,
     {"loss_type": RANKING, "batch": 7, "seq": 43, "normalize": True, "autocast": "bfloat16"}),
    ("ranking-16", BERT,
     {"loss_type": RANKING, "batch": 3, "seq": 31, "anchor_seq": 10, "pooling_mode": "cls", "normalize": True,
      "dtype": "bfloat16", "method": {**LORA, "adapter_dtype": "bfloat16"}}),
    ("cosent-full", BERT,
     {"loss_type": "CoSENTLoss", "batch": 2, "seq": 60, "pooling_mode": "cls", "normalize": True}),
]  # fmt: skip
"""transformers casts no adapter that it adds itself, as PEFT's ``get_peft_model`` does."""


_SCORED = ("CoSENTLoss", "AnglELoss", "CosineSimilarityLoss")
_LABELLED = ("ContrastiveLoss", "OnlineContrastiveLoss")
"""Losses whose rows have a number or a class beside their texts."""


def trainer_of(
    config: Mapping[str, Any],
    folder: Path,
    batch: int,
    seq: int,
    anchor_seq: int,
    dtype: str = "float32",
    peft_config: Any = None,
    *,
    loss_type: str = "CoSENTLoss",
    negatives: int = 0,
    token_types: bool = True,
    pooling_mode: str = "mean",
    normalize: bool = False,
    loss_keys: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A ``SentenceTransformerTrainer`` of a model of a ``config.json`` with random weights; see ``recorder/trl.py``.

    A row's first text has ``anchor_seq`` tokens, the second and so many ``negatives`` have ``seq`` each. ``loss_keys``
    are those of the loss.
    """
    import sentence_transformers as library
    import torch
    from datasets import Dataset
    from sentence_transformers import losses, models
    from transformers import AutoConfig, AutoModel

    from estimator.recorder.trl import tokenizer_of

    read = AutoConfig.for_model(**{key: value for key, value in config.items() if key != "transformers_version"})
    AutoModel.from_config(read, dtype=getattr(torch, dtype)).save_pretrained(folder / "model")
    names = ["input_ids", *["token_type_ids"] * token_types, "attention_mask"]
    tokenizer_of(read.vocab_size, padding_side="right", model_input_names=names).save_pretrained(folder / "model")
    encoder = models.Transformer(str(folder / "model"), model_kwargs={"dtype": dtype})
    pooling = models.Pooling(encoder.get_embedding_dimension(), pooling_mode)
    parts = [encoder, pooling, *([models.Normalize()] if normalize else [])]
    model = library.SentenceTransformer(modules=parts, device="cpu")
    if peft_config is not None:
        model.add_adapter(peft_config)
    rows = _rows(loss_type, batch * 8, (anchor_seq, seq, *[seq] * negatives), min(read.vocab_size - 3, 50))
    given = {
        "output_dir": str(folder / "output"),
        "use_cpu": True,
        "report_to": [],
        "per_device_train_batch_size": batch,
        "max_steps": 2,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        **arguments,
    }
    return library.SentenceTransformerTrainer(
        model=model,
        args=library.SentenceTransformerTrainingArguments(**given),
        train_dataset=Dataset.from_dict(rows),
        loss=getattr(losses, loss_type)(model, **(loss_keys or {})),
    )


def _rows(loss_type: str, count: int, lengths: tuple[int, ...], words: int) -> dict[str, list[Any]]:
    """Texts of so many words in each row, and what a loss has beside them."""
    rows: dict[str, list[Any]] = {
        f"text_{k}": [" ".join(f"w{3 + (i * 7 + k + j) % words}" for j in range(length)) for i in range(count)]
        for k, length in enumerate(lengths)
    }
    if loss_type in _SCORED:
        rows["score"] = [i % 5 / 5 for i in range(count)]
    elif loss_type in _LABELLED:
        rows["label"] = [i % 2 for i in range(count)]
    return rows


def made(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> Any:
    """The trainer of a case."""
    import transformers.integrations.peft as of_peft
    from peft import LoraConfig

    method = dict(plan.get("method", {}))
    adapter = {key: value for key, value in method.items() if key not in ("name", "adapter_dtype")}
    named = ("loss_type", "pooling_mode", "normalize")
    # transformers 5.24 asks for PEFT 0.22 here, which is not released.
    with mock.patch.object(of_peft, "check_peft_version", return_value=None):
        return trainer_of(
            config,
            folder,
            plan["batch"],
            plan["seq"],
            plan.get("anchor_seq", plan["seq"]),
            plan.get("dtype", "float32"),
            LoraConfig(**adapter) if adapter else None,
            bf16="autocast" in plan,
            **{key: plan[key] for key in named if key in plan},
        )


def measured(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """The parameters, the optimizer's states and the peak above what there was, in bytes."""
    import torch

    from estimator.operators import THREADS
    from estimator.witnesses.measure import peak_of, without_matmul_scratch

    torch.set_num_threads(THREADS)
    trainer = made(config, plan, folder)
    events = profiled(trainer, 2)
    return {
        "parameters": held(trainer.model),
        "optimizer": states_of(trainer),
        "peak_above_resident": peak_of(without_matmul_scratch(events))[0],
    }


def main() -> None:
    """Measure all cases."""
    found: dict[str, Any] = {}
    for name, config, plan in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(config, plan, Path(folder))
        print(name, found[name], flush=True)
    packages = ("sentence-transformers", "transformers", "accelerate", "peft", "torch")
    record = {
        "date": datetime.date.today().isoformat(),
        "versions": {package: version(package) for package in packages},
        "steps": dict(sorted(found.items())),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    main()
