"""What trainers do around a step: a data collator's batch, outputs in float32, noise on the embeddings."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused
from tests.cases.small_models import METHODS

BF16 = "bfloat16"
LORA, DROPOUT = METHODS["lora"], METHODS["lora-all-dropout"]
COLLATED = {"data_collator": True}
IN_FLOAT32 = {"autocast": BF16, "convert_outputs_to_fp32": True}
NOISE = {"neftune_noise_alpha": 5.0}
PACKED = {"packing": True}
SMALL = {"vocab_size": 19}
"""The peak is in a layer."""
WINDOWS = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
HYBRID = {"model_type": "gemma3_text", "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
_ROWS: list[Case] = [
    ("collated", {}, COLLATED),
    ("collated-padding", {}, {**COLLATED, "attention_mask": True, "method": LORA}),
    ("collated-eager", SMALL, {**COLLATED, "attention": "eager", "dtype": BF16}),
    ("collated-windows", {**SMALL, **WINDOWS}, {**COLLATED, "method": DROPOUT, "batch": 3}),
    ("collated-window", {**SMALL, "model_type": "starcoder2", "sliding_window": 16}, COLLATED),
    ("collated-hybrid", {**SMALL, **HYBRID, "num_hidden_layers": 4}, {**COLLATED, "batch": 1}),
    ("collated-prompts", {}, {**COLLATED, "method": {"name": "prompt_tuning", "num_virtual_tokens": 5}}),
    ("collated-prefix", {}, {**COLLATED, "method": {"name": "prefix_tuning", "num_virtual_tokens": 5}}),
    ("collated-accumulation", {}, {**COLLATED, "gradient_accumulation_steps": 2}),
    ("in-float32", {}, IN_FLOAT32),
    ("in-float32-16", {"model_type": "olmo2"}, {**IN_FLOAT32, "dtype": BF16, "method": LORA}),
    ("in-float32-cache", {}, {**IN_FLOAT32, "use_cache": True, "previous_output": True}),
    ("in-float32-chunked", {}, {**IN_FLOAT32, "loss": "chunked", "loss_chunk": 7}),
    ("completions", {}, {**COLLATED, "loss": "cce", "label_share": 0.3}),
    ("packed", {}, {**PACKED, "batch": 3, "seq": 21}),
    ("packed-one-row", {**SMALL, "model_type": "qwen3"}, {**PACKED, "batch": 1, "dtype": BF16}),
    ("packed-window", {**SMALL, "model_type": "mistral"}, {**PACKED, "method": DROPOUT, "return_seq_idx": True}),
    ("packed-windows", {**SMALL, **WINDOWS}, {**PACKED, "attention": "eager", "checkpointing": "layer"}),
    ("packed-recorded", {**SMALL, "model_type": "olmo2"}, {**PACKED, "method": LORA, "checkpointing": "layer"}),
    ("packed-hybrid", {**SMALL, **HYBRID, "num_hidden_layers": 4}, {**PACKED, **IN_FLOAT32}),
    ("noise", {}, {**NOISE, "dtype": BF16}),
    ("noise-scaled", {**SMALL, "model_type": "gemma"}, {**NOISE, "method": DROPOUT, "checkpointing": "layer"}),
    ("noise-layer", {**SMALL, "num_hidden_layers": 5}, {**NOISE, "method": LORA, "checkpointing": "layer"}),
    ("noise-prompts", SMALL, {**NOISE, "method": {"name": "prompt_tuning", "num_virtual_tokens": 5}}),
    ("noise-embedding", SMALL, {**NOISE, "method": {**LORA, "target_modules": ["embed_tokens", "v_proj"]}}),
]
MEASURED: list[Case] = [
    (name, config, {"batch": 2, "seq": 33, "dtype": "float32", **plan}) for name, config, plan in _ROWS
]
REFUSED: list[Refused] = [
    (config, {"seq": 33, **keys}, says)
    for config, keys, says in (
        ({}, {"convert_outputs_to_fp32": True}, "belongs to autocast"),
        ({}, {**NOISE, "method": "mezo", "optimizer": "sgd"}, "methods with a backward pass"),
        ({}, {"neftune_noise_alpha": 0}, "greater than 0"),
        ({}, {"label_share": 0.5}, "set data_collator: true"),
        ({}, {**PACKED, "attention_mask": True}, "nothing in it is padded"),
        ({}, {**PACKED, "batch": 1, "seq": 1}, "which is one sequence"),
        ({}, {**PACKED, "lengths": {"histogram": {8: 1}}, "seq": 8}, "pad each batch"),
        ({}, {**PACKED, "method": {"name": "prefix_tuning", "num_virtual_tokens": 5}}, "drops position ids"),
        ({"model_type": "bloom"}, {**PACKED, "attention": "eager"}, "takes no position_ids"),
        ({}, {"loss": "fused_lm_head", "seq": 1}, "use a longer seq"),
        ({}, {"loss": "chunked_nll", "method": {**LORA, "target_modules": ["lm_head"]}}, "past the adapter on it"),
        ({"model_type": "cohere2"}, {"loss": "chunked-nll"}, "changes them by mul"),
        ({"model_type": "gemma2"}, {"loss": "chunked", "attention": "eager"}, "changes them by div"),
    )
]
FORMULAS: list[Formulas] = [
    Formulas("collated", {}, {**COLLATED, **IN_FLOAT32, **NOISE, "keep_logits": False}, [(2, 33), (3, 70)], True),
]
TRAINERS: list[Case] = [
    ("full", {}, {"dtype": "float32"}),
    ("full-autocast", {"model_type": "qwen3"}, {"dtype": "float32", **IN_FLOAT32}),
    ("full-autocast-layer", {}, {"dtype": "float32", **IN_FLOAT32, "checkpointing": "layer"}),
    ("full-16", {"model_type": "olmo2"}, {"dtype": BF16, "checkpointing": "layer"}),
    ("full-noise", {**SMALL, "model_type": "gemma2"}, {"dtype": BF16, "attention": "eager", **NOISE}),
    ("lora", {"model_type": "mistral"}, {"dtype": "float32", "method": DROPOUT}),
    ("lora-autocast", {"model_type": "phi3", "pad_token_id": 0}, {**IN_FLOAT32, "dtype": BF16, "method": DROPOUT}),
    ("lora-layer", {**SMALL, "model_type": "qwen2"}, {"dtype": BF16, "method": DROPOUT, "checkpointing": "layer"}),
    ("lora-noise-layer", SMALL, {**IN_FLOAT32, **NOISE, "method": LORA, "checkpointing": "layer"}),
    ("packed", {"model_type": "qwen2"}, {**IN_FLOAT32, **PACKED, "method": LORA, "checkpointing": "layer"}),
    ("lora-eager", {"model_type": "gpt_neox"}, {"dtype": "float32", "attention": "eager", "method": "lora"}),
]
"""Steps of transformers' ``Trainer``, with its defaults in a plan's words: ``HF_TRAINER``."""
HF_TRAINER: dict[str, Any] = {
    **COLLATED,
    "keep_logits": False,
    "gradient_clipping": True,
    "optimizer": "adamw-fused",
    "batch": 2,
    "seq": 37,
}
