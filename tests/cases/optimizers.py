"""Optimizers: what each keeps, and what its step takes."""

from __future__ import annotations

from estimator.steps.optimizers import OPTIMIZERS
from tests.cases.kinds import Case, Refused

LORA = {"name": "lora", "r": 64, "target_modules": "all-linear"}
SAVING = {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}
SETTINGS: list[Case] = [
    ("full-float32", {"num_hidden_layers": 6}, {"batch": 1, "seq": 2, "dtype": "float32"}),
    ("full-bfloat16", {"model_type": "qwen2", "num_hidden_layers": 5}, {"batch": 2, "seq": 2, "dtype": "bfloat16"}),
    ("full-float16", {"model_type": "qwen3"}, {"batch": 1, "seq": 3, "dtype": "float16", "attention": "eager"}),
    ("lora-bfloat16", {"model_type": "mistral"}, {"batch": 1, "seq": 2, "dtype": "bfloat16", "method": LORA}),
]
"""Tiny sequences, so that the optimizer's step is the peak wherever it takes anything."""
SPECIAL: list[Case] = [
    ("adamw-foreach-two-dtypes", {}, {"optimizer": "adamw-foreach", "dtype": "bfloat16", "method": SAVING}),
    ("adamw-foreach-accumulation", {}, {"optimizer": "adamw-foreach", "gradient_accumulation_steps": 2}),
    ("adamw-master-two-dtypes", {}, {"optimizer": "adamw-master", "dtype": "float16", "method": SAVING}),
    ("adamw-8bit-autocast", {}, {"optimizer": "adamw-8bit", "autocast": "bfloat16"}),
    ("adafactor-ia3", {"vocab_size": 19}, {"optimizer": "adafactor", "method": "ia3"}),
    ("muon-ia3", {"vocab_size": 19}, {"optimizer": "muon", "method": "ia3"}),
    ("muon-biases", {"attention_bias": True, "mlp_bias": True}, {"optimizer": "muon", "seq": 3}),
    ("galore-rank", {}, {"optimizer": "galore-adamw", "optimizer_rank": 7, "dtype": "bfloat16", "seq": 3}),
    ("galore-rank-float32", {"vocab_size": 19}, {"optimizer": "galore-adamw", "optimizer_rank": 7, "seq": 3}),
]
for name in ("adamw-in-backward", "lomo"):
    SPECIAL += [
        (f"{name}-tied", {"tie_word_embeddings": True}, {"optimizer": name}),
        (f"{name}-wide", {"vocab_size": 19, "intermediate_size": 900}, {"optimizer": name, "seq": 3}),
        (f"{name}-autocast", {}, {"optimizer": name, "autocast": "bfloat16"}),
        (
            f"{name}-checkpointing",
            {"num_hidden_layers": 7},
            {"optimizer": name, "checkpointing": "layer", "dtype": "bfloat16"},
        ),
        (f"{name}-adapters", {"num_hidden_layers": 5}, {"optimizer": name, "dtype": "float16", "method": SAVING}),
    ]
SPECIAL = [(name, config, {"batch": 2, "seq": 17, "dtype": "float32", **plan}) for name, config, plan in SPECIAL]
MEASURED: list[Case] = [
    *(
        (f"{name}-{key}", config, {**plan, "optimizer": name})
        for name in OPTIMIZERS
        if name not in ("adamw", "sgd", "sgd-momentum")  # small_models.py has them
        for key, config, plan in SETTINGS
    ),
    *SPECIAL,
]
REFUSED: list[Refused] = [
    ({}, {"model": "qwen3-0.6b", **keys}, says)
    for keys, says in (
        ({"optimizer": "lomo", "gradient_accumulation_steps": 2}, "set gradient_accumulation_steps: 1"),
        ({"optimizer": "adamw-in-backward", "gradient_accumulation_steps": 9}, "none is left to accumulate"),
        ({"optimizer": "adamw-offloaded"}, "states outside the GPU"),
        ({"optimizer": "adamw", "optimizer_rank": 8}, "belongs to optimizer: galore-adamw"),
        ({"optimizer": "galore-adamw", "optimizer_rank": 0}, "optimizer_rank"),
    )
]
