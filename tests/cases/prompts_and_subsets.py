"""Virtual tokens (prompt, p-, prefix tuning, adaption prompts), and methods that train a part of the model: norms,
biases, the last layers."""

from __future__ import annotations

from tests.cases.kinds import Case, Formulas, Refused

PROMPT = {"name": "prompt_tuning", "num_virtual_tokens": 7}
P_TUNING = {"name": "p_tuning", "num_virtual_tokens": 9}
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 7}
ADAPTION = {"name": "adaption_prompt", "adapter_len": 5, "adapter_layers": 2}
LN = {"name": "ln_tuning"}
FREEZE = {"name": "freeze", "top_layers": 2}
WINDOW = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
NARROW = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 20}
BIASES = {"attention_bias": True, "mlp_bias": True}
_ROWS: list[Case] = [
    ("prompt-tuning", {}, {"method": PROMPT}),
    ("prompt-tuning-b1", {"model_type": "qwen2"}, {"method": PROMPT, "batch": 1, "dtype": "bfloat16"}),
    ("prompt-tuning-eager", {"model_type": "qwen3"}, {"method": PROMPT, "attention": "eager", "dtype": "float16"}),
    ("prompt-tuning-layer", {}, {"method": PROMPT, "checkpointing": "layer", "dtype": "float16"}),
    ("prompt-tuning-mask", {"model_type": "mistral"}, {"method": PROMPT, "attention_mask": True, "seq": 18}),
    ("prompt-tuning-window", {"model_type": "mistral"}, {"method": PROMPT, "seq": 17, "use_cache": True}),
    ("prompt-tuning-long", {"vocab_size": 19}, {"method": PROMPT, "batch": 1, "seq": 186}),
    ("p-tuning", {}, {"method": P_TUNING}),
    ("p-tuning-width", {"model_type": "qwen3"}, {"method": {**P_TUNING, "encoder_hidden_size": 45}, "batch": 1}),
    ("p-tuning-autocast", {}, {"method": P_TUNING, "autocast": "bfloat16", "checkpointing": "layer"}),
    ("p-tuning-wide", {"vocab_size": 19}, {"method": {**P_TUNING, "encoder_hidden_size": 300}, "seq": 2}),
    ("prefix-tuning", {}, {"method": PREFIX}),
    ("prefix-tuning-eager", {"model_type": "qwen3"}, {"method": PREFIX, "attention": "eager", "dtype": "float16"}),
    ("prefix-tuning-one-token", {"num_hidden_layers": 6}, {"method": PREFIX, "seq": 1, "dtype": "float16"}),
    ("prefix-tuning-deep", {"num_hidden_layers": 8, "vocab_size": 19}, {"method": PREFIX, "seq": 2, "batch": 3}),
    ("prefix-tuning-mask", {"model_type": "qwen2"}, {"method": PREFIX, "attention_mask": True, "keep_logits": False}),
    ("prefix-tuning-windows", {"model_type": "qwen2", **WINDOW}, {"method": PREFIX, "seq": 20}),
    ("prefix-tuning-autocast", {}, {"method": PREFIX, "autocast": "bfloat16"}),
    (
        "prefix-tuning-projection",
        {"num_hidden_layers": 6},
        {"method": {**PREFIX, "prefix_projection": True, "encoder_hidden_size": 300}, "seq": 2, "optimizer": "sgd"},
    ),
    (
        "prefix-tuning-accumulation",
        {"model_type": "qwen3", "num_hidden_layers": 7},
        {"method": {**PREFIX, "prefix_projection": True}, "batch": 1, "gradient_accumulation_steps": 2},
    ),
    (
        "prefix-tuning-save-embedding",
        {"tie_word_embeddings": True},
        {"method": {**PREFIX, "modules_to_save": ["embed_tokens"]}},
    ),
    ("adaption-prompt", {"num_hidden_layers": 6}, {"method": ADAPTION, "dtype": "bfloat16"}),
    ("adaption-prompt-eager", {**NARROW}, {"method": ADAPTION, "attention": "eager", "dtype": "float16", "batch": 1}),
    ("adaption-prompt-layer", {"attention_bias": True}, {"method": ADAPTION, "checkpointing": "layer"}),
    ("adaption-prompt-autocast", {}, {"method": {**ADAPTION, "adapter_len": 90}, "autocast": "bfloat16", "seq": 2}),
    ("ln-tuning", {}, {"method": LN}),
    ("ln-tuning-qwen3", {"model_type": "qwen3"}, {"method": LN, "attention": "eager", "dtype": "bfloat16"}),
    ("ln-tuning-layer", {"model_type": "mistral"}, {"method": LN, "checkpointing": "layer", "dtype": "float16"}),
    (
        "ln-tuning-regex",
        {"num_hidden_layers": 5},
        {"method": {**LN, "target_modules": r"model\.layers\.[13]\..*norm|model.norm"}},
    ),
    (
        "ln-tuning-other-modules",
        {"tie_word_embeddings": True},
        {"method": {**LN, "target_modules": ["norm", "lm_head", "embed_tokens"], "modules_to_save": ["up_proj"]}},
    ),
    ("bitfit", {"model_type": "qwen2"}, {"method": "bitfit", "dtype": "bfloat16"}),
    ("bitfit-eager", {**BIASES}, {"method": "bitfit", "attention": "eager", "dtype": "float16"}),
    ("freeze", {"num_hidden_layers": 6}, {"method": FREEZE}),
    ("freeze-tied", {"model_type": "qwen3"}, {"method": FREEZE, "attention": "eager"}),
    ("freeze-tied-head", {"model_type": "qwen3"}, {"method": {**FREEZE, "train_head": False}, "dtype": "bfloat16"}),
    ("freeze-layer", {"model_type": "qwen2"}, {"method": FREEZE, "checkpointing": "layer", "dtype": "float16"}),
    ("freeze-head-only", {"num_hidden_layers": 9}, {"method": {**FREEZE, "top_layers": 0, "train_norm": False}}),
]
MEASURED: list[Case] = [
    (name, config, {"batch": 2, "seq": 33, "dtype": "float32", **plan}) for name, config, plan in _ROWS
]
REFUSED: list[Refused] = [
    ({}, {"method": "prompt_tuning"}, "needs num_virtual_tokens"),
    ({}, {"method": {**PROMPT, "token_dim": 5}}, "hidden size is 96"),
    ({}, {"method": {**PROMPT, "num_layers": 5}}, "has 3 layers"),
    ({}, {"method": {**PROMPT, "modules_to_save": ["embed_tokens"]}}, "would never train"),
    ({}, {"method": {**PROMPT, "modules_to_save": ["nothing"]}}, "matches nothing"),
    ({}, {"method": {**PROMPT, "prompt_tuning_init": "TEXT"}}, "needs prompt_tuning_init_text"),
    ({}, {"method": {**PROMPT, "tokenizer_kwargs": {"a": 1}}}, "TEXT only"),
    ({}, {"method": {**P_TUNING, "encoder_reparameterization_type": "LSTM"}}, "use MLP"),
    ({}, {"method": PREFIX, "checkpointing": "layer"}, "use checkpointing: none"),
    ({}, {"method": {**ADAPTION, "adapter_layers": 4}}, "adapter_layers 4: the model has 3"),
    ({}, {"method": {**ADAPTION, "target_modules": ["mlp"]}}, "self_attn only"),
    ({}, {"method": "adaption_prompt"}, "needs adapter_len"),
    ({"model_type": "qwen2"}, {"method": ADAPTION}, "Unsupported model type for adaption prompt"),
    ({"model_type": "mistral"}, {"method": ADAPTION}, "to be the hidden size"),
    ({}, {"method": {**LN, "target_modules": ["mlp"]}}, "take mlp out"),
    ({}, {"method": {**LN, "target_modules": r".*(mlp|norm)"}}, "adapts norms, linear layers and embeddings only"),
    ({}, {"method": "bitfit"}, "this model has none"),
    ({}, {"method": "freeze"}, "needs top_layers"),
    ({}, {"method": {**FREEZE, "top_layers": 4}}, "has 3 layers"),
    (
        {},
        {"method": {"name": "freeze", "top_layers": 0, "train_norm": False, "train_head": False}},
        "nothing to train",
    ),
]
FORMULAS = [
    Formulas(
        f"{method['name']}-{'symbolic' if symbolic else 'numbers'}",
        {"model_type": "qwen3", "num_hidden_layers": 6, **WINDOW},
        {"method": method},
        [(1, 1), (2, 16), (2, 17), (3, 185)],  # on either side of where blocks and masks change
        symbolic=symbolic,
        every=True,
    )
    for method in (PROMPT, PREFIX, FREEZE)
    for symbolic in (False, True)
]
