"""Bases whose weights are quantised: bitsandbytes, torchao, GPTQ and AWQ."""

from __future__ import annotations

from tests.cases.kinds import Case, Formulas, Refused

F32, BF16, F16 = "float32", "bfloat16", "float16"
LORA = {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"]}
ALL = {"name": "lora", "r": 3, "target_modules": "all-linear", "lora_dropout": 0.1}
BLOCKS = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 256}
"""Sizes that GPTQ and AWQ take."""
HEAVY = {**BLOCKS, "vocab_size": 64, "intermediate_size": 1024}
"""The peak is where a weight is dequantised."""
_ROWS: list[Case] = [
    ("nf4", {}, {"dtype": "nf4", "method": LORA}),
    ("nf4-qlora", {}, {"dtype": "nf4", "compute_dtype": BF16, "double_quant": True, "kbit_preparation": True}),
    (
        "nf4-checkpointing-bias",
        {"model_type": "qwen2"},
        {"dtype": "nf4", "kbit_preparation": True, "checkpointing": "layer", "attention": "eager", "method": ALL},
    ),
    ("nf4-autocast", {}, {"dtype": "nf4", "autocast": BF16, "kbit_preparation": True, "method": ALL}),
    ("nf4-heavy", HEAVY, {"dtype": "nf4", "rest_dtype": F16, "double_quant": True, "batch": 1, "seq": 9}),
    ("nf4-ia3", {}, {"dtype": "nf4", "kbit_preparation": True, "method": "ia3"}),
    ("fp4", {"model_type": "qwen3"}, {"dtype": "fp4", "compute_dtype": F16, "method": LORA}),
    ("int8", {"model_type": "mistral"}, {"dtype": "int8", "method": ALL}),
    (
        "int8-checkpointing-bias",
        {"model_type": "qwen2", "num_hidden_layers": 6},
        {"dtype": "int8", "kbit_preparation": True, "checkpointing": "layer", "gradient_accumulation_steps": 2},
    ),
    ("int8-heavy", HEAVY, {"dtype": "int8", "rest_dtype": F16, "batch": 1, "seq": 9, "method": LORA}),
    ("int8-ia3-autocast", {}, {"dtype": "int8", "autocast": BF16, "method": "ia3"}),
    ("torchao-int8", {"num_hidden_layers": 6}, {"dtype": "int8-weight-only", "method": LORA}),
    ("torchao-int8-bias", {"model_type": "qwen2"}, {"dtype": "int8-weight-only", "rest_dtype": F16, "method": ALL}),
    (
        "torchao-int8-checkpointing",
        HEAVY,
        {"dtype": "int8-weight-only", "rest_dtype": F32, "checkpointing": "layer", "attention": "eager", "batch": 1},
    ),
    ("torchao-float8", {"model_type": "qwen2"}, {"dtype": "float8", "method": ALL}),
    ("torchao-float8-heavy", HEAVY, {"dtype": "float8", "autocast": BF16, "batch": 1, "seq": 9, "method": "ia3"}),
    ("gptq", {**HEAVY, "model_type": "qwen2"}, {"dtype": "gptq", "batch": 1, "seq": 16, "method": LORA}),
    ("gptq-columns", BLOCKS, {"dtype": "gptq", "weight_group_size": -1, "rest_dtype": F32, "method": ALL}),
    ("awq-groups", BLOCKS, {"dtype": "awq", "weight_group_size": 64, "rest_dtype": F32, "method": ALL}),
    ("gptq-checkpointing", BLOCKS, {"dtype": "gptq", "rest_dtype": F32, "checkpointing": "layer", "method": ALL}),
    ("awq", {**HEAVY, "model_type": "qwen2"}, {"dtype": "awq", "batch": 1, "seq": 16, "method": LORA}),
    ("nf4-save-embedding", {}, {"dtype": "nf4", "method": {**LORA, "modules_to_save": ["embed_tokens"]}}),
    (
        "int8-save-embedding-head",
        {},
        {"dtype": "int8", "kbit_preparation": True, "method": {**LORA, "modules_to_save": ["embed_tokens", "lm_head"]}},
    ),
    ("awq-checkpointing", BLOCKS, {"dtype": "awq", "kbit_preparation": True, "checkpointing": "layer", "method": ALL}),
]
MEASURED: list[Case] = [
    (name, config, {"batch": 2, "seq": 33, "method": "lora", **plan}) for name, config, plan in _ROWS
]
REFUSED: list[Refused] = [
    ({}, {"model": "llama-3.2-1b", **keys}, says)
    for keys, says in (
        ({"dtype": "nf4"}, "packed weights have no gradient"),
        ({"dtype": "int4-weight-only", "method": "lora"}, "cannot be trained on"),
        ({"dtype": "int8", "double_quant": True, "method": "lora"}, "double_quant belongs to"),
        ({"rest_dtype": F16}, "rest_dtype belongs to"),
        (
            {"dtype": "int8", "bitsandbytes": "0.43.1", "method": "lora"},
            "bitsandbytes belongs to",
        ),
        (
            {"dtype": "nf4", "method": {**LORA, "target_modules": ["v_proj"], "modules_to_save": ["q_proj"]}},
            "whose packed weight cannot be trained",
        ),
        (
            {"dtype": "nf4", "method": {**LORA, "modules_to_save": ["layers.0.self_attn.k_proj"]}},
            "whose packed weight cannot be trained",
        ),
        ({"dtype": "int8", "method": "ia3"}, "set kbit_preparation"),
        ({"dtype": "gptq", "method": "ia3"}, "dtype: gptq has no rule with method: ia3"),
        ({"dtype": "float8", "method": {**LORA, "lora_bias": True}}, "PEFT's rule"),
        ({"dtype": "int8-weight-only", "method": {**LORA, "bias": "all"}}, "set bias: none"),
    )
]
REFUSED += [
    ({"intermediate_size": 133}, {"dtype": dtype, "method": "lora"}, "model.layers.0") for dtype in ("nf4", "gptq")
]
FORMULAS = [
    Formulas(dtype, {}, {"model": "llama-3.2-1b", "dtype": dtype, "method": "lora"}, [(2, 64), (3, 500), (4, 4096)])
    for dtype in ("nf4", "int8", "int8-weight-only", "float8", "gptq", "awq")
]
