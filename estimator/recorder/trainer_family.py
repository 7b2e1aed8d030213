"""A trainer's step for all sizes, fitted from recordings at a few. Needs PyTorch and the trainer's library."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from ..programs.libraries import quiet
from ..programs.program import Program
from ..programs.releases import installed_release
from ..programs.trainer_calls import TEACHER, Key
from ..programs.trainer_programs import DIMS
from ..steps.trainers import DIVERGENCES, TRAINERS
from .fit import Recording, fit
from .hugging_face import first_line, told
from .trainer_step import record_trainer_step

_SIZES = (
    {"B": 4, "S": 23, "prompt_seq": 9, "vocab_size": 307, "hidden_size": 64, "num_generations": 2, "batches": 3,
     "teacher_hidden_size": 80, "anchor_seq": 11},
    {"B": 6, "S": 31, "prompt_seq": 17, "vocab_size": 419, "hidden_size": 48, "num_generations": 2, "batches": 4,
     "teacher_hidden_size": 112, "anchor_seq": 37},
    {"B": 8, "S": 19, "prompt_seq": 7, "vocab_size": 353, "hidden_size": 96, "num_generations": 4, "batches": 3,
     "teacher_hidden_size": 64, "anchor_seq": 5},
    {"B": 10, "S": 47, "prompt_seq": 12, "vocab_size": 263, "hidden_size": 80, "num_generations": 5, "batches": 5,
     "teacher_hidden_size": 128, "anchor_seq": 29},
)  # fmt: skip
"""Where steps are recorded: three rows and batches and more, which tell a loop over them from a single call."""


def arguments_of(trainer: str, key: Key) -> dict[str, Any]:
    """The arguments of a trainer's config that a key stands for."""
    made: dict[str, Any] = {"bf16": key.autocast, "gradient_checkpointing": True}
    if TRAINERS[trainer].embeds:
        named = {"loss_type": key.loss_type, "pooling_mode": key.pooling, "normalize": key.normalize}
        return {**made, **named, "negatives": key.negatives}
    if TRAINERS[trainer].has_teacher:
        made["beta"] = DIVERGENCES[key.loss_type]
        if not TRAINERS[trainer].num_generations:
            made["lmbda"], made["seq_kd"] = float(key.generates == "model"), key.generates == TEACHER
    elif key.loss_type:
        several = key.loss_type.split("+")
        made["loss_type"] = several if len(several) > 1 else key.loss_type
    if key.reference == "precomputed":
        made["precompute_ref_log_probs"] = True
    if key.loss_type == "exo_pair":
        made["label_smoothing"] = 1e-3
    if TRAINERS[trainer].scores:
        made["beta"] = 0.0 if key.reference == "none" else 0.1
        made["num_iterations"] = 1 + key.old
        made["use_vllm"] = key.vllm
    return made


def builder_of(trainer: str) -> Callable[..., Any]:
    """What makes a trainer: TRL's ``trainer_of``, or that of sentence-transformers."""
    from . import sentence_transformers, trl

    return sentence_transformers.trainer_of if TRAINERS[trainer].embeds else trl.trainer_of


def record_family(trainer: str, key: Key, build: Callable[..., Any] | None = None) -> Program:
    """The program of a key's step. Raises ``InputError`` where the trainer refuses it, or no expression fits.

    ``build`` makes the trainer, by default ``builder_of``.
    """
    build = build or builder_of(trainer)
    dtypes = ("float32", "bfloat16") if key.wide is None else ("float32",) if key.wide else ("bfloat16",)
    what = "sentence-transformers" if TRAINERS[trainer].embeds else "TRL"
    runs = f"{what} {installed_release(what.lower())}"
    refused = told(lambda error: f"{runs} does not run trainer: {trainer} so ({first_line(error)})")
    with refused, quiet(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return fit(
            [_recorded(build, trainer, key, sizes, dtype) for sizes, dtype in zip(_SIZES, dtypes * 4, strict=False)]
        )


def _recorded(build: Callable[..., Any], trainer: str, key: Key, sizes: Mapping[str, int], dtype: str) -> Recording:
    config = {
        "model_type": "llama",
        "vocab_size": sizes["vocab_size"],
        "hidden_size": sizes["hidden_size"],
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    more = arguments_of(trainer, key)
    own = TRAINERS[trainer]
    first = "anchor_seq" if own.embeds else "prompt_seq"
    values = {name: sizes[name] for name in ("B", "S", first, "vocab_size", "hidden_size")}
    if own.embeds:
        config |= {"model_type": "bert"}
        drawn = random.Random(sizes["hidden_size"]).sample(range(2, sizes["hidden_size"]), key.dims)
        more["matryoshka_dims"] = dims = tuple(sorted(drawn, reverse=True))
        values |= dict(zip(DIMS, dims, strict=False))
    if own.has_teacher:
        values["teacher_hidden_size"] = sizes["teacher_hidden_size"]
        taught = {**config, "hidden_size": sizes["teacher_hidden_size"]}
        more["teacher"] = {"config": taught, "dtype": dtype}
    if own.scores:
        values["num_generations"] = more["num_generations"] = sizes["num_generations"]
    if own.num_generations:
        batches = sizes["batches"] + key.rewards  # by whose number loops over them are told from those over models
        more["gradient_accumulation_steps"] = values["batches"] = batches
        values["completions"] = batches * sizes["B"]
        values["prompts"] = values["completions"] // values.get("num_generations", 1)
    if trainer.endswith("-kto"):
        values["desirable"] = sizes["B"] // 2
    with tempfile.TemporaryDirectory() as folder, nullcontext() if own.embeds else _compact(key.compact):
        program = record_trainer_step(
            build(
                trainer,
                config,
                Path(folder),
                sizes["B"],
                sizes["S"],
                sizes[first],
                dtype,
                _adapter() if key.reference == "adapter-off" else None,
                **({"reward_models": [{"config": config, "dtype": dtype}] * key.rewards} if key.rewards else {}),
                max_steps=3,
                **more,
            ),
            values.get("batches", 1),
        )
    return values, replace(program, dtype=dtype)


def _adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, target_modules=["q_proj"])


def _compact(compact: bool) -> Any:
    """Within it, TRL's fused head takes the tokens with a label alone, as where it has Triton."""
    import trl.trainer.utils as utils

    has_fused_head = hasattr(utils, "_use_triton")  # since release 1.15
    return mock.patch.object(utils, "_use_triton", return_value=compact) if has_fused_head else nullcontext()
