"""Updates that are products of factors (LoHa, LoKr) and rotations of a weight (OFT, BOFT)."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

LOHA: dict[str, Any] = {"name": "loha", "r": 5}
LOKR: dict[str, Any] = {"name": "lokr", "r": 3}
OFT: dict[str, Any] = {"name": "oft"}
BOFT: dict[str, Any] = {"name": "boft"}
MISTRAL, QWEN2, QWEN3 = {"model_type": "mistral"}, {"model_type": "qwen2"}, {"model_type": "qwen3"}
TINY = {"vocab_size": 31}
"""The peak lies in the adapters then, not at the loss."""
MEASURED: list[Case] = [
    ("loha", {}, {"dtype": "float32", "batch": 2, "seq": 33, "method": LOHA}),
    (
        "loha-rank-dropout",
        {**MISTRAL, **TINY},
        {
            "dtype": "float16",
            "batch": 1,
            "seq": 5,
            "method": {**LOHA, "rank_dropout": 0.3, "target_modules": "all-linear"},
        },
    ),
    (
        "loha-16-bit-checkpointing",
        {**QWEN3, **TINY, "num_hidden_layers": 5},
        {
            "dtype": "bfloat16",
            "batch": 2,
            "seq": 17,
            "attention": "eager",
            "checkpointing": "layer",
            "method": {**LOHA, "adapter_dtype": "bfloat16", "rank_pattern": {"v_proj": 2}, "rank_dropout": 0.2},
        },
    ),
    (
        "loha-autocast-some-layers",
        {**QWEN2, **TINY, "num_hidden_layers": 5},
        {
            "dtype": "float32",
            "autocast": "bfloat16",
            "batch": 2,
            "seq": 9,
            "method": {**LOHA, "target_modules": ["up_proj", "o_proj"], "layers_to_transform": [1, 2]},
        },
    ),
    ("lokr", QWEN2, {"dtype": "bfloat16", "batch": 2, "seq": 33, "method": LOKR}),
    (
        "lokr-both-rank-dropout",
        {**QWEN3, **TINY},
        {
            "dtype": "float32",
            "batch": 1,
            "seq": 7,
            "attention": "eager",
            "method": {
                **LOKR,
                "r": 2,
                "decompose_both": True,
                "rank_dropout": 0.2,
                "rank_dropout_scale": True,
                "target_modules": ["k_proj", "up_proj", "lm_head"],
            },
        },
    ),
    (
        "lokr-16-bit-factor",
        {**TINY, "num_hidden_layers": 6},
        {
            "dtype": "bfloat16",
            "batch": 1,
            "seq": 7,
            "checkpointing": "layer",
            "method": {**LOKR, "adapter_dtype": "bfloat16", "decompose_factor": 4, "target_modules": "all-linear"},
        },
    ),
    ("oft", {}, {"dtype": "bfloat16", "batch": 2, "seq": 33, "method": OFT}),
    (
        "oft-16-bit-odd-blocks",
        {**QWEN3, **TINY, "num_hidden_layers": 5},
        {
            "dtype": "bfloat16",
            "batch": 1,
            "seq": 30,
            "attention": "eager",
            "method": {**OFT, "oft_block_size": 8, "adapter_dtype": "bfloat16", "target_modules": "all-linear"},
        },
    ),
    (
        "oft-exact-constrained",
        {**QWEN2, **TINY},
        {
            "dtype": "float32",
            "batch": 1,
            "seq": 1,
            "optimizer": "sgd",
            "method": {
                **OFT,
                "r": 1,
                "oft_block_size": 0,
                "coft": True,
                "use_cayley_neumann": False,
                "bias": "oft_only",
            },
        },
    ),
    (
        "oft-shared-embedding",
        {**QWEN3, **TINY},
        {
            "dtype": "float16",
            "batch": 2,
            "seq": 9,
            "checkpointing": "layer",
            "method": {
                **OFT,
                "r": 5,
                "oft_block_size": 0,
                "block_share": True,
                "num_cayley_neumann_terms": 3,
                "module_dropout": 0.1,
                "target_modules": ["embed_tokens", "o_proj", "down_proj"],
            },
        },
    ),
    (
        "oft-autocast",
        {**TINY},
        {"dtype": "float32", "autocast": "bfloat16", "batch": 2, "seq": 9, "method": {**OFT, "oft_block_size": 4}},
    ),
    (
        "oft-identity",  # one term of the series does not depend on the weight, which gets no gradient and no states
        {},
        {
            "dtype": "bfloat16",
            "batch": 2,
            "seq": 33,
            "method": {**OFT, "num_cayley_neumann_terms": 1, "modules_to_save": ["lm_head"]},
        },
    ),
    (
        "oft-identity-checkpointing",
        {**QWEN2, **TINY},
        {
            "dtype": "bfloat16",
            "batch": 2,
            "seq": 9,
            "checkpointing": "layer",
            "method": {
                **OFT,
                "num_cayley_neumann_terms": 1,
                "oft_block_size": 4,
                "adapter_dtype": "bfloat16",
                "modules_to_save": ["norm"],
            },
        },
    ),
    ("boft", QWEN2, {"dtype": "bfloat16", "batch": 2, "seq": 33, "method": BOFT}),
    (
        "boft-biases",
        {**TINY, "attention_bias": True},
        {
            "dtype": "float32",
            "batch": 1,
            "seq": 3,
            "attention": "eager",
            "method": {
                **BOFT,
                "boft_block_size": 0,
                "boft_block_num": 4,
                "bias": "boft_only",
                "target_modules": ["o_proj", "k_proj"],
            },
        },
    ),
    (
        "boft-dropout-checkpointing",
        {**MISTRAL, **TINY},
        {
            "dtype": "bfloat16",
            "batch": 1,
            "seq": 40,
            "checkpointing": "layer",
            "method": {**BOFT, "boft_dropout": 0.3, "adapter_dtype": "bfloat16"},
        },
    ),
    (
        "boft-autocast",
        {**QWEN3, **TINY},
        {"dtype": "float32", "autocast": "float16", "batch": 2, "seq": 9, "method": {**BOFT, "boft_dropout": 0.1}},
    ),
]
REFUSED: list[Refused] = [
    ({}, {"method": method, "seq": 8}, says)
    for method, says in (
        ({**LOHA, "target_modules": ["embed_tokens"]}, "linear layers only"),
        ({**LOKR, "r": 0}, "greater than or equal to 1"),
        ({**LOKR, "layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
        ({**LOHA, "layers_to_transform": [9]}, "layers are 0 to 2"),
        ({**OFT, "r": 4}, "exclude each other"),
        ({**OFT, "oft_block_size": 0}, "both 0"),
        ({**OFT, "bias": "boft_only"}, "oft_only"),
        ({**BOFT, "boft_block_num": 4}, "exclude each other"),
        ({**BOFT, "boft_block_size": 0}, "both 0"),
        ({**BOFT, "boft_block_size": 7}, "does not divide the 96 inputs of model.layers.0.self_attn.q_proj"),
        ({**BOFT, "target_modules": ["embed_tokens"]}, "linear layers only"),
    )
]
FORMULAS = [Formulas(name, config, plan, [(plan["batch"], plan["seq"])]) for name, config, plan in MEASURED]
