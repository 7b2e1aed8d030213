"""Quantised activations, zeroth-order steps (MeZO) and forward-mode steps."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

F32, BF16, F16 = "float32", "bfloat16", "float16"
LORA = {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"]}
SECOND_LAYER = {**LORA, "layers_to_transform": [1]}
INT8, INT4 = {"saved_activations": "int8"}, {"saved_activations": "int4"}
EAGER = {"attention": "eager"}


def _with(name: str, adapter: Any = None) -> dict[str, Any]:
    return {"method": {"name": name, "adapter": adapter}}


_ROWS: list[Case] = [
    ("int8-full", {}, INT8),
    ("int8-full-bf16-eager", {"model_type": "qwen3"}, {**INT8, **EAGER, "dtype": BF16}),
    ("int8-lora-dropout", {"model_type": "qwen2"}, {**INT8, "method": {**LORA, "lora_dropout": 0.1}, "dtype": F16}),
    (
        "int8-hira-autocast",
        {"model_type": "qwen3", "vocab_size": 311, "tie_word_embeddings": False},
        {**INT8, "method": {"name": "hira", "r": 3, "target_modules": ["up_proj"]}, "autocast": "float16", "seq": 4},
    ),
    ("int8-checkpointing-lora", {}, {**INT8, "checkpointing": "layer", "method": LORA, "dtype": BF16}),
    ("int8-accumulation", {}, {**INT8, "gradient_accumulation_steps": 2, "method": LORA, "keep_logits": False}),
    ("int8-autocast", {}, {**INT8, "autocast": F16, "method": LORA}),
    ("int4-full", {"model_type": "mistral"}, {**INT4, "batch": 3, "seq": 31, "optimizer": "sgd"}),
    ("int4-ia3-eager-dropout", {"attention_dropout": 0.1}, {**INT4, **EAGER, "method": "ia3", "dtype": F16}),
    ("int4-groups-of-30", {"num_hidden_layers": 6}, {**INT4, "activation_group_size": 30, "attention_mask": True}),
    ("mezo", {"num_hidden_layers": 6}, _with("mezo")),
    ("mezo-bf16-eager", {"model_type": "qwen3"}, {**_with("mezo"), **EAGER, "dtype": BF16, "batch": 1, "seq": 90}),
    ("mezo-tied-fp16", {"tie_word_embeddings": True}, {**_with("mezo"), "dtype": F16, "batch": 1, "seq": 3}),
    ("mezo-lora-dropout", {}, {**_with("mezo", {**LORA, "lora_dropout": 0.1}), "batch": 3, "seq": 40}),
    ("mezo-ia3-padding", {"model_type": "mistral"}, {**_with("mezo", "ia3"), "attention_mask": True}),
    ("mezo-autocast", {"attention_dropout": 0.1}, {**_with("mezo", LORA), "autocast": F16}),
    ("forward-ad", {"num_hidden_layers": 6}, _with("forward-ad")),
    ("forward-ad-bf16", {"model_type": "qwen3"}, {**_with("forward-ad"), "dtype": BF16, "seq": 64}),
    ("forward-ad-biases-fp16", {"model_type": "qwen2"}, {**_with("forward-ad"), "dtype": F16, "optimizer": "sgd"}),
    ("forward-ad-lora", {}, _with("forward-ad", LORA)),
    ("forward-ad-lora-few-tokens", {}, {**_with("forward-ad", LORA), "dtype": BF16, "batch": 1, "seq": 4}),
    ("forward-ad-some-layers", {"num_hidden_layers": 5}, {**_with("forward-ad", SECOND_LAYER), "use_cache": True}),
    ("forward-ad-ia3-padding", {"model_type": "mistral"}, {**_with("forward-ad", "ia3"), "attention_mask": True}),
]
MEASURED: list[Case] = [(name, config, {"batch": 2, "seq": 33, "dtype": F32, **plan}) for name, config, plan in _ROWS]
REFUSED: list[Refused] = [
    ({}, {"model": "llama-3.2-1b", **keys}, says)
    for keys, says in (
        ({"method": "mezo", "optimizer": "adamw"}, "set optimizer: sgd"),
        ({"method": "mezo", "checkpointing": "layer"}, "checkpointing belongs to methods with a backward pass"),
        ({"method": "mezo", "gradient_accumulation_steps": 2}, "steps belongs to methods with a backward pass"),
        ({"method": "mezo", **INT8}, "saved_activations belongs to methods with a backward pass"),
        (_with("mezo", "mezo"), "adapter mezo is no adapter"),
        (_with("mezo", {"name": "lora", "rank": 3}), "unknown key 'method.rank' of method lora"),
        (_with("mezo", {"name": "lora", "r": 0}), "method.r: input should be greater"),
        ({"method": "forward-ad", "attention": "sdpa"}, "set attention: eager"),
        ({"method": "forward-ad", "autocast": BF16}, "leave autocast out"),
        ({"method": "forward-ad", "checkpointing": "layer"}, "checkpointing belongs to methods with a backward pass"),
        (_with("forward-ad", "lora") | {"dtype": F16, "autocast": F16}, "leave autocast out"),
        ({**INT4, "activation_group_size": 31}, "multiple of 2"),
        ({"saved_activations": "int2"}, "saved_activations: input should be"),
    )
]
REFUSED.append(({"hidden_act": "gelu"}, {"method": "forward-ad"}, "no rule with hidden_act: gelu"))
FORMULAS = [
    Formulas(
        name,
        config,
        plan,
        [(plan["batch"], plan["seq"]), *([(1, 5), (1, 300)] if plan["batch"] == 1 else [(2, 30), (7, 411)])],
    )
    for name, config, plan in MEASURED
]
