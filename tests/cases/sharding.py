"""Sharded steps, of which one process runs the first rank, and what has no rule beside them.

With few tokens and a small vocabulary the peak is where parameters are gathered or gradients reduced. Of seven equal
layers four are run, and gathers of the others are counted.
"""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

LAYERS = {"num_hidden_layers": 7, "vocab_size": 100}
TINY = {"batch": 1, "seq": 2, "dtype": "float32"}
MANY = {"batch": 2, "seq": 33, "dtype": "float32"}
BF16 = {**TINY, "dtype": "bfloat16"}
LAYER = {"checkpointing": "layer"}
GEMMA_3N = {
    "model_type": "gemma3n_text",
    "hidden_size": 64,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "num_kv_shared_layers": 4,
    "layer_types": ["full_attention"] * 10,
    "vocab_size_per_layer_input": 100,
    "hidden_size_per_layer_input": 16,
    "activation_sparsity_pattern": [0.0] * 10,
}
"""Its layers have two inputs with gradients."""


def sharded(keys: dict[str, Any], world: int) -> dict[str, Any]:
    """A plan of the first of so many processes."""
    return {**keys, "sharding": {"name": "fsdp2", "world_size": world}}


MEASURED: list[Case] = [
    (name, {**LAYERS, **config}, sharded(keys, world))
    for name, world, config, keys in (
        ("one", 1, {}, TINY),
        ("tied", 2, {"tie_word_embeddings": True}, TINY),
        ("uneven", 7, {}, TINY),
        ("fewer-rows-than-ranks", 160, {}, BF16),
        ("activations", 3, {"vocab_size": 3000}, MANY),
        ("biases", 5, {"model_type": "qwen2"}, {**TINY, "seq": 8}),
        ("conv1d", 5, {"model_type": "gpt2"}, {**TINY, "seq": 8}),
        ("windows", 2, {"model_type": "gemma3_text"}, {**TINY, "seq": 8}),
        ("experts", 5, {"model_type": "mixtral"}, {**TINY, "seq": 8}),
        ("two-inputs", 2, GEMMA_3N, {**TINY, "seq": 4}),
        ("momentum", 7, {}, {**TINY, "optimizer": "sgd-momentum"}),
        ("two-dtypes", 2, {}, {**BF16, "method": "lora"}),
        ("lora-layer", 7, {}, {**TINY, "seq": 20, "method": "lora", **LAYER}),
        ("layer", 2, {"vocab_size": 3000}, {**MANY, **LAYER}),
        ("autocast", 2, {}, {**MANY, "autocast": "bfloat16"}),
        ("eager", 64, {}, {**MANY, "attention": "eager", "keep_logits": False}),
    )
]
REFUSED: list[Refused] = [
    ({}, {"sharding": block}, says)
    for block, says in (
        ("fsdp2", "sharding has no world_size; add the number of processes"),
        ({"world_size": 8}, "sharding has no name; add one"),
        ({"name": "hsdp", "world_size": 4}, "sharding hsdp has no rules yet; take fsdp2"),
        ({"name": "fsdp3", "world_size": 4}, "sharding.name: input should be 'fsdp2', not 'fsdp3'"),
        ({"name": "fsdp2", "world_size": 0}, "input should be greater than or equal to 1"),
        ({"name": "fsdp2", "world_size": 4, "tp": 2}, "sharding.tp 2 has no rule yet; leave it out"),
        ({"name": "fsdp2", "world_size": 4, "ranks": 2}, "unknown key 'sharding.ranks'"),
        (["fsdp2"], "sharding must be a block such as {name: fsdp2, world_size: 8}"),
    )
] + [
    ({}, sharded(keys, 2), says)
    for keys, says in (
        ({"method": "ia3"}, "sharding: fsdp2 has no rule with method: ia3; leave one of them out"),
        ({"device": "rtx-4090"}, "sharding: fsdp2 has no rule with runtime: torch-cuda"),
        ({"gradient_accumulation_steps": 2}, "has no rule with gradient_accumulation_steps: 2"),
        ({"transformers": "4.57"}, "has no rule with transformers: 4.57"),
        ({"run": {"eval_samples": 9}}, "has no rule with run; leave one of them out"),
        ({"task": "infer"}, "sharding belongs to task: train, not infer"),
    )
]
FORMULAS = [Formulas("fsdp2", LAYERS, sharded({"dtype": "float32", **LAYER}, 3), [(2, 40), (3, 200), (5, 90)])]
