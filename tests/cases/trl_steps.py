"""Steps of TRL's ``SFTTrainer`` on the CPU, measured as ``tests/helpers/trainer_steps.py`` measures a trainer.

``python -m tests.cases.trl_steps`` writes the installed release's part of ``tests/data/trl_steps.json`` anew, where TRL
is installed; ``make witness`` does so for two releases. The ``label_share`` of a case is what its loss is on.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.kinds import Case
from tests.cases.sharding import LAYERS, sharded
from tests.cases.small_models import METHODS
from tests.cases.trainer_loops import HF_TRAINER, IN_FLOAT32, NOISE
from tests.helpers.files import DATA, write_record

RECORD = DATA / "trl_steps.json"
LOSSES = {"1.14": "chunked-nll", "1.16": "fused-lm-head"}
"""The loss of each release that is recorded."""
BF16, LORA, DROPOUT = "bfloat16", METHODS["lora"], METHODS["lora-all-dropout"]
SAVED = {**LORA, "modules_to_save": ["lm_head"]}
TRL_SFT: dict[str, Any] = {**HF_TRAINER, "dtype": "float32", **IN_FLOAT32, "checkpointing": "layer"}
"""``SFTTrainer`` with its defaults, in a plan's words; beside them the loss."""
UNMIXED: dict[str, Any] = {**HF_TRAINER, "checkpointing": "none"}
CASES: list[Case] = [
    ("defaults", {}, TRL_SFT),
    ("defaults-lora", {"model_type": "qwen2"}, {**TRL_SFT, "method": DROPOUT}),
    ("defaults-tied", {"tie_word_embeddings": True}, {**TRL_SFT, "batch": 2, "seq": 300}),
    ("defaults-recorded", {"model_type": "olmo2"}, {**TRL_SFT, "batch": 2, "seq": 150}),
    ("float32", {}, {**UNMIXED, "dtype": "float32"}),
    ("bfloat16", {"model_type": "qwen3"}, {**UNMIXED, "dtype": BF16}),
    ("bfloat16-lora-16", {"model_type": "mistral"}, {**UNMIXED, "dtype": BF16, "method": LORA}),
    ("head-bias", {"model_type": "phi"}, {**TRL_SFT, "checkpointing": "none"}),
    ("one-sequence", {"vocab_size": 311}, {**UNMIXED, "dtype": BF16, "batch": 1, "seq": 300}),
    ("many-chunks", {"vocab_size": 97}, {**TRL_SFT, "batch": 5, "seq": 401}),
    ("many-chunks-lora", {"vocab_size": 97}, {**UNMIXED, "dtype": "float32", "method": LORA, "batch": 5, "seq": 401}),
    ("completions", {}, {**UNMIXED, "dtype": "float32", "batch": 3, "seq": 401, "label_share": 0.3}),
    ("completions-lora", {}, {**TRL_SFT, "method": LORA, "batch": 3, "seq": 401, "label_share": 0.01}),
    ("wide", {"vocab_size": 70000, "num_hidden_layers": 1}, {**TRL_SFT, "batch": 2, "seq": 9}),
    ("wide-lora", {"vocab_size": 70000}, {**UNMIXED, "dtype": BF16, "method": LORA, "batch": 2, "seq": 9}),
    ("long", {"vocab_size": 53, "max_position_embeddings": 9000}, {**TRL_SFT, "batch": 1, "seq": 4500}),
    ("soft-cap", {"model_type": "gemma2", "vocab_size": 911}, {**TRL_SFT, "attention": "eager", "method": LORA}),
    ("scaled", {"model_type": "granite", "logits_scaling": 3.0}, {**TRL_SFT, "checkpointing": "none"}),
    ("packed", {"vocab_size": 19}, {**TRL_SFT, "packing": True, "return_seq_idx": True, "method": LORA}),
    ("noise", {"vocab_size": 19}, {**TRL_SFT, **NOISE, "method": LORA}),
]
BY_ACCELERATE = {"groups": "accelerate", "param_dtype": BF16, "reduce_dtype": BF16}
TINY = {**LAYERS, "vocab_size": 3001}
"""With few tokens the gathered weights are larger than the tiles."""
ONE: dict[str, Any] = {**TRL_SFT, "batch": 1, "seq": 2}
SHARDED: list[Case] = [
    (f"fsdp2-{name}", config, sharded(plan, world, **options))
    for name, world, config, plan, options in (
        ("plain", 2, LAYERS, {**UNMIXED, "dtype": "float32"}, {"groups": "accelerate"}),
        ("mixed", 3, TINY, ONE, BY_ACCELERATE),
        ("mixed-many-ranks", 64, TINY, ONE, BY_ACCELERATE),
        ("mixed-tied", 64, {**LAYERS, "tie_word_embeddings": True}, TRL_SFT, BY_ACCELERATE),
        ("soft-cap", 2, {**TINY, "model_type": "gemma2"}, {**ONE, "attention": "eager"}, BY_ACCELERATE),
        ("layers-lora", 2, TINY, {**ONE, "method": LORA}, {**BY_ACCELERATE, "groups": "layers"}),
        ("lora", 2, TINY, {**ONE, "method": LORA}, BY_ACCELERATE),
        ("lora-float32", 3, LAYERS, {**UNMIXED, "dtype": "float32", "method": LORA}, {"groups": "accelerate"}),
        ("lora-many-ranks", 64, TINY, {**ONE, "method": LORA}, BY_ACCELERATE),
        ("lora-tied", 3, {**TINY, "tie_word_embeddings": True}, {**ONE, "method": LORA}, BY_ACCELERATE),
        ("lora-alone", 1, TINY, {**ONE, "method": LORA}, BY_ACCELERATE),
        ("lora-replicated", 6, TINY, {**ONE, "method": SAVED}, {**BY_ACCELERATE, "replicate": 2}),
        ("head-saved", 3, TINY, {**ONE, "method": SAVED}, BY_ACCELERATE),
        ("head-saved-alone", 1, TINY, {**ONE, "method": SAVED}, BY_ACCELERATE),
        ("head-bias", 3, {**TINY, "model_type": "phi"}, {**ONE, "checkpointing": "none"}, BY_ACCELERATE),
        ("head-bias-saved", 3, {**TINY, "model_type": "phi"}, {**ONE, "method": SAVED}, BY_ACCELERATE),
    )
]
"""FSDP2, in whose groups the head's module is, which is not called. With adapters it is alone in its group, and TRL
gathers its weight (``DTensor.full_tensor``)."""

IMAGES: list[Case] = [
    (f"images-{name}", WITH_IMAGES[name][0], {"trainer": "trl-sft", **WITH_IMAGES[name][1], **keys})
    for name, keys in (
        ("llava", {"batch": 2}),
        ("llava_next", {"batch": 1, "method": LORA}),
        ("gemma3", {"batch": 3, "method": LORA, "freeze": ["vision"], "dtype": BF16}),
        ("qwen2_vl", {"batch": 2, "images": 2, "seq": 240}),
        ("qwen2_5_vl", {"batch": 2, "checkpointing": "none", "autocast": None, "method": LORA}),
        ("qwen3_vl", {"batch": 1, "freeze": ["vision", "projector"]}),
        ("smolvlm", {"batch": 4, "checkpointing": "none"}),
        ("mistral3", {"batch": 2, "method": DROPOUT}),
    )
]
"""Models that look at images, whose text has the fused head."""


def cases(release: str) -> list[Case]:
    """What is measured of a release."""
    return CASES + (SHARDED + IMAGES if LOSSES[release] == "fused-lm-head" else [])


def main() -> None:
    """Measure the cases with the installed release."""
    from tests.helpers.trainer_steps import measured_step, trl_sft

    release = ".".join(version("trl").split(".")[:2])
    steps = {}
    for name, config, plan in cases(release):
        with tempfile.TemporaryDirectory() as folder:
            steps[name] = measured_step(trl_sft, config, {**plan, "loss": LOSSES[release]}, Path(folder))[1]
        print(name, steps[name], flush=True)
    write_record(RECORD, ("trl", "transformers", "accelerate", "peft", "torch"), release, steps=steps)


if __name__ == "__main__":
    main()
