"""Small models of every family, and the measured steps of each under many settings. The tests and
``docs/make_accuracy.py`` share them. Sizes are odd on purpose; no case is a size of a real model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 172},
    "mistral": {
        "hidden_size": 80,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "intermediate_size": 133,
        "sliding_window": 24,
    },
    "qwen2": {"hidden_size": 112, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 260},
    "qwen3": {
        "hidden_size": 72,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "intermediate_size": 190,
        "tie_word_embeddings": True,
    },
}
TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 104,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
"""A whole config.json, of a model that takes no time."""
METHODS: dict[str, Any] = {
    "full": "full",
    "lora": {"name": "lora", "r": 5, "target_modules": ["q_proj", "v_proj"]},
    "lora-all-dropout": {"name": "lora", "r": 3, "target_modules": "all-linear", "lora_dropout": 0.1},
    "ia3": {"name": "ia3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
}
_SHAPES = [(1, 1), (1, 31), (2, 17), (3, 45), (2, 24), (4, 1), (1, 23), (2, 70)]


def systematic() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Families x methods x dtypes x attention x checkpointing: (name, config keys, plan keys)."""
    grid = itertools.product(
        FAMILIES, METHODS, ("float32", "bfloat16", "float16"), ("sdpa", "eager"), ("none", "layer")
    )
    for number, (family, method, dtype, attention, checkpointing) in enumerate(grid):
        batch, seq = _SHAPES[number % len(_SHAPES)]
        config = {"model_type": family, "num_hidden_layers": 2 + number % 4, "vocab_size": 611 + number % 3}
        plan = {
            "batch": batch,
            "seq": seq,
            "dtype": dtype,
            "attention": attention,
            "checkpointing": checkpointing,
            "method": METHODS[method],
        }
        yield f"{family}-{method}-{dtype}-{attention}-{checkpointing}-b{batch}s{seq}", config, plan


def special() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """One case per option that the grid leaves at its default."""
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    lora = METHODS["lora"]
    rows: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("windows", {"model_type": "qwen2", **window, "num_hidden_layers": 5}, {}),
        ("windows-eager", {"model_type": "qwen3", **window}, {"attention": "eager", "method": lora}),
        ("windows-not-reached", {"model_type": "qwen2", **window, "sliding_window": 64}, {"method": "ia3"}),
        ("mha", {"num_key_value_heads": 6}, {"attention": "eager"}),
        ("mqa", {"num_key_value_heads": 1}, {"attention": "eager", "method": lora}),
        ("one-head", {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 48}, {"attention": "eager"}),
        ("biases", {"attention_bias": True, "mlp_bias": True}, {}),
        ("biases-lora-all", {"attention_bias": True, "mlp_bias": True}, {"method": {**lora, "bias": "all"}}),
        ("biases-lora-only", {"model_type": "qwen2"}, {"method": {**lora, "bias": "lora_only"}}),
        ("lora-bias", {}, {"method": {**lora, "lora_bias": True}}),
        ("tied-sgd", {"tie_word_embeddings": True}, {"optimizer": "sgd", "batch": 1, "seq": 3}),
        (
            "tied-lora-head",
            {"tie_word_embeddings": True},
            {"method": {**lora, "target_modules": ["q_proj", "lm_head"]}},
        ),
        ("untied-lora-head", {}, {"dtype": "float16", "method": {**lora, "target_modules": ["lm_head"]}}),
        ("lora-embedding", {}, {"method": {**lora, "target_modules": ["embed_tokens", "v_proj"]}}),
        ("save-head", {}, {"dtype": "bfloat16", "method": {**lora, "modules_to_save": ["lm_head"]}}),
        ("save-embedding", {}, {"method": {**lora, "modules_to_save": ["embed_tokens", "lm_head"]}}),
        ("save-norm", {}, {"method": {**lora, "modules_to_save": ["norm"]}}),
        ("save-tied", {"tie_word_embeddings": True}, {"method": {**lora, "modules_to_save": ["embed_tokens"]}}),
        ("some-layers", {"num_hidden_layers": 7}, {"method": {**lora, "layers_to_transform": [2, 3]}}),
        ("last-layer", {"num_hidden_layers": 6}, {"method": {**lora, "layers_to_transform": 5}, "dtype": "bfloat16"}),
        ("rank-pattern", {}, {"method": {**lora, "rank_pattern": {"v_proj": 9}}}),
        ("rslora", {}, {"method": {**lora, "use_rslora": True}}),
        ("regex", {"num_hidden_layers": 5}, {"method": {**lora, "target_modules": r".*\.[024]\..*(q|up)_proj"}}),
        ("adapter-bf16", {}, {"dtype": "bfloat16", "method": {**lora, "adapter_dtype": "bfloat16"}}),
        ("adapter-fp16-ia3", {}, {"dtype": "float16", "method": {"name": "ia3", "adapter_dtype": "float16"}}),
        ("ia3-save-head", {}, {"dtype": "float16", "method": {"name": "ia3", "modules_to_save": ["lm_head"]}}),
        ("autocast-bf16", {}, {"autocast": "bfloat16"}),
        ("autocast-bf16-lora", {}, {"autocast": "bfloat16", "method": METHODS["lora-all-dropout"]}),
        ("autocast-fp16", {"attention_bias": True}, {"autocast": "float16", "attention": "eager"}),
        ("autocast-fp16-ia3", {}, {"autocast": "float16", "method": "ia3"}),
        ("autocast-checkpointing", {"num_hidden_layers": 5}, {"autocast": "float16", "checkpointing": "layer"}),
        ("let-logits-go", {}, {"keep_logits": False, "dtype": "bfloat16"}),
        (
            "drop-output",
            {"vocab_size": 9000},
            {"drop_output_before_step": True, "optimizer": "adamw-foreach", "seq": 9},
        ),
        (
            "drop-output-micro-step",
            {"vocab_size": 9000},
            {"drop_output_before_step": True, "gradient_accumulation_steps": 2, "use_cache": True, "method": lora},
        ),
        ("let-logits-go-lora", {}, {"keep_logits": False, "dtype": "float16", "method": lora}),
        ("sgd", {}, {"optimizer": "sgd", "batch": 1, "seq": 4}),
        ("sgd-momentum", {"num_hidden_layers": 9}, {"optimizer": "sgd-momentum", "batch": 1, "seq": 4}),
        ("accumulation", {}, {"gradient_accumulation_steps": 2}),
        ("accumulation-lora", {}, {"gradient_accumulation_steps": 3, "method": lora, "checkpointing": "layer"}),
        (
            "accumulation-reentrant",
            {},
            {
                "gradient_accumulation_steps": 2,
                "method": {"name": "lora"},
                "checkpointing": "layer",
                "use_reentrant": True,
            },
        ),
        ("accumulation-tied", {"tie_word_embeddings": True}, {"gradient_accumulation_steps": 4, "dtype": "float16"}),
        ("cache", {}, {"use_cache": True}),
        ("cache-eager-lora", {"num_key_value_heads": 1}, {"use_cache": True, "attention": "eager", "method": lora}),
        ("cache-checkpointing", {}, {"use_cache": True, "checkpointing": "layer"}),
        ("clipping", {}, {"gradient_clipping": True, "batch": 1, "seq": 2}),
        ("clipping-fused", {}, {"gradient_clipping": True, "optimizer": "adamw-fused", "batch": 1, "seq": 1}),
        ("clipping-lora", {}, {"gradient_clipping": True, "dtype": "bfloat16", "method": lora, "seq": 2}),
        ("previous-output", {"vocab_size": 9000}, {"previous_output": True, "keep_logits": True}),
        ("previous-output-cache", {}, {"previous_output": True, "use_cache": True, "method": lora}),
        ("previous-output-deep", {"num_hidden_layers": 7}, {"previous_output": True, "batch": 1, "seq": 12}),
        ("previous-output-deep-lora", {"num_hidden_layers": 7}, {"previous_output": True, "method": lora}),
        ("previous-loss", {}, {"previous_output": True, "keep_logits": False, "checkpointing": "layer"}),
        ("previous-micro-step", {}, {"previous_output": True, "gradient_accumulation_steps": 2, "method": lora}),
        ("padding", {}, {"attention_mask": True}),
        ("padding-eager", {}, {"attention_mask": True, "attention": "eager", "dtype": "float16"}),
        ("padding-one-token", {}, {"attention_mask": True, "batch": 3, "seq": 1}),
        ("padding-window", {"model_type": "mistral"}, {"attention_mask": True, "batch": 2, "seq": 40}),
        ("attention-dropout", {"attention_dropout": 0.1}, {"attention": "eager"}),
        (
            "attention-dropout-lora",
            {"attention_dropout": 0.2},
            {"attention": "eager", "method": lora, "dtype": "float16"},
        ),
        ("wide-heads", {"model_type": "qwen3", "head_dim": 288, "num_hidden_layers": 2}, {"method": lora}),
        ("gelu", {"hidden_act": "gelu"}, {}),
        ("gelu-tanh", {"hidden_act": "gelu_pytorch_tanh"}, {"method": lora, "dtype": "bfloat16"}),
        ("long", {}, {"batch": 1, "seq": 800, "dtype": "float32"}),
        ("long-lora", {}, {"batch": 1, "seq": 300, "dtype": "float16", "method": lora}),
        ("small-vocabulary", {"vocab_size": 19}, {"batch": 2, "seq": 200, "method": lora}),
        ("small-vocabulary-eager", {"vocab_size": 19}, {"batch": 2, "seq": 90, "attention": "eager"}),
        ("deep", {"num_hidden_layers": 12}, {"method": METHODS["lora-all-dropout"]}),
        ("deep-high-rank", {"num_hidden_layers": 8}, {"method": {**lora, "r": 64}, "batch": 1, "seq": 2}),
        (
            "rope-scaling",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            {"method": lora},
        ),
    ]
    for name, config, plan in rows:
        yield f"special-{name}", config, {"batch": 2, "seq": 33, "dtype": "float32", **plan}


def write_config(folder: Path, config: dict[str, Any]) -> str:
    """Write a config.json of a small model; returns the folder's path."""
    family = config.get("model_type", "llama")
    full = {
        "model_type": family,
        "vocab_size": 611,
        "num_hidden_layers": 3,
        "max_position_embeddings": 2048,
        **FAMILIES.get(family, FAMILIES["llama"]),
        **config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(full))
    return str(folder)


def all_cases() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every measured case."""
    return [*systematic(), *special()]
