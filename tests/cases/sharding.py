"""Sharded steps, of which one process runs the first rank, and what has no rule beside them.

With few tokens and a small vocabulary the peak is where parameters are gathered or gradients reduced. Of seven equal
layers four are run, and gathers of the others are counted.
"""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused
from tests.cases.tensor_parallel import EIGHT, EXPERTS, LORA

LAYERS = {"num_hidden_layers": 7, "vocab_size": 100}
TINY = {"batch": 1, "seq": 2, "dtype": "float32"}
MANY = {"batch": 2, "seq": 33, "dtype": "float32"}
BF16 = {**TINY, "dtype": "bfloat16"}
LAYER = {"checkpointing": "layer"}
UNTIED = {"model_type": "gpt2", "vocab_size": 400, "tie_word_embeddings": False}
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


def sharded(keys: dict[str, Any], world: int, name: str = "fsdp2", **options: Any) -> dict[str, Any]:
    """A plan of the first of so many processes."""
    return {**keys, "sharding": {"name": name, "world_size": world, **options}}


AUTOCAST_ZERO = {"autocast": "bfloat16", "sharding": {"name": "zero1", "world_size": 2}}
MIXED = {"param_dtype": "bfloat16", "reduce_dtype": "float32"}
ACCELERATE = {"groups": "accelerate"}
HEAD = {"name": "lora", "target_modules": ["q_proj", "lm_head"]}
PROMPTS = {"name": "prompt_tuning", "num_virtual_tokens": 4}
ADAPTERS = {"name": "adaption_prompt", "adapter_len": 4, "adapter_layers": 3}
NF4 = {"dtype": "nf4", "compute_dtype": "bfloat16", "rest_dtype": "bfloat16"}
CHUNKS = {"num_output_chunks": 4, "keep_logits": False}
KEPT = {"reshard_after_forward": False}
ACCUMULATED = {**TINY, "gradient_accumulation_steps": 3}


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
MEASURED += [
    (name, {**LAYERS, **config}, sharded(keys, world, **options))
    for name, world, config, keys, options in (
        ("kept", 2, {}, TINY, {"reshard_after_forward": False}),
        ("freed", 3, {}, MANY, {"reshard_after_forward": True}),
        ("kept-in-parts", 8, {}, MANY, {"reshard_after_forward": 2}),
        ("kept-in-parts-layer", 4, {"vocab_size": 3000}, {**MANY, **LAYER}, {"reshard_after_forward": 2}),
        ("param-dtype", 3, {}, TINY, {"param_dtype": "bfloat16"}),
        ("mixed", 2, {}, TINY, MIXED),
        ("mixed-one", 1, {}, TINY, MIXED),
        ("mixed-many", 5, {"vocab_size": 3000}, MANY, MIXED),
        ("mixed-uneven", 7, {"tie_word_embeddings": True}, {**TINY, **LAYER}, MIXED),
        ("mixed-lora", 3, {}, {**MANY, "method": "lora"}, MIXED),
        ("cast-rotary", 3, {"model_type": "olmo2"}, MANY, {"param_dtype": "bfloat16"}),
        ("mixed-windows", 2, {"model_type": "gemma3_text"}, {**TINY, "seq": 8}, MIXED),
        ("reduced-narrow", 3, {}, TINY, {"reduce_dtype": "bfloat16"}),
        ("wide-reduction", 3, {}, BF16, {"reduce_dtype": "float32"}),
        ("accumulated", 3, {}, ACCUMULATED, {}),
        ("accumulated-synced", 3, {}, ACCUMULATED, {"sync_each_batch": True}),
        ("accumulated-mixed", 3, {}, ACCUMULATED, MIXED),
        ("accumulated-mixed-synced", 3, {}, ACCUMULATED, {**MIXED, "sync_each_batch": True}),
        ("accumulated-lora", 2, {}, {**ACCUMULATED, **LAYER, "method": "lora"}, MIXED),
        ("replicated", 6, {}, TINY, {"replicate": 2}),
        ("replicated-mixed", 8, {}, {**TINY, "seq": 8}, {**MIXED, "replicate": 4}),
        ("replicated-narrow", 8, {}, TINY, {"reduce_dtype": "bfloat16", "replicate": 2}),
        ("accelerate", 3, {}, TINY, ACCELERATE),
        ("accelerate-tied", 2, {"tie_word_embeddings": True}, TINY, ACCELERATE),
        ("accelerate-lora", 2, {}, {**MANY, **LAYER, "method": "lora"}, {**ACCELERATE, **MIXED}),
        ("accelerate-conv1d", 5, {"model_type": "gpt2"}, {**TINY, "seq": 8}, ACCELERATE),
        ("accelerate-conv1d-lora", 3, UNTIED, {**BF16, "batch": 3, "seq": 3, **LAYER, "method": "lora"}, ACCELERATE),
        ("accelerate-no-norm", 2, {"model_type": "opt"}, {**TINY, "seq": 8}, ACCELERATE),
        ("accelerate-fused-tied", 2, {"tie_word_embeddings": True}, {**TINY, "loss": "liger"}, ACCELERATE),
        ("accelerate-chunked", 3, {}, {**TINY, "loss": "chunked"}, ACCELERATE),
        ("accelerate-head", 2, {}, {**TINY, "method": HEAD}, ACCELERATE),
        ("accelerate-prompts", 2, {}, {**MANY, "method": PROMPTS}, ACCELERATE),
        ("accelerate-adapters", 2, {}, {**TINY, "method": ADAPTERS}, ACCELERATE),
        ("nf4", 3, {}, {**MANY, "dtype": "nf4", "method": "lora"}, ACCELERATE),
        ("nf4-mixed", 2, {}, {**MANY, **LAYER, **NF4, "method": "lora"}, {**ACCELERATE, **MIXED}),
        ("ia3", 3, {}, {**MANY, "method": "ia3"}, {}),
        ("boft", 3, {}, {**MANY, "method": "boft"}, {}),
        ("prefixes", 3, {}, {**TINY, "method": {"name": "prefix_tuning", "num_virtual_tokens": 4}}, {}),
        ("frozen", 3, {}, {**MANY, "method": {"name": "freeze", "top_layers": 2}}, {}),
        ("norms", 3, {}, {**MANY, "method": "ln_tuning"}, MIXED),
        ("lion", 3, {}, {**MANY, "optimizer": "lion"}, {}),
        ("foreach", 4, {}, {**MANY, "method": "lora", "optimizer": "adamw-foreach"}, ACCELERATE),
        ("fused", 2, {}, {**MANY, **LAYER, "optimizer": "adamw-fused"}, {**ACCELERATE, **MIXED}),
        ("reentrant", 2, {}, {**MANY, **LAYER, "use_reentrant": True}, {**ACCELERATE, **MIXED}),
        ("torchtune", 2, {}, {**MANY, **LAYER, **CHUNKS, "loss": "ce-chunked-output"}, {"reshard_after_forward": True}),
        ("torchtune-lora", 3, {}, {**MANY, **CHUNKS, "loss": "linear-cross-entropy", "method": "lora"}, KEPT),
        ("cut-loss", 3, {"vocab_size": 300}, {**MANY, "loss": "cce"}, {**ACCELERATE, **MIXED}),
        ("clipped", 3, {}, {**MANY, "gradient_clipping": True}, {}),
        ("packed", 3, {}, {**MANY, "packing": True}, {}),
        ("mlp-chunks", 3, {}, {**MANY, "mlp_chunks": 2}, {}),
        ("products", 3, {}, {**MANY, "checkpointing": "matmul"}, {}),
        ("attention-again", 3, {}, {**MANY, "checkpointing": "attention"}, MIXED),
        ("cached", 3, {}, {**MANY, "use_cache": True}, {}),
        ("noise", 3, {}, {**MANY, "neftune_noise_alpha": 5}, {}),
        ("outputs-fp32", 3, {}, {**MANY, "convert_outputs_to_fp32": True, "autocast": "bfloat16"}, {}),
    )
]
PREPARED = {"autocast": "bfloat16", "trainer": "hf-trainer", "batch": 1, "attention": "eager"}
"""Under transformers' Trainer accelerate's ``prepare_model`` shards the model, whose 16-bit parameters it casts."""
MEASURED += [
    (
        f"prepared-{name}",
        {**LAYERS, **config},
        sharded({**PREPARED, "seq": 5, "dtype": "bfloat16", **keys}, world, way, **options),
    )
    for name, way, world, config, keys, options in (
        ("full", "fsdp2", 3, {}, {}, {}),
        ("full-fsdp1", "fsdp1", 3, {}, {}, {}),
        ("tied", "fsdp2", 2, {"tie_word_embeddings": True}, {"dtype": "float16"}, {"reshard_after_forward": False}),
        ("replicated", "hsdp", 4, {}, LAYER, {"replicate": 2}),
        ("lora", "fsdp2", 2, {}, {"method": {"name": "lora", "adapter_dtype": "bfloat16"}}, {}),
        ("lora-fsdp1", "fsdp1", 2, {}, {"method": {"name": "lora", "adapter_dtype": "bfloat16"}}, {}),
        ("freeze", "fsdp2", 3, {}, {"method": {"name": "freeze", "top_layers": 2}}, {}),
        ("freeze-fsdp1", "fsdp1", 3, {}, {"method": {"name": "freeze", "top_layers": 2}}, {}),
        ("bitfit", "fsdp2", 3, {"model_type": "qwen2"}, {"method": "bitfit"}, {}),
    )
]
OFFLOAD = {"cpu_offload": True}
MEASURED += [
    (f"offload-{name}", {**LAYERS, **config}, sharded(keys, world, **OFFLOAD, **options))
    for name, world, config, keys, options in (
        ("plain", 3, {}, TINY, {}),
        ("one-mixed", 1, {}, TINY, MIXED),
        ("mixed", 2, {}, MANY, MIXED),
        ("kept-in-parts-mixed", 4, {"vocab_size": 3000}, {**MANY, **LAYER}, {**MIXED, "reshard_after_forward": 2}),
        ("accumulated-synced", 3, {}, {**ACCUMULATED, "gradient_clipping": True}, {"sync_each_batch": True}),
        ("replicated-narrow", 8, {}, TINY, {"reduce_dtype": "bfloat16", "replicate": 2}),
        ("nf4", 3, {}, {**MANY, "dtype": "nf4", "method": "lora"}, ACCELERATE),
    )
]
MEASURED += [
    (f"tp-{name}", {**LAYERS, **config}, sharded(keys, world, tp=tp, **options))
    for name, world, tp, config, keys, options in (
        ("many-rows", 4, 2, {"vocab_size": 3001}, MANY, {}),
        ("one", 2, 2, {"vocab_size": 3001}, TINY, MIXED),
        ("many-processes", 1024, 8, EIGHT, TINY, {}),
        ("tied", 6, 3, {"model_type": "qwen3", "vocab_size": 3001}, ACCUMULATED, {"replicate": 2}),
        ("biases", 6, 2, {"model_type": "starcoder2"}, MANY, {}),
        ("scaled-uneven", 14, 2, {"model_type": "gemma", "vocab_size": 1001}, ACCUMULATED, MIXED),
        ("experts", 12, 4, {"model_type": "qwen3_moe", **EXPERTS}, {**TINY, **LAYER}, MIXED),
        ("lora", 18, 3, {"model_type": "qwen3"}, {**MANY, **LORA, "dtype": "bfloat16"}, {"replicate": 3}),
        ("lora-layer", 12, 4, {"model_type": "qwen2"}, {**MANY, **LORA, **LAYER}, {"reduce_dtype": "bfloat16"}),
    )
]
PLANNED = {"groups": "transformers"}
TIED = {"tie_word_embeddings": True}
MEASURED += [
    (f"planned-{name}", {**LAYERS, **config}, sharded(keys, world, **PLANNED, **options))
    for name, world, config, keys, options in (
        ("mixed", 2, {}, TINY, MIXED),
        ("tied", 3, TIED, TINY, {}),
        ("tied-accumulated", 4, {**TIED, "vocab_size": 3001}, ACCUMULATED, {**MIXED, "replicate": 2}),
        ("tied-no-head", 3, {"model_type": "opt"}, TINY, {}),
        ("no-head", 3, {"model_type": "stablelm"}, TINY, {}),
        ("layers-alone", 3, {"model_type": "gpt_neox"}, TINY, {}),
        ("no-norm", 2, {"model_type": "lfm2"}, TINY, {}),
        ("lora", 3, {}, {**MANY, **LORA}, {}),
        ("lora-layer", 2, {"model_type": "qwen2"}, {**MANY, **LORA, **LAYER, "dtype": "bfloat16"}, MIXED),
        ("tp-many-rows", 4, {"vocab_size": 3001}, {**MANY, "seq": 17}, {"tp": 2}),
        ("tp-tied", 6, {"model_type": "qwen3", "vocab_size": 3001}, MANY, {"tp": 3}),
    )
]
VIEWS = {"gradient_as_bucket_view": True}
DEEP = {"num_hidden_layers": 24, "vocab_size": 20, "intermediate_size": 176}
PACKED = {"batch": 1, "seq": 2, "method": "lora", "weight_group_size": 8, **LAYER}
"""Beside ``DEEP`` the peak is where DDP broadcasts what its layers have packed in buffers."""
NARROW = {"vocab_size": 4000, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
OFT = {"name": "oft", "num_cayley_neumann_terms": 1, "modules_to_save": ["lm_head"]}
"""Its rotations are those of the identity, and get no gradient."""
MEASURED += [
    (f"ddp-{name}", {**LAYERS, **config}, sharded(keys, world, "ddp", **options))
    for name, world, config, keys, options in (
        ("one", 1, {}, TINY, {}),
        ("many", 1000, {"vocab_size": 3000}, MANY, {"bucket_cap_mb": 1}),
        ("views", 3, {}, BF16, VIEWS),
        ("views-tied-layer", 7, {"tie_word_embeddings": True}, {**MANY, **LAYER}, VIEWS),
        ("views-lora", 2, {}, {**BF16, "method": {"name": "lora", "modules_to_save": ["lm_head"]}}, VIEWS),
        ("views-reentrant", 2, {}, {**MANY, **LAYER, "use_reentrant": True}, VIEWS),
        ("conv1d", 5, {"model_type": "gpt2"}, {**TINY, "seq": 8}, {}),
        ("experts", 5, {"model_type": "mixtral"}, {**TINY, "seq": 8}, VIEWS),
        ("static-unused", 2, {}, {**BF16, "method": OFT}, {"static_graph": True}),
        ("unused", 2, {}, {**BF16, "method": OFT}, {"find_unused_parameters": True}),
        ("unused-none", 3, {"vocab_size": 3000}, MANY, {"find_unused_parameters": True}),
        ("unused-loss-alone", 3, {}, {**BF16, "keep_logits": False}, {"find_unused_parameters": True, **VIEWS}),
        ("unused-outputs", 3, NARROW, {**MANY, "attention_mask": True}, {"find_unused_parameters": True}),
        ("unused-static", 3, {}, TINY, {"find_unused_parameters": True, "static_graph": True}),
        ("unused-accumulated", 3, {}, ACCUMULATED, {"find_unused_parameters": True, **VIEWS}),
        ("buffers", 4, {}, {**TINY, "method": {"name": "vera", "r": 128}}, VIEWS),
        ("packed", 4, DEEP, {**PACKED, "dtype": "gptq"}, VIEWS),
        ("packed-awq", 4, DEEP, {**PACKED, "dtype": "awq"}, {}),
        ("adalora", 2, {}, {**MANY, "method": {"name": "adalora", "total_step": 100}}, VIEWS),
        ("clipped", 3, {}, {**TINY, "gradient_clipping": True}, VIEWS),
        ("accumulated", 3, {}, ACCUMULATED, {}),
        ("accumulated-views", 3, {}, ACCUMULATED, VIEWS),
        ("accumulated-twice-views", 3, {}, {**ACCUMULATED, "gradient_accumulation_steps": 2}, VIEWS),
        ("accumulated-synced-views", 3, {}, ACCUMULATED, {**VIEWS, "sync_each_batch": True}),
    )
]
CALL = {"max_new_tokens": 4}
INFERENCES: list[Case] = [
    (name, {**LAYERS, **config}, sharded({"task": "infer", **keys}, world, way, **options))
    for name, way, world, config, keys, options in (
        ("freed", "fsdp2", 3, {"vocab_size": 3000, **TIED}, {"use_cache": True}, {"reshard_after_forward": True}),
        ("kept", "fsdp2", 3, {}, {}, KEPT),
        ("accelerate", "fsdp2", 3, {"vocab_size": 3000}, {"use_cache": True}, {**ACCELERATE, **MIXED}),
        ("planned", "fsdp2", 3, TIED, {}, PLANNED),
        ("replicated", "hsdp", 4, {"vocab_size": 300}, {"previous_output": True}, {"replicate": 2}),
        ("lora", "fsdp2", 3, {}, {"method": "lora", "autocast": "bfloat16"}, {}),
        ("conv1d", "fsdp2", 5, {"model_type": "gpt2"}, {"attention_mask": True}, {}),
        ("offload", "fsdp2", 3, {}, {}, OFFLOAD),
        ("tp", "hsdp", 8, TIED, {}, {"tp": 2, "replicate": 2}),
        ("fsdp1", "fsdp1", 3, {"vocab_size": 3000, **TIED}, TINY, {}),
        ("fsdp1-kept-mixed", "fsdp1", 4, {}, {"use_cache": True}, {**KEPT, **MIXED, "replicate": 2}),
        ("ddp", "ddp", 5, {}, {"method": "lora", "use_cache": True}, VIEWS),
    )
]
"""Forward passes. What is gathered and not freed is kept from one to the next."""
CALLS: list[Case] = [
    (name, {**LAYERS, **config}, {"task": "infer", **keys, "sharding": block})
    for name, config, keys, block in (
        ("fsdp2", {"vocab_size": 300}, {**TINY, "generate": CALL}, {"name": "fsdp2", "world_size": 3}),
        (
            "beams-windows",
            {"model_type": "gemma3_text"},
            {"generate": {**CALL, "num_beams": 2}},
            {"name": "fsdp2", "world_size": 5, **ACCELERATE},
        ),
        (
            "static",
            TIED,
            {"generate": {**CALL, "cache_implementation": "static"}},
            {"name": "fsdp2", "world_size": 4, "tp": 2, **KEPT},
        ),
        ("planned", TIED, {"generate": CALL}, {"name": "fsdp2", "world_size": 2, **PLANNED}),
        ("tp", {"vocab_size": 3001}, {**TINY, "generate": CALL}, {"tp": 2}),
    )
]
REFUSED: list[Refused] = [
    ({}, {"sharding": block}, says)
    for block, says in (
        ("fsdp2", "sharding has no world_size; add the number of processes"),
        ({"name": "fsdp2", "world_size": 9, "replicate": 2}, "world_size 9 is no multiple of replicate 2; take 2 or"),
        ({"name": "fsdp2", "world_size": 8, "zero": 2}, "unknown key 'sharding.zero'"),
        ({"name": "fsdp2", "world_size": 8, "static_graph": True}, "static_graph True does not go with sharding fsdp2"),
        ({"world_size": 8}, "sharding has no name; add one"),
        ({"name": "hsdp", "world_size": 4}, "sharding hsdp has no replicate; add"),
        ({"name": "fsdp3", "world_size": 4}, "sharding.name: input should be"),
        ({"name": "fsdp2", "world_size": 0}, "input should be greater than or equal to 1"),
        ({"cp": 2}, "cp 2: context parallelism has no rule, since no run of it was measured; leave it out, and take"),
        ({"pp": 4}, "pipeline parallelism has no rule, since no run of it was measured; leave it out, and take"),
        ({"ep": 4}, "expert parallelism has no rule, since no run of it was measured; leave it out, and take"),
        (
            {"name": "fsdp2", "world_size": 8, "reshard_after_forward": 3},
            "3 does not divide the 8 processes that share",
        ),
        ({"name": "hsdp", "world_size": 8, "replicate": 2, "reshard_after_forward": 8}, "should be a factor of 4"),
        ({"name": "fsdp2", "world_size": 8, "reshard_after_forward": 0}, "should be a factor of"),
        ({"name": "ddp", "world_size": 8, "replicate": 2}, "replicate 2 does not go with ddp, whose processes are all"),
        ({"name": "zero3", "world_size": 8, "replicate": 2}, "replicate 2 does not go with zero3"),
        ({"name": "fsdp2", "world_size": 4, "ranks": 2}, "unknown key 'sharding.ranks'"),
        ({"name": "zero2", "world_size": 4, "reshard_after_forward": True}, "does not go with sharding zero2"),
        ({"name": "zero2", "world_size": 4, "tp": 2}, "sharding.tp 2 has no rule with sharding zero2 yet"),
        ({"name": "zero1", "world_size": 4, "reduce_bucket_size": 0}, "sharding.reduce_bucket_size"),
        ({"name": "zero1", "world_size": 4, "allgather_bucket_size": 7}, "is odd; DeepSpeed takes even ones"),
        ({"name": "fsdp2", "world_size": 4, "offload_optimizer": "cpu"}, "offload_optimizer 'cpu' does not go with"),
        (["fsdp2"], "sharding must be a block such as {name: fsdp2, world_size: 8}"),
    )
] + [
    ({}, sharded(keys, 2), says)
    for keys, says in (
        ({"method": "mezo"}, "sharding: fsdp2 has no rule with method: mezo; leave one of them out"),
        (
            {"dtype": "nf4", "method": "lora"},
            "cannot gather packed weights, which are no floats; set groups: accelerate",
        ),
        ({"transformers": "4.57"}, "has no rule with transformers: 4.57"),
        ({"optimizer": "adamw-8bit"}, "has no rule with optimizer: adamw-8bit"),
        ({"run": {"eval_samples": 9}}, "eval_samples has no rule with sharding: fsdp2; leave eval_samples out"),
    )
]
REFUSED += [
    ({}, sharded({"task": "infer", **keys}, world, name), says)
    for name, world, keys, says in (
        ("zero2", 2, {}, "zero2 does not go with task: infer (`ZeRO inference only makes sense with ZeRO Stage 3`"),
        ("zero3", 2, {}, "zero3 has no rule with task: infer; take fsdp2"),
        ("fsdp2", 1, {}, "where one process has all parameters (`Inference tensors do not track version counter`"),
        ("fsdp1", 2, {"generate": CALL}, "parameters are in parts (`'weight' must be 2-D`, PyTorch's words); take"),
        ("ddp", 2, {"generate": CALL}, "generate, which DistributedDataParallel has not; leave sharding out"),
    )
]
REFUSED.append(
    (
        {"model_type": "qwen2"},
        sharded({"dtype": "nf4", "method": "lora"}, 2, **ACCELERATE),
        "q_proj.bias, which bitsandbytes casts to float32; give compute_dtype, rest_dtype and sharding.param_dtype one",
    )
)
REFUSED += [
    (
        {},
        sharded({"method": "lora", "loss": loss, "dtype": "bfloat16"}, 2, **ACCELERATE),
        f"loss {loss} multiplies by lm_head's weight itself, of which the process has a part",
    )
    for loss in ("cce", "liger")
]
REFUSED += [
    ({"model_type": family}, sharded(keys, world, **PLANNED, **options), says)
    for family, world, keys, options, says in (
        ("gpt2", 2, {}, {}, "no rule with gpt2, whose layers transformers' fsdp_plan does not name"),
        ("llama", 1, {}, {}, "groups transformers shares nothing with one process"),
        ("llama", 2, {}, {"cpu_offload": True}, "groups transformers has no rule with cpu_offload"),
        ("llama", 2, {}, {"reshard_after_forward": True}, "whose plan says what is kept; leave it out"),
        ("llama", 2, {}, {"param_dtype": "bfloat16"}, "takes param_dtype: bfloat16 with reduce_dtype: float32"),
        ("llama", 4, LORA, {"tp": 2}, "which stops in PEFT 0.21 with a RuntimeError of its sizes"),
        ("llama", 2, {"method": "ia3"}, {}, "sharding: fsdp2 has no rule with method: ia3"),
        ("llama", 2, {"method": {"name": "lora", "use_dora": True}}, {}, "no rule with what the method adds"),
    )
]
ZERO3 = {"sharding": {"name": "zero3", "world_size": 2}}
REFUSED += [
    ({"model_type": "mixtral"}, ZERO3, "zero3 has no rule with mixtral, which has experts"),
    ({}, {**ZERO3, "method": {"name": "lora", "use_dora": True}}, "zero3 has no rule with what the method makes of"),
    ({}, {**ZERO3, "method": {"name": "lora", "target_modules": ["embed_tokens"]}}, "take LoRA of linear layers"),
    ({}, {"sharding": {**ZERO3["sharding"], "allgather_bucket_size": 8}}, "does not go with sharding zero3"),
]
REFUSED.append(({}, AUTOCAST_ZERO, "which DeepSpeed switches off; take dtype: bfloat16"))
REFUSED += [
    ({}, sharded(keys, 2, "ddp", **options), says)
    for keys, options, says in (
        ({}, {"reshard_after_forward": True}, "reshard_after_forward True does not go with sharding ddp"),
        ({}, {"bucket_cap_mb": 0}, "input should be greater than or equal to 1"),
        ({"method": OFT}, {}, "oft_R.weight gets no gradient (`Expected to have finished reduction in the prior"),
        ({"dtype": "float8", "method": "lora"}, {}, "sharding: ddp does not go with dtype: float8, whose weights"),
        ({"method": "mezo", "optimizer": "sgd"}, {}, "sharding: ddp has no rule with method: mezo, which has no"),
        ({"optimizer": "lomo"}, {}, "sharding: ddp does not go with optimizer: lomo, which applies gradients before"),
        (
            {**LAYER, "use_reentrant": True},
            {"find_unused_parameters": True},
            "does not go with reentrant checkpoints, in whose backward a parameter is ready twice",
        ),
        (
            {"device": "rtx-4090", "dtype": "gptq", "method": "lora"},
            {},
            "has no rule with dtype: gptq on runtime: torch",
        ),
        (
            {"gradient_accumulation_steps": 2},
            {"static_graph": True},
            "static_graph: true does not go with gradient_accumulation_steps: 2, whose first backward pass",
        ),
    )
]
FORMULAS = [
    Formulas(name, LAYERS, {"dtype": "float32", **LAYER, "sharding": block}, [(2, 40), (3, 200), (5, 90)])
    for name, block in (
        ("fsdp2", {"name": "fsdp2", "world_size": 3}),
        ("ddp", {"name": "ddp", "world_size": 3, **VIEWS}),
        # Which of several ranks is the largest depends on the activations, so gradients are not one formula.
        ("zero2", {"name": "zero2", "world_size": 1, "reduce_bucket_size": 9_000}),
        ("zero3", {"name": "zero3", "world_size": 3, "stage3_prefetch_bucket_size": 9_000}),
    )
]
