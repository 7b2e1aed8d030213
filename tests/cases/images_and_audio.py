"""Small models that take images or audio, and steps of them. No size is that of a real model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TOWER: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
CLIP = {"model_type": "clip_vision_model", **TOWER}
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}
PIXTRAL = {"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 64, "patch_size": 8}
QWEN_TOWER = {
    "depth": 3, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "hidden_size": 32,
    "out_hidden_size": 64, "intermediate_size": 50,
}  # fmt: skip
DECODER: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 300,
}  # fmt: skip
LLAMA, MISTRAL = {"model_type": "llama", **DECODER}, {"model_type": "mistral", **DECODER}
GEMMA = {"head_dim": 16, **DECODER}
ROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}


def _larger(model_type: str, name: str, vision: dict[str, Any], text: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The config of a tower beside a decoder."""
    return {
        "model_type": model_type, "architectures": [f"{name}ForConditionalGeneration"], "image_token_id": 7,
        "image_token_index": 7, "vision_start_token_id": 5, "vision_config": vision, "text_config": text, **keys,
    }  # fmt: skip


def _qwen(model_type: str, name: str, vision: dict[str, Any], **keys: Any) -> dict[str, Any]:
    text = {"model_type": f"{model_type}_text", **ROPE, **DECODER, **keys}
    return _larger(model_type, name, {**QWEN_TOWER, **vision}, text)


WITH_IMAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llava": (_larger("llava", "Llava", CLIP, LLAMA), {"seq": 40}),
    "llava with pixtral": (
        _larger("llava", "Llava", PIXTRAL, MISTRAL, vision_feature_layer=-1, vision_feature_select_strategy="full"),
        {"seq": 100, "image_size": "40x64"},
    ),
    "llava_next": (
        _larger("llava_next", "LlavaNext", CLIP, LLAMA, image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]]),
        {"seq": 260, "image_size": "50x40"},
    ),
    "mistral3": (
        _larger("mistral3", "Mistral3", PIXTRAL, MISTRAL, spatial_merge_size=2), {"seq": 50, "image_size": "40x64"}
    ),
    "paligemma": (
        _larger("paligemma", "PaliGemma", SIGLIP, {"model_type": "gemma", **GEMMA}, projection_dim=64), {"seq": 40}
    ),
    "gemma3": (
        _larger(
            "gemma3", "Gemma3", SIGLIP, {"model_type": "gemma3_text", **GEMMA, "sliding_window": 16},
            mm_tokens_per_image=4,
        ),
        {"seq": 40},
    ),
    "smolvlm": (
        _larger("smolvlm", "SmolVLM", {"model_type": "smolvlm_vision", **TOWER}, LLAMA, scale_factor=2), {"seq": 40}
    ),
    "idefics3": (
        _larger("idefics3", "Idefics3", {"model_type": "idefics3_vision", **TOWER}, LLAMA, scale_factor=2), {"seq": 40}
    ),
    "internvl": (
        _larger(
            "internvl", "InternVL",
            {"model_type": "internvl_vision", **TOWER, "image_size": [28, 28], "patch_size": [7, 7]},
            {"model_type": "qwen2", **DECODER},
        ),
        {"seq": 40},
    ),
    "qwen2_vl": (
        _qwen("qwen2_vl", "Qwen2VL", {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}),
        {"seq": 120, "image_size": "64x56"},
    ),
    "qwen2_5_vl": (
        _qwen("qwen2_5_vl", "Qwen2_5_VL", {"window_size": 16, "fullatt_block_indexes": [1]}),
        {"seq": 120, "image_size": "64x56"},
    ),
    "qwen3_vl": (
        _qwen(
            "qwen3_vl", "Qwen3VL", {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}, head_dim=16
        ),
        {"seq": 120, "image_size": "64x56"},
    ),
}  # fmt: skip


def _listening(model_type: str, name: str, **keys: Any) -> dict[str, Any]:
    """The config of an encoder of samples, none of whose layers or features are left out at random."""
    return {
        "model_type": model_type, "architectures": [name], "vocab_size": 30, "hidden_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 900, "conv_dim": [32, 32, 32], "conv_stride": [5, 4, 4],
        "conv_kernel": [10, 4, 4], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "apply_spec_augment": False, **keys,
    }  # fmt: skip


ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{
        model_type: ({"model_type": model_type, "architectures": [f"{name}ForImageClassification"], **TOWER}, {})
        for model_type, name in (("vit", "ViT"), ("dinov2", "Dinov2"), ("deit", "DeiT"), ("beit", "Beit"))
    },
    **{
        model_type: (
            {
                "model_type": model_type, "architectures": [f"{name}ForImageClassification"], "vision_config": TOWER,
                "text_config": {**DECODER, "num_hidden_layers": 2}, "num_labels": 5,
            },
            {},
        )
        for model_type, name in (("clip", "CLIP"), ("siglip", "Siglip"))
    },
    "whisper": (
        {
            "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True,
            "vocab_size": 301, "d_model": 48, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 3, "encoder_ffn_dim": 70, "decoder_ffn_dim": 90, "num_mel_bins": 20,
            "max_source_positions": 60, "max_target_positions": 50, "pad_token_id": 0, "decoder_start_token_id": 1,
            "bos_token_id": 1, "eos_token_id": 2,
        },
        {"target_seq": 17},
    ),
    "wav2vec2": (_listening("wav2vec2", "Wav2Vec2ForCTC"), {"target_seq": 7, "audio_seconds": 0.3}),
    "hubert": (
        _listening(
            "hubert", "HubertForSequenceClassification", num_labels=4, do_stable_layer_norm=True,
            feat_extract_norm="layer",
        ),
        {"audio_frames": 600},
    ),
    "wav2vec2-bert": (
        _listening("wav2vec2-bert", "Wav2Vec2BertForCTC", feature_projection_input_dim=20),
        {"target_seq": 5, "audio_seconds": 1.2},
    ),
    "speech_to_text": (
        {
            "model_type": "speech_to_text", "architectures": ["Speech2TextForConditionalGeneration"],
            "is_encoder_decoder": True, "vocab_size": 130, "d_model": 32, "encoder_layers": 3, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 60, "decoder_ffn_dim": 50,
            "input_feat_per_channel": 20, "conv_channels": 40, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
        },
        {"target_seq": 7, "audio_frames": 64},
    ),
}  # fmt: skip


VIDEOS = {
    "qwen2_vl": {"image_size": "64x56", "video_frames": 5, "seq": 900},
    "qwen2_5_vl": {"image_size": "64x56", "video_frames": 3, "seq": 900},
    "qwen3_vl": {"image_size": "24x80", "video_frames": 6, "seq": 900},
}
"""Keys of plans with a video in each row."""
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_5_vl": ("64x56,200x80", {"size": {"shortest_edge": 64, "longest_edge": 16000}, "patch_size": 4}),
    "qwen3_vl": ("64x56,40x40,9x80", {}),
    "mistral3": ("40x64,120x30", {"size": {"longest_edge": 64}, "patch_size": 8}),
    "llava_next": (
        "50x40,90x30",
        {"size": 28, "crop_size": 28, "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]},
    ),
    "smolvlm": ("90x40,20x20", {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}),
    "internvl": ("90x40,20x20", {"size": {"height": 28, "width": 28}, "max_patches": 4}),
}
"""Image sizes of a row, and the preprocessor_config.json that lies beside a model of ``WITH_IMAGES``."""


_QLORA = {"dtype": "nf4", "method": {"name": "lora", "r": 5, "target_modules": "all-linear"}}
QUANTISED: dict[str, dict[str, Any]] = {
    "llava": {**_QLORA, "compute_dtype": "bfloat16", "kbit_preparation": True, "checkpointing": "layer"},
    "qwen2_5_vl": {**_QLORA, "rest_dtype": "float32"},
    "whisper": {**_QLORA, "dtype": "int8"},
    "vit": {**_QLORA, "dtype": "int8"},
}
"""Plans of a quantised base. Dense layers of a tower are quantised, too."""
FROZEN = {"whisper": "encoder", "wav2vec2": "feature_encoder", "hubert": "feature_encoder", "vit": "base_model"}
"""What people freeze of a model without a tower."""


def steps() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Names, configs and plans: each model trained whole, with LoRA, and with checkpoints; where a decoder looks at
    images, with a frozen tower and with two images as well; others with what people freeze of them.
    """
    lora = {"method": {"name": "lora", "r": 5, "target_modules": "all-linear"}}
    checkpointed = {"checkpointing": "layer"}
    for name, (config, keys) in {**ALONE, **WITH_IMAGES}.items():
        settings: dict[str, dict[str, Any]] = {"full": {}, "lora": lora, "checkpointed": checkpointed}
        if part := FROZEN.get(name):
            settings |= {"frozen": {"freeze": [part]}}
        if name in WITH_IMAGES:
            settings |= {
                "frozen tower": {"images": 1, "freeze": ["vision"]},
                "frozen tower, checkpointed": {**checkpointed, "images": 1, "freeze": ["vision", "projector"]},
                "LoRA beside a frozen tower": {**lora, "images": 1, "freeze": ["vision"]},
                "two images": {"images": 2},
            }
        if name in QUANTISED:
            settings["quantised"] = QUANTISED[name]
        for number, (setting, more) in enumerate(settings.items()):
            images = {"images": 1} if name in WITH_IMAGES else {}
            yield f"{name}: {setting}", config, {"batch": 1 + number % 2, "dtype": "float32", **images, **keys, **more}
