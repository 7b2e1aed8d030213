"""Steps of the first of several processes that share each product (``sharding: {tp: N}``), and what is refused.

With few tokens and a small vocabulary other moments than the loss are the peak. Vocabularies and MLPs are of sizes that
do not split evenly, too.
"""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

TINY = {"batch": 1, "seq": 2, "dtype": "float32"}
SOME = {"batch": 2, "seq": 17, "dtype": "float32"}
LORA = {"method": {"name": "lora", "r": 4, "target_modules": ["q_proj", "k_proj", "up_proj"]}}
ACCUMULATED = {**TINY, "gradient_accumulation_steps": 3}
LAYER = {"checkpointing": "layer"}
EIGHT = {"hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 8, "vocab_size": 100}
LATENT = {
    "model_type": "deepseek_v2",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "topk_method": "group_limited_greedy",
}
EXPERTS = {**EIGHT, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 128}


def split(tp: int, keys: dict[str, Any]) -> dict[str, Any]:
    """A plan of the first of so many processes."""
    return {**keys, "sharding": {"tp": tp}}


BOTH = {"name": "fsdp2", "world_size": 8, "tp": 2}


MEASURED: list[Case] = [
    (name, {"vocab_size": 100, **config}, split(tp, keys))
    for name, tp, config, keys in (
        ("few-tokens", 2, {}, TINY),
        ("many-rows", 2, {"vocab_size": 3001}, SOME),
        ("tied", 3, {"model_type": "qwen3", "vocab_size": 3001}, TINY),
        ("tied-loss", 3, {"model_type": "qwen3"}, SOME),
        ("four", 4, {"model_type": "qwen2"}, SOME),
        ("eight", 8, EIGHT, SOME),
        ("uneven-mlp", 3, {"num_key_value_heads": 3, "intermediate_size": 133}, SOME),
        ("biases", 2, {"model_type": "starcoder2"}, SOME),
        ("norms-of-heads", 3, {"model_type": "qwen3", "tie_word_embeddings": False}, {**SOME, "dtype": "bfloat16"}),
        ("gathered", 2, {"model_type": "olmo2"}, SOME),
        ("gathered-mlp", 2, {"model_type": "phi3", "pad_token_id": 0}, SOME),
        ("scaled", 2, {"model_type": "gemma"}, TINY),
        ("scaled-tied", 2, {"model_type": "gemma", "vocab_size": 3001}, TINY),
        ("scaled-windows", 2, {"model_type": "gemma3_text"}, {**SOME, **LAYER}),
        ("experts", 2, {"model_type": "mixtral", **EXPERTS}, SOME),
        ("experts-with-norms", 4, {"model_type": "qwen3_moe", **EXPERTS, "moe_intermediate_size": 64}, SOME),
        ("latent", 2, LATENT, SOME),
        ("latent-layer", 2, LATENT, {**TINY, **LAYER}),
        ("recorded", 2, {"model_type": "gpt_neox"}, SOME),
        ("lora", 2, {}, {**SOME, **LORA}),
        ("lora-bfloat16", 8, EIGHT, {**SOME, **LORA, "dtype": "bfloat16"}),
        ("lora-layer", 4, {"model_type": "qwen2"}, {**SOME, **LORA, **LAYER}),
        ("layer", 2, {"vocab_size": 3001}, {**SOME, **LAYER}),
        ("accumulated", 2, {}, ACCUMULATED),
        (
            "accumulated-tied",
            3,
            {"model_type": "qwen3", "vocab_size": 3001},
            {**TINY, "gradient_accumulation_steps": 2},
        ),
        ("eager", 2, {}, {**SOME, "attention": "eager", "keep_logits": False}),
        ("autocast", 2, {}, {**SOME, "autocast": "bfloat16"}),
        ("sgd", 2, {"vocab_size": 3001}, {**TINY, "optimizer": "sgd"}),
    )
]
PREFILLS: list[Case] = [
    (name, {"vocab_size": 100, **config}, split(tp, keys))
    for name, tp, config, keys in (
        ("few-tokens", 2, {"vocab_size": 20}, {"batch": 1, "seq": 3}),
        ("biases", 2, {"model_type": "starcoder2"}, {}),
        ("cache", 8, EIGHT, {"use_cache": True}),
        ("gathered", 2, {"model_type": "olmo2"}, {}),
    )
]
REFUSED: list[Refused] = [
    ({"model_type": family}, split(2, keys), says)
    for family, keys, says in (
        ("gpt2", {}, "`tp_size=2` was requested, but gpt2 has no `tp_plan` (transformers' words)"),
        ("llama", {"method": "ia3"}, "sharding: tp 2 has no rule with method: ia3; leave one of them out"),
        ("llama", {"optimizer": "sgd-momentum"}, "sharding: tp 2 has no rule with optimizer: sgd-momentum"),
        ("llama", {"trainer": "hf-trainer"}, "sharding: tp 2 has no rule with trainer: hf-trainer"),
    )
] + [
    ({"num_key_value_heads": 3}, split(4, TINY), "4 does not divide the model's 3 heads of keys and values"),
    (
        {},
        split(2, {**TINY, "method": {"name": "lora", "target_modules": ["o_proj"]}}),
        "LoRA on model.layers.0.self_attn.o_proj stops",
    ),
    (
        {},
        split(2, {**TINY, "method": {"name": "lora", "use_dora": True}}),
        "which the method adds; leave one of them out",
    ),
    ({}, {"sharding": {"tp": 2, "name": "fsdp1", "world_size": 4}}, "tp 2 has no rule with sharding fsdp1 yet"),
    (
        {},
        {"sharding": {"tp": 2, "name": "ddp", "world_size": 4}},
        "`Tensor/Context parallelism (tp/cp_size > 1) cannot",
    ),
    (
        {},
        {"sharding": {**BOTH, "groups": "accelerate"}},
        "accelerate 1.15 imports ReplicateParallel, which",
    ),
    (
        {},
        {"sharding": {**BOTH, "reshard_after_forward": 2}},
        "`Resharding to smaller mesh is not supported for DTensor",
    ),
    ({}, {"sharding": BOTH, "gradient_clipping": True}, "sharding: fsdp2 x tp 2 has no rule with gradient_clipping"),
    ({}, {"sharding": {"tp": 2, "world_size": 4}}, "world_size 4 is not the product of its sizes, 2; leave it out"),
    ({}, {"sharding": {"tp": 2, "sequence_parallel": True}}, "has not wired it up yet; leave it out"),
    ({}, {"sharding": {"tp": 2, "reshard_after_forward": True}}, "does not go with sharding"),
]
FORMULAS = [Formulas("tp", {"num_hidden_layers": 7}, split(2, {"dtype": "float32"}), [(2, 40), (3, 200)])]
