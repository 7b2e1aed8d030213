"""Steps of TRL's trainers in their own loops on the CPU, measured from ``on_step_begin`` to ``on_step_end``.

``python -m tests.cases.trl_loops`` writes ``tests/data/trl_loops.json`` anew, or that of an older release, where TRL is
installed; ``make witness`` does so.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.cases.kinds import Formulas
from tests.helpers.files import DATA, write_record

RECORD, RECORD_FACTORY = DATA / "trl_loops.json", DATA / "llama_factory_loops.json"
RECORDS_OLDER = {release: DATA / f"trl_loops_{release}.json" for release in ("1.9", "1.14")}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 150},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 260},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "intermediate_size": 190,
              "tie_word_embeddings": True},
    "mistral": {"num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 133, "sliding_window": None},
    "gpt_neox": {"num_attention_heads": 2, "intermediate_size": 144},
    "olmo2": {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 120},
}  # fmt: skip
LORA = {"name": "lora", "r": 5, "target_modules": "all-linear"}
ATTENTION = {"name": "lora", "r": 3, "lora_dropout": 0.1}
PLAIN: dict[str, Any] = {"autocast": None, "checkpointing": "none", "dtype": "float32"}
BF16: dict[str, Any] = {**PLAIN, "dtype": "bfloat16"}
LAYER: dict[str, Any] = {**PLAIN, "checkpointing": "layer"}
TRAINERS = ("trl-dpo", "trl-kto", "trl-reward", "trl-orpo", "trl-cpo", "trl-grpo", "trl-rloo")
Case = tuple[str, dict[str, Any], dict[str, Any]]
"""A name, keys of a config.json, and a plan without its model."""


def cases() -> list[Case]:
    """What is measured: every trainer, full and LoRA, in float32, in bfloat16, under autocast, with checkpoints."""
    found: list[Case] = []
    families = list(SIZES)
    for t, trainer in enumerate(TRAINERS):
        for k, (word, plan) in enumerate(
            (
                ("full", PLAIN),
                ("lora", {**PLAIN, "method": LORA}),
                ("full-16", BF16),
                ("lora-16-layer", {**BF16, "method": LORA, "checkpointing": "layer"}),
                ("full-layer", LAYER),
                ("defaults", {}),
                ("defaults-lora", {"method": ATTENTION}),
            )
        ):
            family = families[(t + k) % len(families)]
            config = {
                "model_type": family,
                "hidden_size": (64, 96, 48, 80)[(t + 2 * k) % 4],
                "vocab_size": (307, 1201, 211, 5003)[(2 * t + k) % 4],
                "num_hidden_layers": 2 + (t + k) % 3,
            }
            batch = (4, 2, 6, 8)[(t + k) % 4]
            seq = (24, 70, 33, 51)[(t + 3 * k) % 4]
            more: dict[str, Any] = {"num_generations": 2} if trainer in ("trl-grpo", "trl-rloo") else {}
            if k % 2:
                more["prompt_seq"] = seq // 3
            method = dict(plan.get("method", {}))
            if method.get("name") == "lora" and "target_modules" not in method:
                method["target_modules"] = ["query_key_value"] if family == "gpt_neox" else ["q_proj", "v_proj"]
            found.append(
                (
                    f"{trainer}-{word}",
                    {**SIZES[family], **config},
                    {
                        "trainer": trainer,
                        "batch": batch,
                        "seq": seq,
                        **plan,
                        **more,
                        **({"method": method} if method else {}),
                    },
                )
            )
    found += [REFERENCES_PEAK, LARGE_HEAD]
    return [*found, *NAMED, *ODD, *UNEQUAL, *ACCUMULATED, *REWARDS, *VLLM, *TAUGHT, *SHARDED]


SMALL = {**SIZES["llama"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 401}
REFERENCES_PEAK: Case = (
    "trl-dpo-peak in the reference",
    {"model_type": "gemma2", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
     "num_key_value_heads": 2, "head_dim": 20, "intermediate_size": 130, "vocab_size": 97},
    {"trainer": "trl-dpo", "batch": 1, "seq": 77, "prompt_seq": 32, "loss_type": "nca_pair"},
)  # fmt: skip
"""Autocast keeps the casts of a reference's weights, which nobody freezes."""
LARGE_HEAD: Case = (
    "trl-dpo-large head",
    {**SIZES["llama"], "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 131072},
    {**BF16, "trainer": "trl-dpo", "batch": 1, "seq": 12, "prompt_seq": 5},
)
"""The most bytes are there where the head's gradient is cast, beside the tile of logits."""
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3": {**SIZES["qwen3"], "model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 5, "vocab_size": 457},
    "gpt_neox": {**SIZES["gpt_neox"], "model_type": "gpt_neox", "hidden_size": 48, "num_hidden_layers": 2,
                 "vocab_size": 401},
}  # fmt: skip
NAMED: list[Case] = [
    ("trl-dpo-another model as reference", SMALL,
     {"trainer": "trl-dpo", "batch": 3, "seq": 41, "reference": {"config": OTHERS["qwen3"], "dtype": "bfloat16"}}),
    ("trl-dpo-another model as reference, lora", SMALL,
     {**PLAIN, "trainer": "trl-dpo", "batch": 2, "seq": 55, "prompt_seq": 17, "loss_type": "ipo", "method": LORA,
      "reference": {"config": OTHERS["qwen3"], "dtype": "float32"}}),
    ("trl-kto-another model as reference", SMALL,
     {**BF16, "trainer": "trl-kto", "batch": 4, "seq": 33, "reference": {"config": OTHERS["gpt_neox"],
      "dtype": "float32"}}),
    ("trl-dpo-another model as reference, precomputed", SMALL,
     {"trainer": "trl-dpo", "batch": 2, "seq": 41, "precompute_ref_log_probs": True,
      "reference": {"config": OTHERS["gpt_neox"], "dtype": "bfloat16"}}),
]  # fmt: skip
"""A reference of another family, size and dtype."""
ODD: list[Case] = [
    ("trl-kto-three rows", SMALL, {**PLAIN, "trainer": "trl-kto", "batch": 3, "seq": 41}),
    ("trl-kto-one row", SMALL, {"trainer": "trl-kto", "batch": 1, "seq": 41, "loss_type": "apo_zero_unpaired"}),
]
"""One row more or less of an odd batch is desirable than not."""
PADDED: dict[str, Any] = {"batch": 4, "seq": 61, "prompt_seq": 15, "attention_mask": True}
UNEQUAL: list[Case] = [
    ("trl-dpo-unequal rows", SMALL, {**PLAIN, **PADDED, "trainer": "trl-dpo"}),
    ("trl-dpo-unequal rows, lora", SMALL, {**PADDED, "trainer": "trl-dpo", "method": LORA}),
    ("trl-kto-unequal rows", SMALL, {**PLAIN, **PADDED, "trainer": "trl-kto"}),
    ("trl-reward-unequal rows", SMALL, {**PLAIN, **PADDED, "trainer": "trl-reward"}),
]
"""The collator pads both halves of all pairs to the longest row of the batch."""
ACCUMULATED: list[Case] = [
    ("trl-grpo-three batches", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 41, "num_generations": 3, "gradient_accumulation_steps": 3}),
    ("trl-grpo-five batches of two rows", SMALL,
     {**PLAIN, "trainer": "trl-grpo", "batch": 2, "seq": 150, "prompt_seq": 20, "num_generations": 2,
      "gradient_accumulation_steps": 5, "method": LORA}),
    ("trl-grpo-a generation for each batch", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 41, "num_generations": 2, "gradient_accumulation_steps": 2,
      "steps_per_generation": 1}),
    ("trl-grpo-three odd batches and a copy", SMALL,
     {"trainer": "trl-grpo", "batch": 3, "seq": 37, "num_generations": 3, "gradient_accumulation_steps": 3,
      "beta": 0.04, "loss_type": "bnpo"}),
    ("trl-rloo-two batches, adapter off", SMALL,
     {**PLAIN, "trainer": "trl-rloo", "batch": 4, "seq": 53, "prompt_seq": 11, "gradient_accumulation_steps": 2,
      "method": LORA}),
    ("trl-grpo-two iterations", SMALL,
     {**LAYER, "trainer": "trl-grpo", "batch": 4, "seq": 45, "prompt_seq": 30, "num_generations": 2, "beta": 0.1,
      "num_iterations": 2, "loss_type": "grpo"}),
    ("trl-grpo-half of a generation", SMALL,
     {"trainer": "trl-grpo", "batch": 2, "seq": 41, "num_generations": 4, "gradient_accumulation_steps": 2,
      "steps_per_generation": 4, "method": LORA}),
    ("trl-rloo-two iterations", SMALL,
     {**BF16, "trainer": "trl-rloo", "batch": 4, "seq": 41, "num_iterations": 2, "beta": 0.0}),
]  # fmt: skip
OF_REWARDS: dict[str, Any] = {**SIZES["qwen3"], "model_type": "qwen3", "hidden_size": 160, "num_hidden_layers": 6,
                              "vocab_size": 401}  # fmt: skip
NARROW_REWARD: dict[str, Any] = {**SIZES["qwen3"], "model_type": "qwen3", "hidden_size": 48, "intermediate_size": 90,
                                 "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16,
                                 "num_hidden_layers": 3, "vocab_size": 401, "tie_word_embeddings": False}  # fmt: skip
REWARDS: list[Case] = [
    ("trl-grpo-reward model, another loss of two iterations", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 140, "prompt_seq": 12, "num_generations": 2, "beta": 0.1,
      "loss_type": "bnpo", "num_iterations": 2, "reward_model": {"config": NARROW_REWARD, "dtype": "float32"}}),
    ("trl-grpo-reward model", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 61, "num_generations": 2,
      "reward_model": {"config": OF_REWARDS, "dtype": "float32"}}),
    ("trl-grpo-reward model, three batches", SMALL,
     {**LAYER, "trainer": "trl-grpo", "batch": 4, "seq": 44, "prompt_seq": 15, "num_generations": 2, "method": LORA,
      "gradient_accumulation_steps": 3, "beta": 0.04, "reward_model": {"config": OF_REWARDS, "dtype": "bfloat16"}}),
    ("trl-rloo-reward model", SMALL,
     {**BF16, "trainer": "trl-rloo", "batch": 6, "seq": 50,
      "reward_model": {"config": OF_REWARDS, "dtype": "bfloat16"}}),
    ("trl-grpo-two reward models", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 61, "num_generations": 2, "method": LORA,
      "reward_model": [{"config": OF_REWARDS, "dtype": "float32"}, {"config": OTHERS["qwen3"], "dtype": "bfloat16"}]}),
    ("trl-rloo-two reward models", SMALL,
     {**PLAIN, "trainer": "trl-rloo", "batch": 4, "seq": 52, "prompt_seq": 30,
      "reward_model": [
          {"config": OTHERS["gpt_neox"], "dtype": "bfloat16"}, {"config": OF_REWARDS, "dtype": "float32"}
      ]}),
    ("trl-grpo-reward model, half of a generation", SMALL,
     {**PLAIN, "trainer": "trl-grpo", "batch": 4, "seq": 57, "num_generations": 2, "steps_per_generation": 2,
      "reward_model": {"config": OF_REWARDS, "dtype": "float32"}}),
]  # fmt: skip
"""Models of other families and sizes score the completions."""
SERVED: dict[str, Any] = {"use_vllm": True, "vllm_mode": "server"}
VLLM: list[Case] = [
    ("trl-grpo-vllm", SMALL,
     {**PLAIN, **SERVED, "trainer": "trl-grpo", "batch": 4, "seq": 97, "num_generations": 2}),
    ("trl-grpo-vllm, three batches and a copy", SMALL,
     {**SERVED, "trainer": "trl-grpo", "batch": 4, "seq": 61, "prompt_seq": 20, "num_generations": 3, "beta": 0.04,
      "gradient_accumulation_steps": 3, "loss_type": "grpo"}),
    ("trl-rloo-vllm, lora", OTHERS["qwen3"],
     {**BF16, **SERVED, "trainer": "trl-rloo", "batch": 6, "seq": 53, "prompt_seq": 11, "method": LORA}),
]  # fmt: skip
"""Another engine generates, in place of which prompts get their completions at once. None of its bytes are counted."""


def _taught(model: str, dtype: str, vocab_size: int = 401) -> dict[str, Any]:
    return {"teacher": {"config": {**OTHERS[model], "vocab_size": vocab_size}, "dtype": dtype}}


TAUGHT: list[Case] = [
    ("trl-gkd-full", SMALL,
     {**PLAIN, "trainer": "trl-gkd", "batch": 3, "seq": 41, "lmbda": 0.0, **_taught("qwen3", "float32")}),
    ("trl-gkd-lora-16, reverse", SMALL,
     {**BF16, "trainer": "trl-gkd", "batch": 2, "seq": 55, "prompt_seq": 17, "method": LORA, "lmbda": 0.0, "beta": 1.0,
      **_taught("gpt_neox", "bfloat16")}),
    ("trl-gkd-defaults, forward", SMALL,
     {"trainer": "trl-gkd", "batch": 2, "seq": 55, "prompt_seq": 17, "lmbda": 0.0, "beta": 0.0,
      **_taught("qwen3", "bfloat16")}),
    ("trl-gkd-narrow teacher", SMALL,
     {**PLAIN, "trainer": "trl-gkd", "batch": 2, "seq": 55, "prompt_seq": 17, "lmbda": 0.0,
      **_taught("qwen3", "bfloat16")}),
    ("trl-gkd-wide teacher, reverse, lora", SMALL,
     {**BF16, "trainer": "trl-gkd", "batch": 2, "seq": 55, "method": LORA, "lmbda": 0.0, "beta": 1.0,
      **_taught("qwen3", "float32")}),
    ("trl-gkd-the model generates", SMALL,
     {**PLAIN, "trainer": "trl-gkd", "batch": 3, "seq": 41, "lmbda": 1.0, **_taught("qwen3", "float32")}),
    ("trl-gkd-the model generates without a cache", SMALL,
     {"trainer": "trl-gkd", "batch": 2, "seq": 61, "lmbda": 1.0, "method": LORA, **_taught("qwen3", "float32")}),
    ("trl-gkd-the teacher generates", SMALL,
     {**PLAIN, "trainer": "trl-gkd", "batch": 2, "seq": 61, "lmbda": 0.0, "seq_kd": True,
      **_taught("qwen3", "float32")}),
    ("trl-distillation-full", SMALL,
     {**PLAIN, "trainer": "trl-distillation", "batch": 3, "seq": 41, **_taught("qwen3", "float32")}),
    ("trl-distillation-lora-16, mixture", SMALL,
     {**BF16, "trainer": "trl-distillation", "batch": 2, "seq": 55, "prompt_seq": 17, "method": LORA, "beta": 0.5,
      **_taught("gpt_neox", "bfloat16")}),
    ("trl-distillation-defaults, forward", SMALL,
     {"trainer": "trl-distillation", "batch": 2, "seq": 55, "prompt_seq": 17, "beta": 0.0,
      **_taught("qwen3", "bfloat16")}),
    ("trl-distillation-wide teacher, layer", SMALL,
     {**BF16, "trainer": "trl-distillation", "checkpointing": "layer", "batch": 2, "seq": 155, "prompt_seq": 117,
      "beta": 0.3, **_taught("qwen3", "float32")}),
    ("trl-distillation-three batches, lora", SMALL,
     {"trainer": "trl-distillation", "batch": 2, "seq": 61, "method": LORA, "gradient_accumulation_steps": 3,
      **_taught("qwen3", "float32")}),
    ("trl-distillation-soft cap", {**REFERENCES_PEAK[1], "vocab_size": 2111},
     {**PLAIN, "trainer": "trl-distillation", "batch": 3, "seq": 148, "prompt_seq": 12, "beta": 0.0,
      **_taught("qwen3", "float32", 2111)}),
]  # fmt: skip
"""A teacher of another family, size and dtype. ``lmbda`` between 0 and 1 is answered as 1."""
OLDER: list[Case] = [
    ("trl-dpo-lora", SMALL, {**PLAIN, "trainer": "trl-dpo", "batch": 4, "seq": 97, "method": LORA}),
    ("trl-dpo-defaults", SMALL, {"trainer": "trl-dpo", "batch": 3, "seq": 61, "prompt_seq": 20}),
    ("trl-dpo-16", SMALL,
     {**BF16, "trainer": "trl-dpo", "batch": 5, "seq": 140, "loss_type": "ipo",
      "precompute_ref_log_probs": True}),
    ("trl-kto-full", SMALL, {**LAYER, "trainer": "trl-kto", "batch": 6, "seq": 83}),
    ("trl-kto-defaults-lora", SMALL,
     {"trainer": "trl-kto", "batch": 4, "seq": 130, "method": LORA}),
    ("trl-reward-defaults", SMALL, {"trainer": "trl-reward", "batch": 4, "seq": 41}),
    ("trl-orpo-lora", SMALL, {**PLAIN, "trainer": "trl-orpo", "batch": 3, "seq": 52, "method": LORA}),
    ("trl-cpo-16", SMALL, {**BF16, "trainer": "trl-cpo", "batch": 4, "seq": 41, "loss_type": "simpo"}),
]  # fmt: skip
"""Under older releases, which make whole logits, and the entropy of 128 tokens at a time."""
GENERATING: list[Case] = [
    ("trl-grpo-full", SMALL,
     {**PLAIN, "trainer": "trl-grpo", "batch": 4, "seq": 97, "num_generations": 2}),
    ("trl-grpo-lora-16-layer", SMALL,
     {**BF16, "trainer": "trl-grpo", "batch": 6, "seq": 61, "prompt_seq": 20, "num_generations": 3,
      "method": LORA, "checkpointing": "layer"}),
    ("trl-grpo-defaults, a copy", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 60, "num_generations": 2, "beta": 0.04,
      "loss_type": "grpo"}),
    ("trl-grpo-defaults, adapter off", SMALL,
     {"trainer": "trl-grpo", "batch": 8, "seq": 44, "prompt_seq": 30, "num_generations": 4, "beta": 0.1,
      "method": {**ATTENTION, "target_modules": ["q_proj", "v_proj"]}}),
    ("trl-grpo-three batches", SMALL,
     {"trainer": "trl-grpo", "batch": 4, "seq": 41, "num_generations": 3,
      "gradient_accumulation_steps": 3}),
    ("trl-grpo-two iterations", SMALL,
     {**LAYER, "trainer": "trl-grpo", "batch": 4, "seq": 45, "prompt_seq": 30, "num_generations": 2,
      "beta": 0.1, "num_iterations": 2, "loss_type": "grpo"}),
    ("trl-rloo-full", SMALL, {**PLAIN, "trainer": "trl-rloo", "batch": 4, "seq": 53}),
    ("trl-rloo-lora-16-layer", SMALL,
     {**BF16, "trainer": "trl-rloo", "batch": 6, "seq": 150, "prompt_seq": 21, "method": LORA,
      "checkpointing": "layer"}),
    ("trl-rloo-defaults", SMALL, {"trainer": "trl-rloo", "batch": 4, "seq": 70, "prompt_seq": 21}),
    ("trl-rloo-two batches, lora", SMALL,
     {**PLAIN, "trainer": "trl-rloo", "batch": 4, "seq": 53, "prompt_seq": 11,
      "gradient_accumulation_steps": 2, "method": LORA}),
    ("trl-rloo-16, no penalty", OTHERS["gpt_neox"],
     {**BF16, "trainer": "trl-rloo", "batch": 4, "seq": 90, "prompt_seq": 31, "beta": 0.0}),
]  # fmt: skip
"""Under 1.14, which makes the logits of completions alone."""
OF_RELEASE: dict[str, list[Case]] = {"1.9": OLDER, "1.14": [*OLDER, *GENERATING]}


def _again(dtype: str) -> dict[str, Any]:
    return {"reference": {"config": SMALL, "dtype": dtype}}


WHOLE: dict[str, Any] = {"method": {"name": "full"}}
MIXED: dict[str, Any] = {"autocast": "bfloat16", "checkpointing": "layer", "dtype": "float32"}
NARROW: dict[str, Any] = {**MIXED, "dtype": "bfloat16", "method": LORA}
FACTORY: list[Case] = [
    ("dpo-lora", SMALL, {**NARROW, "trainer": "llama-factory-dpo", "batch": 3, "seq": 72, "prompt_seq": 20}),
    ("dpo-full, reference in bfloat16", SMALL,
     {**MIXED, **WHOLE, "trainer": "llama-factory-dpo", "batch": 4, "seq": 48, **_again("bfloat16")}),
    ("dpo-16, ipo", SMALL,
     {**BF16, "trainer": "llama-factory-dpo", "batch": 2, "seq": 80, "loss_type": "ipo", "method": LORA}),
    ("dpo-plain, two batches", SMALL,
     {**PLAIN, **WHOLE, "trainer": "llama-factory-dpo", "batch": 2, "seq": 64, **_again("float32"),
      "loss_type": "kto_pair", "gradient_accumulation_steps": 2}),
    ("dpo-orpo", SMALL, {**NARROW, "trainer": "llama-factory-dpo", "batch": 5, "seq": 40, "loss_type": "orpo"}),
    ("dpo-simpo", SMALL,
     {**LAYER, **WHOLE, "trainer": "llama-factory-dpo", "batch": 4, "seq": 56, "loss_type": "simpo"}),
    ("dpo-another reference", SMALL,
     {**NARROW, "trainer": "llama-factory-dpo", "batch": 2, "seq": 56,
      "reference": {"config": OTHERS["qwen3"], "dtype": "bfloat16"}}),
    ("kto-lora", SMALL, {**NARROW, "trainer": "llama-factory-kto", "batch": 4, "seq": 64}),
    ("kto-16", SMALL, {**BF16, "trainer": "llama-factory-kto", "batch": 4, "seq": 88, "method": LORA}),
    ("kto-full, reference in bfloat16", SMALL,
     {**LAYER, **WHOLE, "trainer": "llama-factory-kto", "batch": 6, "seq": 48, "prompt_seq": 10, **_again("bfloat16")}),
]  # fmt: skip
"""LLaMA-Factory's own loops, where it is installed. Of a full model the reference is in the checkpoint's dtype."""
FSDP2: dict[str, Any] = {"sharding": {"name": "fsdp2", "world_size": 4}}
DDP: dict[str, Any] = {"sharding": {"name": "ddp", "world_size": 4, "find_unused_parameters": False}}
SHARDED: list[Case] = [
    ("trl-dpo-adapter off, fsdp2", SMALL, {"trainer": "trl-dpo", "batch": 4, "seq": 41, "method": LORA, **FSDP2}),
    ("trl-dpo-precomputed, fsdp2 by layers", SMALL,
     {"trainer": "trl-dpo", "batch": 2, "seq": 41, "precompute_ref_log_probs": True,
      "sharding": {"name": "fsdp2", "world_size": 3, "groups": "layers"}}),
    ("trl-kto-adapter off, fsdp2", SMALL,
     {**PLAIN, "trainer": "trl-kto", "batch": 4, "seq": 41, "method": LORA, **FSDP2}),
    ("trl-orpo-full, fsdp2", SMALL, {"trainer": "trl-orpo", "batch": 3, "seq": 41, **FSDP2}),
    ("trl-reward-full, fsdp2", SMALL, {"trainer": "trl-reward", "batch": 4, "seq": 41, **FSDP2}),
    ("trl-reward-lora, fsdp2", SMALL, {"trainer": "trl-reward", "batch": 4, "seq": 41, "method": LORA, **FSDP2}),
    ("trl-dpo-copy, ddp", SMALL, {"trainer": "trl-dpo", "batch": 4, "seq": 41, **DDP}),
    ("trl-dpo-adapter off, ddp", SMALL,
     {**PLAIN, "trainer": "trl-dpo", "batch": 4, "seq": 41, "method": LORA,
      "sharding": {"name": "ddp", "world_size": 2, "find_unused_parameters": True}}),
    ("trl-grpo-full, ddp", SMALL,
     {**PLAIN, "trainer": "trl-grpo", "batch": 4, "seq": 41, "num_generations": 2, **DDP}),
    ("trl-orpo-lora, ddp", SMALL, {**PLAIN, "trainer": "trl-orpo", "batch": 4, "seq": 41, "method": LORA, **DDP}),
]  # fmt: skip
"""A rank of several, under PyTorch's fake process group, whose collectives move nothing."""
FORMULAS = [
    Formulas("dpo", SMALL, {"trainer": "trl-dpo", "batch": 4, "seq": 41, "method": LORA}, [(4, 41), (3, 900)]),
    Formulas("kto", SMALL, {**BF16, "trainer": "trl-kto", "batch": 4, "seq": 40, "prompt_seq": 9}, [(4, 40), (6, 701)]),
    Formulas("reward", SMALL, {"trainer": "trl-reward", "batch": 2, "seq": 33}, [(2, 33), (5, 64)]),
    Formulas("a pair", SMALL, {**PLAIN, "trainer": "trl-dpo", "loss_type": "ipo", "batch": 1, "seq": 41}, [(1, 70)]),
]
"""With fewer tokens than a tile of the fused head has, and with more."""
LIVE: list[Case] = [
    (
        "trl-grpo-three reward models",
        SMALL,
        {
            **PLAIN,
            "trainer": "trl-grpo",
            "batch": 4,
            "seq": 40,
            "prompt_seq": 12,
            "num_generations": 2,
            "reward_model": [{"config": NARROW_REWARD, "dtype": "float32"}] * 3,
        },
    ),
    (
        "trl-grpo-cispo",
        SMALL,
        {"trainer": "trl-grpo", "batch": 6, "seq": 41, "num_generations": 2, "loss_type": "cispo"},
    ),
    (
        "trl-dpo-three losses",
        SMALL,
        {**PLAIN, "trainer": "trl-dpo", "batch": 3, "seq": 41, "loss_type": "sigmoid+bco_pair+sft", "method": LORA},
    ),
]
"""Losses and numbers of reward models that are not shipped. They are recorded where TRL is installed."""


def measured(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> dict[str, int]:
    """The parameters, the reference's, the optimizer's states and the peak above what there was, in bytes."""
    import torch

    from docs.making.llama_factory import builder_of
    from estimator.operators import THREADS
    from estimator.witnesses.measure import peak_of, without_matmul_scratch

    torch.set_num_threads(THREADS)
    given = {"autocast": "bfloat16", "checkpointing": "layer", "dtype": "float32", **plan}
    arguments: dict[str, Any] = {
        "bf16": given["autocast"] == "bfloat16",
        "gradient_checkpointing": given["checkpointing"] == "layer",
    }
    for key in (
        *("loss_type", "beta", "precompute_ref_log_probs", "num_generations"),
        *("gradient_accumulation_steps", "steps_per_generation", "num_iterations", "use_vllm"),
        *("teacher", "lmbda", "seq_kd"),
    ):
        if key in given:
            several = isinstance(given[key], str) and "+" in given[key]
            arguments[key] = given[key].split("+") if several else given[key]
    if scores := given.get("reward_model"):
        arguments["reward_models"] = scores if isinstance(scores, list) else [scores]
    method, adapter = dict(given.get("method", {})), None
    if method and method["name"] == "lora":
        from peft import LoraConfig

        adapter = LoraConfig(**{key: value for key, value in method.items() if key != "name"})
    seq = given["seq"]
    wraps, second = as_one_of_several(config, given, folder)
    accumulated = given.get("gradient_accumulation_steps", 1)
    every = given.get("steps_per_generation", accumulated) * given.get("num_iterations", 1)
    second = max(second, every // accumulated + 1)  # the first update that generates again
    with wraps[0]:
        trainer = builder_of(given["trainer"])(
            given["trainer"], config, folder, given["batch"], seq, given.get("prompt_seq", seq // 2), given["dtype"],
            adapter, given.get("reference"), given.get("attention_mask", False), **arguments, max_steps=second,
        )  # fmt: skip
        wrap_as_one_of_several(trainer, wraps[1])
        events = profiled(trainer, second)

    reference = getattr(trainer, "ref_model", None) or getattr(trainer, "teacher_model", None)
    scores = [held(x) for x in getattr(trainer, "reward_funcs", ()) if isinstance(x, torch.nn.Module)]
    return {
        "parameters": held(trainer.model),
        "reference": sum(scores) + (0 if reference is None else held(reference)),
        "optimizer": states_of(trainer),
        "peak_above_resident": peak_of(without_matmul_scratch(events))[0],
    }


def held(model: Any) -> int:
    """The bytes of a model's parameters on this rank."""
    from estimator.witnesses.reference.sharding import local

    own = [local(p).untyped_storage() for p in model.parameters()]
    storages = {storage._cdata: storage.nbytes() for storage in own}
    return sum(storages.values())


def states_of(trainer: Any) -> int:
    """The bytes of its optimizer's states on this rank."""
    import torch

    from estimator.witnesses.reference.sharding import local

    states = trainer.optimizer.optimizer.state.values()
    return sum(local(x).nbytes for state in states for x in state.values() if isinstance(x, torch.Tensor))


def profiled(trainer: Any, number: int) -> Any:
    """The allocator's events of a step of the trainer's own loop, from its begin to its end."""
    from transformers import TrainerCallback

    from estimator.witnesses.measure import Profile

    class Profiled(TrainerCallback):  # type: ignore[misc]
        steps = 0
        profile = Profile()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            Profiled.steps += 1
            if Profiled.steps == number:
                self.profile.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if Profiled.steps == number:
                self.profile.stop()

    trainer.add_callback(Profiled())
    trainer.train()
    return Profiled.profile.events()


def as_one_of_several(config: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> tuple[Any, int]:
    """The context of a rank, what makes a rank's model, and which step is measured: DDP's buckets are made anew."""
    if "sharding" not in plan:
        return (nullcontext(), None), 2
    from estimator.plans.plan import parse_plan
    from estimator.plans.resolve import resolve
    from estimator.witnesses.reference.sharding import as_rank, shard

    (folder / "plan").mkdir()
    (folder / "plan" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    resolved = resolve(parse_plan({"model": str(folder / "plan"), **plan}))
    return (as_rank(resolved.step.sharding), lambda model: shard(model, resolved)), 4


def wrap_as_one_of_several(trainer: Any, make: Callable[[Any], Any] | None) -> None:
    """Have a trainer's model made a rank's, by what ``as_one_of_several`` gives, where there are several."""
    if make is not None:
        wrapped = make(trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True))  # with its autocast
        trainer._wrap_model = lambda *_, **__: wrapped


def main(only: list[str]) -> None:
    """Measure the installed release's cases, or those whose names begin with a word."""
    found: dict[str, Any] = {}
    release = ".".join(version("trl").split(".")[:2])
    path = RECORDS_OLDER.get(release, RECORD)
    asked = OF_RELEASE.get(release) or [*cases(), *LIVE]
    if factory := find_spec("llamafactory") is not None:
        path, asked = RECORD_FACTORY, FACTORY
    if path.exists() and only:
        found = json.loads(path.read_text(encoding="utf-8"))["steps"]
    for name, config, plan in asked:
        if only and not any(name.startswith(word) for word in only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(config, plan, Path(folder))
        print(name, found[name], flush=True)
    packages = ("trl", "transformers", "accelerate", "peft", "torch", *["llamafactory"] * factory)
    write_record(path, packages, steps=found)


if __name__ == "__main__":
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    main(sys.argv[1:])
