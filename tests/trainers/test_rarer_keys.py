"""Keys that few files have, by tool: what a plan has of them. Witness: the sources that each reader names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from estimator.trainers.formats import of_text
from estimator.trainers.settings import Reading

SMOL = "HuggingFaceTB/SmolLM2-135M"
BASES: dict[str, dict[str, Any]] = {
    "trl": {"model_name_or_path": SMOL, "bf16": True, "max_length": 64},
    "axolotl": {
        "base_model": SMOL,
        "adapter": "lora",
        "lora_r": 8,
        "lora_target_linear": True,
        "micro_batch_size": 1,
        "sequence_len": 64,
    },
    "llama-factory": {"model_name_or_path": SMOL, "stage": "sft", "cutoff_len": 64, "bf16": True},
    "mlx-lm": {"model": SMOL, "max_seq_length": 64},
    "torchtune": {
        "model": {"_component_": "torchtune.models.llama3_2.llama3_2_1b"},
        "tokenizer": {"_component_": "torchtune.models.llama3.llama3_tokenizer", "max_seq_len": 64},
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "batch_size": 1,
        "dtype": "bf16",
    },
}
FULL, LORA, FREEZE, OFT = ({"finetuning_type": kind} for kind in ("full", "lora", "freeze", "oft"))
KEYS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("trl", {"attn_implementation": "someone/flash-kernels"}, {"attention": "flash"}),
    ("trl", {"attn_implementation": "kernels-community/flash-attn2:layer@v1"}, {"attention": "flash"}),
    ("trl", {"gradient_checkpointing_kwargs": {"every_n_layers": 2}}, {"checkpointing": "every-2"}),
    ("trl", {"gradient_checkpointing_kwargs": {"every_n_layers": 1}}, {"checkpointing": None}),
    ("trl", {"gradient_checkpointing_kwargs": {"offload": True}}, {"checkpointing": "offloaded"}),
    ("trl", {"gradient_checkpointing": False, "use_cache": True}, {"use_cache": True}),
    ("axolotl", {"rl": "dpo", "precompute_ref_log_probs": True}, {"precompute_ref_log_probs": True}),
    ("axolotl", {"rl": "ipo", "precompute_ref_log_probs": True}, {"precompute_ref_log_probs": True}),
    ("axolotl", {"rl": "kto", "precompute_ref_log_probs": True}, {"precompute_ref_log_probs": None}),
    ("axolotl", {"rl": "dpo", "rl_adapter_ref_model": True}, {"reference": "copy"}),
    ("axolotl", {"fp16": True}, {"dtype": "float16", "autocast": "float16"}),
    ("axolotl", {"bf16": False}, {"dtype": "float32", "autocast": None}),
    ("llama-factory", {**FULL, "use_galore": True}, {"optimizer": "galore-adamw", "optimizer_rank": 16}),
    ("llama-factory", {**FULL, "use_galore": True, "galore_rank": 4}, {"optimizer_rank": 4}),
    (
        "llama-factory",
        FREEZE,
        {"method": {"name": "freeze", "top_layers": 2, "train_norm": False, "train_head": False}},
    ),
    ("llama-factory", {**FREEZE, "freeze_trainable_layers": 3}, {"method": {"top_layers": 3}}),
    ("llama-factory", OFT, {"method": {"name": "oft", "oft_block_size": 32, "target_modules": "all-linear"}}),
    ("llama-factory", {**OFT, "oft_rank": 4}, {"method": {"r": 4, "oft_block_size": 0}}),
    ("llama-factory", {**LORA, "lora_target": "all"}, {"method": {"r": 8, "lora_alpha": 16}}),
    ("llama-factory", {**LORA, "lora_rank": 4}, {"method": {"r": 4, "lora_alpha": 8}}),
    ("mlx-lm", {"fine_tune_type": "dora"}, {"method": {"name": "lora", "r": 8, "use_dora": True}}),
    ("mlx-lm", {"lora_parameters": {"rank": 4, "dropout": 0.5}}, {"method": {"r": 4, "lora_dropout": 0.5}}),
    ("torchtune", {"device": "cpu"}, {"runtime": "torch-cpu"}),
    ("torchtune", {"device": "cuda"}, {"runtime": None}),
    ("torchtune", {"clip_grad_norm": 0}, {"gradient_clipping": True}),
]


def read(tool: str, keys: dict[str, Any]) -> Reading:
    reading = of_text(json.dumps({**BASES[tool], **keys}), "train.yaml", tool)
    assert reading.problems == {}
    assert reading.ignored == []
    return reading


@pytest.mark.parametrize(("tool", "keys", "expect"), KEYS, ids=str)
def test_what_a_plan_has_of_a_key(tool: str, keys: dict[str, Any], expect: dict[str, Any]) -> None:
    found = read(tool, keys).plan
    for key, value in expect.items():
        given = found.get(key)
        assert (value.items() <= given.items()) if isinstance(value, dict) and given else given == value, (key, given)


NOTED: list[tuple[str, dict[str, Any], str]] = [
    ("axolotl", {"reinit_weights": True}, "no weights are read, so loading takes other bytes than it says"),
    ("axolotl", {"rl": "dpo", "sample_packing": True}, "a batch of preferences is not packed"),
    ("axolotl", {"sample_packing": True, "attn_implementation": "sdpa"}, "since the attention takes no lengths"),
    ("llama-factory", {**FULL, "neat_packing": True}, "the mask that keeps samples apart is not counted"),
    ("torchtune", {"dataset": {"packed": True}}, "the mask that keeps samples apart is not counted"),
    ("trl", {"beta": 0.1, "sync_ref_model": True}, "the reference's weights are changed in place, which takes nothing"),
]


@pytest.mark.parametrize(("tool", "keys", "why"), NOTED, ids=str)
def test_what_is_said_of_a_key(tool: str, keys: dict[str, Any], why: str) -> None:
    said = [one.value for one in read(tool, keys).assumptions if why in one.why]
    assert said == [True]
