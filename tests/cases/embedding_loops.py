"""Steps of sentence-transformers' trainer in its own loop on the CPU, from ``on_step_begin`` to ``on_step_end``.

``python -m tests.cases.embedding_loops`` writes ``tests/data/embedding_loops.json`` anew, where the library is
installed; ``make witness`` does so.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estimator.programs.module_table import TELL_TEXTS_APART
from tests.cases.trl_loops import Case, as_one_of_several, held, profiled, states_of, wrap_as_one_of_several
from tests.helpers.files import DATA, write_record

RECORD = DATA / "embedding_loops.json"
BERT: dict[str, Any] = {
    "model_type": "bert", "num_attention_heads": 4, "max_position_embeddings": 140, "pad_token_id": 0,
    "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 190, "vocab_size": 307,
}  # fmt: skip
MPNET: dict[str, Any] = {**BERT, "model_type": "mpnet", "pad_token_id": 1}
XLM_ROBERTA: dict[str, Any] = {**BERT, "model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1}
DISTILBERT: dict[str, Any] = {
    "model_type": "distilbert", "dim": 72, "n_heads": 3, "n_layers": 4, "hidden_dim": 130, "vocab_size": 211,
    "max_position_embeddings": 90,
}  # fmt: skip
"""Their tokenizers make no token types."""
RANKING = "MultipleNegativesRankingLoss"
LORA = {"name": "lora", "r": 4, "lora_dropout": 0.1, "target_modules": ["query", "value"]}
DDP: dict[str, Any] = {"sharding": {"name": "ddp", "world_size": 4, "find_unused_parameters": True}}
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
    ("ranking-negatives", MPNET,
     {"loss_type": RANKING, "batch": 3, "seq": 41, "anchor_seq": 12, "negatives": 3, "normalize": True}),
    ("ranking-matryoshka", DISTILBERT,
     {"loss_type": RANKING, "batch": 4, "seq": 30, "negatives": 1, "matryoshka_dims": (72, 40, 8)}),
    ("ranking-matryoshka, autocast", BERT,
     {"loss_type": RANKING, "batch": 6, "seq": 25, "anchor_seq": 11, "matryoshka_dims": (64, 32, 16, 8, 4),
      "normalize": True, "autocast": "bfloat16", "checkpointing": "layer"}),
    ("triplet-layer", XLM_ROBERTA, {"loss_type": "TripletLoss", "batch": 5, "seq": 37, "negatives": 1,
                                    "checkpointing": "layer"}),
    ("cosine-autocast", XLM_ROBERTA,
     {"loss_type": "CosineSimilarityLoss", "batch": 4, "seq": 51, "anchor_seq": 20, "autocast": "bfloat16"}),
    ("contrastive-16", MPNET,
     {"loss_type": "ContrastiveLoss", "batch": 6, "seq": 28, "pooling_mode": "cls", "dtype": "bfloat16"}),
    ("angle-full", BERT, {"loss_type": "AnglELoss", "batch": 7, "seq": 33}),
    ("ranking-unequal rows, autocast", BERT,
     {"loss_type": RANKING, "batch": 8, "seq": 45, "anchor_seq": 20, "negatives": 1, "attention_mask": True,
      "autocast": "bfloat16"}),
    ("ranking-full, ddp", BERT,
     {"loss_type": RANKING, "batch": 5, "seq": 43, "anchor_seq": 20, **DDP}),
    ("cosent-autocast, ddp", BERT,
     {"loss_type": "CoSENTLoss", "batch": 4, "seq": 33, "autocast": "bfloat16", "method": LORA,
      "sharding": {"name": "ddp", "world_size": 2, "find_unused_parameters": True}}),
    ("ranking-two types of tokens", {**XLM_ROBERTA, "model_type": "roberta", "type_vocab_size": 2},
     {"loss_type": RANKING, "batch": 3, "seq": 39}),
    ("ranking-unequal rows, lora", XLM_ROBERTA,
     {"loss_type": RANKING, "batch": 8, "seq": 39, "attention_mask": True, "method": LORA}),
]  # fmt: skip
"""A RoBERTa may have types of tokens, of which its tokenizer says nothing. transformers casts no adapter that it adds
itself, as PEFT's ``get_peft_model`` does."""


def made(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path, max_steps: int) -> Any:
    """The trainer of a case."""
    from peft import LoraConfig

    from estimator.recorder.sentence_transformers import trainer_of

    method = dict(plan.get("method", {}))
    adapter = {key: value for key, value in method.items() if key not in ("name", "adapter_dtype")}
    named = ("loss_type", "negatives", "pooling_mode", "normalize", "matryoshka_dims")
    return trainer_of(
        "sentence-transformers",
        config,
        folder,
        plan["batch"],
        plan["seq"],
        plan.get("anchor_seq", plan["seq"]),
        plan.get("dtype", "float32"),
        LoraConfig(**adapter) if adapter else None,
        token_types=config["model_type"] in TELL_TEXTS_APART,
        bf16="autocast" in plan,
        unequal=plan.get("attention_mask", False),
        gradient_checkpointing=plan.get("checkpointing") == "layer",
        max_steps=max_steps,
        **{key: plan[key] for key in named if key in plan},
    )


def measured(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """The parameters, the optimizer's states and the peak above what there was, in bytes."""
    import torch

    from estimator.operators import THREADS
    from estimator.witnesses.measure import peak_of, without_matmul_scratch

    torch.set_num_threads(THREADS)
    of_rank, second = as_one_of_several(config, {"trainer": "sentence-transformers", **plan}, folder)
    with of_rank[0]:
        trainer = made(config, plan, folder, second)
        wrap_as_one_of_several(trainer, of_rank[1])
        events = profiled(trainer, second)
    return {
        "parameters": held(trainer.model),
        "optimizer": states_of(trainer),
        "peak_above_resident": peak_of(without_matmul_scratch(events))[0],
    }


def main(only: list[str]) -> None:
    """Measure all cases, or those whose names begin with a word."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))["steps"] if only else {}
    for name, config, plan in CASES:
        if only and not any(name.startswith(word) for word in only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(config, plan, Path(folder))
        print(name, found[name], flush=True)
    write_record(RECORD, ("sentence-transformers", "transformers", "accelerate", "peft", "torch"), steps=found)


if __name__ == "__main__":
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    main(sys.argv[1:])
