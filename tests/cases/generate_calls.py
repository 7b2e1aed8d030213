"""Random calls of ``generate``."""

from __future__ import annotations

import random
from typing import Any

from tests.cases.images_and_audio import WITH_IMAGES
from tests.cases.small_models import FAMILIES, METHODS

WINDOWS = {"use_sliding_window": True, "sliding_window": 16}


def random_call(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A small model and a call; lengths lie on both sides of the windows (24 of mistral's, 16 of the others')."""
    draw = random.Random(seed)
    family, cache = draw.choice(list(FAMILIES)), draw.choice(["dynamic", "static", "quantized"])
    config: dict[str, Any] = {"model_type": family, "num_hidden_layers": draw.randint(1, 6)}
    config["vocab_size"] = draw.choice([19, 611, 5000])
    if cache == "quantized":
        config["sliding_window"] = None
    elif family in ("qwen2", "qwen3") and draw.random() < 0.5:
        config.update(WINDOWS, max_window_layers=draw.randint(0, 2))
    block = {"max_new_tokens": draw.choice([1, 2, 5, 30]), "num_beams": draw.choice([1, 1, 2, 3])}
    plan = {
        "batch": draw.randint(1, 3),
        "seq": draw.choice([1, 5, 14, 15, 16, 17, 23, 24, 25, 70, 200]),
        "dtype": draw.choice(["float32", "bfloat16"]),
        "attention": draw.choice(["sdpa", "eager"]),
        "method": draw.choice(["full", "full", METHODS["lora"]]),
        "generate": {**block, "cache_implementation": cache},
    }
    return config, plan


_SIZES: dict[str, Any] = {
    "is_encoder_decoder": True, "vocab_size": 400, "d_model": 64, "encoder_layers": 5, "decoder_layers": 6,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 80, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "max_position_embeddings": 128, "decoder_start_token_id": 2, "pad_token_id": 0, "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}  # fmt: skip
_T5: dict[str, Any] = {
    "is_encoder_decoder": True, "vocab_size": 500, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 6,
    "num_hidden_layers": 6, "num_decoder_layers": 5, "num_heads": 4, "decoder_start_token_id": 3, "pad_token_id": 0,
}  # fmt: skip
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "t5": {**_T5, "architectures": ["T5ForConditionalGeneration"]},
    "mt5": {**_T5, "architectures": ["MT5ForConditionalGeneration"], "feed_forward_proj": "gated-gelu"},
    "bart": {**_SIZES, "architectures": ["BartForConditionalGeneration"]},
    "mbart": {**_SIZES, "architectures": ["MBartForConditionalGeneration"]},
    "pegasus": {**_SIZES, "architectures": ["PegasusForConditionalGeneration"]},
    "m2m_100": {**_SIZES, "architectures": ["M2M100ForConditionalGeneration"]},
    "whisper": {
        **_SIZES, "architectures": ["WhisperForConditionalGeneration"], "num_mel_bins": 20, "max_source_positions": 50,
        "max_target_positions": 64, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3,
    },
}  # fmt: skip
"""Models with an encoder, by model type: their encoder and decoder differ in depth."""
_ENCODED: list[dict[str, Any]] = [
    {"generate": {"max_new_tokens": 7}},
    {"seq": 5, "generate": {"max_new_tokens": 40}},
    {"seq": 9, "generate": {"max_new_tokens": 1, "num_beams": 2}},
    {"seq": 21, "generate": {"max_new_tokens": 12, "num_beams": 3}},
    {"seq": 6, "target_seq": 11, "generate": {"max_new_tokens": 9, "num_beams": 2}},
    {"target_seq": 4, "generate": {"max_new_tokens": 15, "cache_implementation": "static"}},
    {"attention_mask": True, "batch": 3, "generate": {"max_new_tokens": 12}},
    {"attention": "eager", "generate": {"max_new_tokens": 10}},
    {"method": {"name": "lora", "r": 4, "target_modules": "all-linear"}, "generate": {"max_new_tokens": 5}},
    {"dtype": "bfloat16", "generate": {"max_new_tokens": 14, "num_beams": 2}},
    {"autocast": "bfloat16", "generate": {"max_new_tokens": 4}},
]


def encoded_calls() -> list[tuple[str, dict[str, Any]]]:
    """Calls of models with an encoder, a third of them of each: (model type, plan). A plan of speech has no ``seq`` and
    no padding.
    """
    found = []
    for number, name in enumerate(ENCODER_DECODERS):
        for plan in _ENCODED[number % 3 :: 3]:
            if name == "whisper":
                plan = {**{key: x for key, x in plan.items() if key != "attention_mask"}, "seq": None}
            found.append((name, plan))
    return found


_STATIC = {"max_new_tokens": 6, "cache_implementation": "static"}
_BESIDE_IMAGES: list[tuple[str, dict[str, Any]]] = [
    ("llava", {"generate": _STATIC}),
    ("llava", {"images": 2, "batch": 3, "generate": {"max_new_tokens": 30}}),
    ("llava", {"method": METHODS["lora"], "dtype": "bfloat16", "generate": {"max_new_tokens": 5}}),
    ("llava", {"generate": {"max_new_tokens": 6, "cache_implementation": "quantized"}}),
    ("gemma3", {"generate": _STATIC}),
    ("qwen2_5_vl", {"images": 2, "generate": {"max_new_tokens": 9}}),
    ("llava", {"generate": {"max_new_tokens": 4, "num_beams": 3}}),
    ("qwen2_vl", {"generate": {"max_new_tokens": 4, "num_beams": 3}}),
]


def calls_with_images() -> list[tuple[str, dict[str, Any]]]:
    """Calls of models that look at images: (name of a small model, plan)."""
    plain = [(name, {"generate": {"max_new_tokens": 5}}) for name in WITH_IMAGES]
    return [(name, {**WITH_IMAGES[name][1], **plan}) for name, plan in (*plain, *_BESIDE_IMAGES)]
