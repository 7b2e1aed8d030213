"""FSDP1's steps: as in ``sharding.py``, with units that mix what trains and what does not, and flat parameters padded
for their alignment and for the world.
"""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Refused
from tests.cases.sharding import ACCUMULATED, BF16, GEMMA_3N, LAYER, LAYERS, MANY, MIXED, TINY, sharded

SYNCED = {"sync_each_batch": True}
KEPT = {"reshard_after_forward": False}
LORA = {**TINY, "method": "lora"}
OFFLOAD = {"cpu_offload": True}
ODD = {"hidden_size": 90, "num_attention_heads": 5, "num_key_value_heads": 5, "intermediate_size": 33}
PEFT = {"groups": "transformers"}
QLORA = {
    **TINY,
    "dtype": "nf4",
    "rest_dtype": "bfloat16",
    "compute_dtype": "bfloat16",
    "quant_storage": "bfloat16",
    "method": "lora",
}
ALL = {"name": "lora", "target_modules": "all-linear"}
SOME = {"name": "lora", "layers_to_transform": [3]}


def _flattened(keys: dict[str, Any], world: int, **options: Any) -> dict[str, Any]:
    return sharded(keys, world, name="fsdp1", **options)


MEASURED: list[Case] = [
    (name, {**LAYERS, **config}, _flattened(keys, world, **options))
    for name, world, config, keys, options in (
        ("one", 1, {}, TINY, {}),
        ("one-mixed", 1, {}, TINY, MIXED),
        ("one-accumulated", 1, {}, ACCUMULATED, {**MIXED, **SYNCED}),
        ("tied", 7, {"tie_word_embeddings": True}, TINY, {}),
        ("unaligned", 6, {"model_type": "gpt2", "hidden_size": 90, "num_attention_heads": 6}, BF16, {}),
        ("biases", 5, {"model_type": "qwen2", "intermediate_size": 33}, {**TINY, "seq": 8}, {}),
        ("experts", 1000, {"model_type": "mixtral"}, {**TINY, "seq": 8}, {}),
        ("two-inputs", 2, GEMMA_3N, {**TINY, "seq": 4}, {}),
        ("lora", 3, {}, LORA, {}),
        ("lora-of-a-later-rank", 23, {}, LORA, {}),
        ("lora-unaligned", 4, ODD, {**BF16, "method": {"name": "lora", "r": 3, "adapter_dtype": "bfloat16"}}, {}),
        ("lora-layer", 2, {}, {**LORA, "seq": 20, **LAYER}, KEPT),
        ("lora-of-some-layers", 3, {}, {**TINY, "method": SOME}, {}),
        ("lora-of-the-head", 3, {}, {**TINY, "method": {"name": "lora", "target_modules": ["lm_head"]}}, {}),
        ("layer", 2, {"vocab_size": 3000}, {**MANY, **LAYER}, {}),
        ("autocast", 2, {}, {**MANY, "autocast": "bfloat16"}, {}),
        ("kept", 2, {}, TINY, KEPT),
        ("kept-mixed", 3, {}, MANY, {**KEPT, **MIXED}),
        ("param-dtype", 3, {}, TINY, {"param_dtype": "bfloat16"}),
        ("mixed-lora", 3, {}, {**MANY, "method": "lora"}, MIXED),
        ("reduced-narrow", 3, {}, TINY, {"reduce_dtype": "bfloat16"}),
        ("wide-reduction", 3, {}, BF16, {"reduce_dtype": "float32"}),
        ("accumulated", 3, {}, ACCUMULATED, {}),
        ("accumulated-synced", 3, {}, ACCUMULATED, {**MIXED, **SYNCED}),
        ("accumulated-kept", 3, {}, ACCUMULATED, KEPT),
        ("accumulated-lora", 2, {}, {**ACCUMULATED, **LAYER, "method": "lora"}, MIXED),
        ("mixed-layer", 3, {"intermediate_size": 1000}, {**MANY, **LAYER, "seq": 200}, MIXED),
        ("replicated", 6, {}, TINY, {"replicate": 2}),
        ("replicated-kept", 8, {}, TINY, {"replicate": 4, **KEPT, **MIXED}),
        ("replicated-whole", 6, {}, TINY, {"replicate": 6}),
        ("qlora", 3, {}, QLORA, PEFT),
        ("qlora-layer", 2, {}, {**QLORA, **LAYER, "double_quant": True}, PEFT),
        ("qlora-mixed-unit", 3, {}, {**QLORA, "method": {"name": "lora", "adapter_dtype": "bfloat16"}}, {}),
        ("qlora-float32", 7, {}, {**QLORA, "rest_dtype": "float32", "quant_storage": "float32"}, PEFT),
        ("clipped", 3, {}, {**TINY, "gradient_clipping": True}, {}),
        ("adafactor", 3, {}, {**TINY, "optimizer": "adafactor"}, {}),
        ("adamw-8bit", 3, {}, {**TINY, "optimizer": "adamw-8bit"}, {}),
        ("muon", 3, {}, {**TINY, "optimizer": "muon"}, {}),
        ("reentrant", 2, {}, {**TINY, **LAYER, "use_reentrant": True}, {}),
        ("chunked-loss", 2, {"vocab_size": 3000}, {**MANY, "loss": "chunked"}, {}),
        ("ia3", 3, {}, {**TINY, "method": "ia3"}, {}),
        ("oft", 3, {}, {**TINY, "method": "oft"}, PEFT),
        ("vera", 3, {}, {**TINY, "method": "vera"}, PEFT),
        ("prompts", 2, {}, {**TINY, "method": {"name": "prompt_tuning", "num_virtual_tokens": 4}}, PEFT),
        ("prefixes", 2, {}, {**TINY, "method": {"name": "prefix_tuning", "num_virtual_tokens": 4}}, PEFT),
        ("frozen", 3, {}, {**TINY, "method": {"name": "freeze", "top_layers": 2}}, {}),
        ("cached", 3, {}, {**MANY, "use_cache": True}, {}),
        ("outputs-fp32", 3, {}, {**MANY, "convert_outputs_to_fp32": True, "autocast": "bfloat16"}, {}),
        ("peft-reentrant", 2, {}, {**LORA, "seq": 20, **LAYER, "use_reentrant": True}, PEFT),
        ("encoder", 3, {"model_type": "bert"}, {**TINY, "head": "masked-lm"}, {}),
        ("peft", 3, {}, LORA, PEFT),
        ("peft-one", 1, {}, LORA, PEFT),
        ("peft-two-dtypes", 2, {}, {**BF16, "method": "lora"}, PEFT),
        ("peft-layer", 2, {}, {**TINY, **LAYER, "method": ALL}, PEFT),
        ("peft-mixed", 3, {}, {**MANY, "method": "lora", "autocast": "bfloat16"}, {**PEFT, **MIXED}),
        (
            "peft-mixed-layer",
            127,
            {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 90},
            {**TINY, "seq": 33, **LAYER, "method": ALL, "autocast": "bfloat16", "keep_logits": False},
            {**PEFT, "param_dtype": "bfloat16"},
        ),
        ("peft-accumulated", 2, {"model_type": "gpt2"}, {**ACCUMULATED, "method": "lora"}, {**PEFT, **KEPT}),
    )
]
REFUSED: list[Refused] = [
    ({}, _flattened(keys, 2, **options), says)
    for keys, options, says in (
        (TINY, {"reshard_after_forward": 2}, "sharding.reshard_after_forward 2 belongs to fsdp2; for fsdp1 say true"),
        (
            {"dtype": "bfloat16", "method": "lora"},
            {},
            "must flatten tensors with uniform dtype but got bfloat16 and float32",
        ),
        ({"method": {"name": "lora", "use_dora": True}}, {}, "FSDP1 has no rule with use_dora; leave it out"),
        ({**LORA, "checkpointing": "matmul"}, PEFT, "does not go with checkpointing: matmul under fsdp1"),
        (
            {"dtype": "float32", "method": "lora"},
            {**PEFT, **MIXED},
            "would multiply float32 and bfloat16, which PyTorch",
        ),
        ({"method": "mezo"}, {}, "sharding: fsdp1 has no rule with method: mezo; leave one of them out"),
        ({"optimizer": "lomo"}, {}, "sharding: fsdp1 has no rule with optimizer: lomo"),
        ({**QLORA, "quant_storage": "uint8"}, PEFT, "FSDP1 cannot flatten integer dtype tensors"),
        (TINY, OFFLOAD, "sharding: fsdp1 with cpu_offload does not go with runtime: torch-cpu, which pins no memory"),
        (
            {**ACCUMULATED, "device": "rtx-4090"},
            {**OFFLOAD, **SYNCED},
            "does not go with sync_each_batch, since PyTorch does not add up gradients on the host",
        ),
        ({**TINY, "device": "rtx-4090"}, {**OFFLOAD, "replicate": 2}, "with cpu_offload has no rule in one process"),
        (TINY, {"bucket_cap_mb": 9}, "sharding.bucket_cap_mb 9 does not go with sharding fsdp1"),
    )
] + [
    (
        {"model_type": "mixtral"},
        _flattened({**TINY, "method": {"name": "lora", "target_parameters": ["mlp.experts.down_proj"]}}, 2),
        "experts.lora_A.weight, an adapter of a parameter: PyTorch does not let it change a view in place",
    )
]
