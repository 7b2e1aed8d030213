"""The trainer of sentence-transformers with a small model and rows of equal length, as a plan has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ..errors import InputError
from .trl import tokenizer_of

_SCORED = ("CoSENTLoss", "AnglELoss", "CosineSimilarityLoss")
_LABELLED = ("ContrastiveLoss", "OnlineContrastiveLoss")
"""Losses whose rows have a number or a class beside their texts."""


def trainer_of(
    name: str,
    config: Mapping[str, Any],
    folder: Path,
    batch: int,
    seq: int,
    anchor_seq: int,
    dtype: str = "float32",
    peft_config: Any = None,
    *,
    loss_type: str = "MultipleNegativesRankingLoss",
    negatives: int = 0,
    pooling_mode: str = "mean",
    normalize: bool = False,
    matryoshka_dims: tuple[int, ...] = (),
    token_types: bool = True,
    unequal: bool = False,
    **arguments: Any,
) -> Any:
    """A ``SentenceTransformerTrainer`` of a model of a ``config.json`` with random weights; see ``trl.trainer_of``.

    A row's first text has ``anchor_seq`` tokens, the second and so many ``negatives`` have ``seq`` each. With
    ``matryoshka_dims`` ``MatryoshkaLoss`` is around the loss. ``token_types``: the tokenizer makes them. Of ``unequal``
    rows one in four has all of these. Raises ``InputError`` where the library is not installed, or has no such loss.
    """
    try:
        import sentence_transformers as library
        from sentence_transformers import losses, models
    except ImportError as error:
        raise InputError(f"trainer: {name} needs sentence-transformers: pip install it ({error})") from None
    import torch
    import transformers.integrations.peft as of_peft
    from datasets import Dataset
    from transformers import AutoConfig, AutoModel

    loss_class = getattr(losses, loss_type, None)
    if loss_class is None:
        raise InputError(f"loss_type: sentence-transformers {library.__version__} has no {loss_type}", "loss_type")
    read = AutoConfig.for_model(**{key: value for key, value in config.items() if key != "transformers_version"})
    AutoModel.from_config(read, dtype=getattr(torch, dtype)).save_pretrained(folder / "model")
    names = ["input_ids", *["token_type_ids"] * token_types, "attention_mask"]
    tokenizer_of(read.vocab_size, padding_side="right", model_input_names=names).save_pretrained(folder / "model")
    encoder = models.Transformer(str(folder / "model"), model_kwargs={"dtype": dtype})
    pooling = models.Pooling(encoder.get_embedding_dimension(), pooling_mode)
    parts = [encoder, pooling, *([models.Normalize()] if normalize else [])]
    model = library.SentenceTransformer(modules=parts, device="cpu")
    if peft_config is not None:
        # transformers 5.24 asks for PEFT 0.22 here, which is not released.
        with mock.patch.object(of_peft, "check_peft_version", return_value=None):
            model.add_adapter(peft_config)
    lengths, fewer = (anchor_seq, seq, *[seq] * negatives), (0, 3, 5, 8) if unequal else (0,)
    rows = _rows(loss_type, batch * 8, lengths, min(read.vocab_size - 3, 50), fewer)
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
    loss = loss_class(model)
    return library.SentenceTransformerTrainer(
        model=model,
        args=library.SentenceTransformerTrainingArguments(**given),
        train_dataset=Dataset.from_dict(rows),
        loss=losses.MatryoshkaLoss(model, loss, matryoshka_dims) if matryoshka_dims else loss,
    )


def _rows(
    loss_type: str, count: int, lengths: tuple[int, ...], words: int, fewer: Sequence[int]
) -> dict[str, list[Any]]:
    """Texts of so many words in each row, less what one row after the other lacks, and what a loss has beside them."""

    def text(column: int, row: int) -> str:
        length = lengths[column] - fewer[row % len(fewer)]
        return " ".join(f"w{3 + (row * 7 + column + j) % words}" for j in range(length))

    rows: dict[str, list[Any]] = {
        f"text_{column}": [text(column, row) for row in range(count)] for column in range(len(lengths))
    }
    if loss_type in _SCORED:
        rows["score"] = [i % 5 / 5 for i in range(count)]
    elif loss_type in _LABELLED:
        rows["label"] = [i % 2 for i in range(count)]
    return rows
