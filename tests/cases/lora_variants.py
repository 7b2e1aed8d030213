"""LoRA's variants and relatives: DoRA, PiSSA, OLoRA, LoRA-FA, AdaLoRA, VeRA, trainable tokens, DeLoRA, HRA and RoAd."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

DORA: dict[str, Any] = {"name": "lora", "use_dora": True, "r": 5}
FA: dict[str, Any] = {"name": "lora-fa", "r": 7}
ADALORA: dict[str, Any] = {"name": "adalora", "init_r": 6, "total_step": 10}
IMPORTANCE: dict[str, Any] = {**ADALORA, "update_and_allocate": True, "total_step": 50, "tinit": 20, "tfinal": 5}
ORTHOGONAL: dict[str, Any] = {**ADALORA, "task_type": "CAUSAL_LM"}
VERA: dict[str, Any] = {"name": "vera", "r": 24}
TOKENS: dict[str, Any] = {"name": "trainable_tokens", "token_indices": [1, 5, 7, 9]}
DELORA: dict[str, Any] = {"name": "delora", "r": 6}
HRA: dict[str, Any] = {"name": "hra", "r": 4}
ROAD: dict[str, Any] = {"name": "road", "group_size": 16}
TIED = {"tie_word_embeddings": True}
_ROWS: list[Case] = [
    ("dora", {"num_hidden_layers": 5}, {"method": DORA}),
    ("dora-dropout", {"model_type": "qwen3"}, {"method": {**DORA, "lora_dropout": 0.1}, "dtype": "bfloat16"}),
    ("dora-biases", {"model_type": "qwen2"}, {"method": {**DORA, "bias": "lora_only"}, "attention": "eager"}),
    (
        "dora-embeddings",
        TIED,
        {"method": {**DORA, "target_modules": ["embed_tokens", "lm_head", "v_proj"]}, "dtype": "float16"},
    ),
    (
        "dora-checkpointing",
        {"model_type": "mistral", "num_hidden_layers": 5},
        {"method": {**DORA, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1}, "checkpointing": "layer"},
    ),
    ("dora-autocast", {}, {"method": DORA, "autocast": "bfloat16"}),
    ("pissa", {}, {"method": {"name": "lora", "init_lora_weights": "pissa"}, "dtype": "bfloat16"}),
    ("olora", {"model_type": "qwen2"}, {"method": {"name": "lora", "init_lora_weights": "olora"}, "dtype": "float16"}),
    ("mica", {"model_type": "mistral"}, {"method": {"name": "lora", "r": 4, "init_lora_weights": "mica"}}),
    (
        "lora-tokens",
        {"model_type": "qwen3"},
        {"method": {"name": "lora", "trainable_token_indices": [3, 4]}, "dtype": "float16"},
    ),
    (
        "lora-tokens-by-name",
        TIED,
        {"method": {"name": "lora", "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}}},
    ),
    ("lora-fa", {"num_hidden_layers": 5}, {"method": FA}),
    (
        "lora-fa-all-dropout",
        {"model_type": "qwen3"},
        {"method": {**FA, "target_modules": "all-linear", "lora_dropout": 0.1}, "dtype": "bfloat16"},
    ),
    (
        "lora-fa-embedding",
        {"model_type": "mistral"},
        {"method": {**FA, "target_modules": ["embed_tokens", "v_proj"]}, "dtype": "float16", "checkpointing": "layer"},
    ),
    ("adalora", {"num_hidden_layers": 5}, {"method": ADALORA}),
    ("adalora-16-bit", {"model_type": "qwen2"}, {"method": ADALORA, "dtype": "bfloat16", "attention": "eager"}),
    ("adalora-orthogonal", {"num_hidden_layers": 5}, {"method": ORTHOGONAL}),
    (
        "adalora-orthogonal-dropout",
        {"model_type": "qwen3", "num_hidden_layers": 5},
        {
            "method": {**ORTHOGONAL, "target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1},
            "dtype": "float16",
            "checkpointing": "layer",
        },
    ),
    (
        "adalora-importance",
        {"num_hidden_layers": 5},
        {"method": IMPORTANCE},
    ),
    (
        "adalora-importance-peak",
        {},
        {"method": {**IMPORTANCE, "init_r": 200}, "batch": 1, "seq": 2, "optimizer": "sgd"},
    ),
    (
        "adalora-importance-16-bit",
        {"model_type": "qwen2"},
        {
            "method": {**IMPORTANCE, "task_type": "CAUSAL_LM"},
            "dtype": "bfloat16",
            "gradient_clipping": True,
        },
    ),
    ("adalora-orthogonal-autocast", {}, {"method": ORTHOGONAL, "autocast": "bfloat16"}),
    ("vera", {"num_hidden_layers": 5}, {"method": VERA}),
    (
        "vera-mixed-sizes",
        {"model_type": "mistral"},
        {
            "method": {**VERA, "target_modules": ["q_proj", "k_proj", "down_proj"], "vera_dropout": 0.1},
            "dtype": "bfloat16",
        },
    ),
    (
        "vera-biases",
        {"model_type": "qwen2"},
        {"method": {**VERA, "bias": "vera_only"}, "dtype": "float16", "checkpointing": "layer"},
    ),
    ("vera-head", {}, {"method": {**VERA, "target_modules": ["lm_head", "v_proj"]}, "autocast": "bfloat16"}),
    ("tokens", {}, {"method": TOKENS, "dtype": "bfloat16"}),
    ("tokens-tied", {"model_type": "qwen3"}, {"method": TOKENS, "checkpointing": "layer"}),
    ("tokens-head", {"model_type": "qwen2"}, {"method": {**TOKENS, "target_modules": ["lm_head"]}, "dtype": "float16"}),
    ("delora", {}, {"method": DELORA, "autocast": "bfloat16"}),
    (
        "delora-dropout",
        {"model_type": "mistral", "num_hidden_layers": 5},
        {"method": {**DELORA, "module_dropout": 0.1}, "dtype": "bfloat16", "checkpointing": "layer"},
    ),
    ("delora-biases", {"model_type": "qwen2"}, {"method": {**DELORA, "bias": "delora_only"}, "dtype": "float16"}),
    ("hra", {"num_hidden_layers": 5}, {"method": HRA}),
    ("hra-odd", {"model_type": "qwen2"}, {"method": {**HRA, "r": 3}, "dtype": "float16", "attention": "eager"}),
    ("hra-orthogonalised", {"model_type": "qwen3"}, {"method": {**HRA, "apply_GS": True}, "dtype": "bfloat16"}),
    ("road-1", {"num_hidden_layers": 5}, {"method": ROAD}),
    ("road-2", {"model_type": "mistral"}, {"method": {**ROAD, "variant": "road_2"}, "dtype": "bfloat16"}),
    (
        "road-4",
        {"model_type": "qwen2"},
        {"method": {**ROAD, "variant": "road_4"}, "dtype": "float16", "checkpointing": "layer"},
    ),
    ("tokens-autocast", TIED, {"method": TOKENS, "autocast": "float16", "attention": "eager"}),
]
MEASURED: list[Case] = [
    (name, config, {"batch": 2, "seq": 33 + number, "dtype": "float32", **plan})
    for number, (name, config, plan) in enumerate(_ROWS)
]
REFUSED: list[Refused] = [
    ({}, {"method": method}, says)
    for method, says in (
        ({**DORA, "lora_bias": True}, "lora_bias is not for DoRA"),
        ({"name": "lora", "lora_bias": True, "init_lora_weights": "gaussian"}, "lora_bias needs init_lora_weights"),
        ({"name": "lora", "r": 3, "init_lora_weights": "orthogonal"}, "even rank"),
        ({**DORA, "init_lora_weights": "mica"}, "mica is not for DoRA"),
        ({"name": "lora", "init_lora_weights": "pisa"}, "init_lora_weights"),
        ({"name": "lora", "trainable_token_indices": [611]}, "token 611"),
        ({"name": "lora", "trainable_token_indices": {"q_proj": [1]}}, "'q_proj' has none"),
        (
            {"name": "lora", "trainable_token_indices": [1], "target_modules": ["embed_tokens"]},
            "trainable_token_indices and be in target_modules",
        ),
        ({"name": "adalora"}, "total_step' is missing"),
        ({**ADALORA, "tinit": 5, "tfinal": 5}, "leave none of the 10 steps"),
        ({**ADALORA, "target_modules": ["embed_tokens"]}, "linear layers only"),
        ({**VERA, "target_modules": ["embed_tokens"]}, "linear layers only"),
        ({"name": "trainable_tokens", "token_indices": []}, "token_indices"),
        ({**TOKENS, "target_modules": ["q_proj"]}, "has none"),
        ({**TOKENS, "target_modules": ["q"]}, "matches nothing"),
        ({"name": "road"}, "does not divide the 96 outputs"),
        ({**ROAD, "group_size": 3}, "is odd"),
        ({**ROAD, "exclude_modules": ["v_proj"]}, "no exclude_modules"),
        ({**HRA, "target_modules": ["embed_tokens"]}, "linear layers only"),
    )
]
FORMULAS = [
    Formulas(method["name"], {"num_hidden_layers": 5, **TIED}, {"method": method}, [(2, 33), (5, 64), (2, 3000)])
    for method in (DORA, FA, ORTHOGONAL, VERA, TOKENS, DELORA, HRA, ROAD)
]
