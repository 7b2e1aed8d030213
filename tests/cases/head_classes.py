"""A small model of every class that transformers' ``AutoModelFor...`` of a head builds, by one rule.

A config's class has sizes by names that many classes share: ``SIZES`` gives those of a small model, in the config and
in the configs within it. ``causal_classes.py`` has the configs of causal models, which are the same ones here.
"""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 131, "max_position_embeddings": 256, "num_labels": 3, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "type_vocab_size": 2,
    # widths
    "hidden_size": 48, "d_model": 48, "dim": 48, "emb_dim": 48, "embedding_size": 24, "n_embd": 48, "d_head": 12,
    "intermediate_size": 80, "hidden_dim": 80, "d_ff": 80, "d_inner": 80, "ffn_dim": 80, "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80, "d_kv": 12, "head_dim": 12, "projection_dim": 48, "mlp_dim": 80,
    # depths
    "num_hidden_layers": 3, "num_layers": 3, "n_layers": 3, "n_layer": 3, "encoder_layers": 2, "decoder_layers": 3,
    "num_decoder_layers": 2, "depth": 3, "num_encoder_layers": 2,
    # heads
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_heads": 4, "n_heads": 4, "n_head": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "attention_heads": 4,
    "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
    # experts
    "num_experts": 6, "num_local_experts": 6, "n_routed_experts": 6, "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    # images
    "image_size": 32, "patch_size": 8, "num_channels": 3, "out_hidden_size": 48, "text_hidden_size": 48,
    "mm_tokens_per_image": 4,
}  # fmt: skip

_SPEECH: dict[str, Any] = {
    "conv_dim": [24] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0,
    "apply_spec_augment": False,
}  # fmt: skip
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 2, 1, 1]}
_DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 10,
}  # fmt: skip
_SECTIONS: dict[str, Any] = {
    "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}}
}
_WINDOWS: dict[str, Any] = {
    "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32, "patch_size": 2,
}  # fmt: skip
KEYS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("data2vec-audio", "hubert", "sew", "sew-d", "unispeech", "unispeech-sat"), _SPEECH),
    **dict.fromkeys(("wav2vec2", "wav2vec2-conformer", "wavlm"), _SPEECH),
    "wav2vec2-bert": {**_SPEECH, "feature_projection_input_dim": 20},
    **{name: {"decoder_start_token_id": 0} for name in ("t5", "longt5", "switch_transformers", "pop2piano")},
    **{name: {**_STAGES, "image_size": 64, "patch_size": 4} for name in ("convnext", "convnextv2")},
    **dict.fromkeys(("resnet", "regnet", "poolformer", "hgnet_v2"), _STAGES),
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), _WINDOWS),
    "m2m_100": {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
    "nllb-moe": {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "encoder_sparse_step": 2},
    "esm": {"vocab_size": 131, "position_embedding_type": "rotary"},
    "esmc": {"num_key_value_heads": 4},
    "squeezebert": {"embedding_size": 48},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 8},
    "luke": {"entity_vocab_size": 50, "entity_emb_size": 24},
    **{name: {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2} for name in ("marian", "whisper")},
    **dict.fromkeys(
        (
            *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe"),
            *("glm46v", "glm_ocr", "glmga", "qwen4_exp", "cosmos3_edge", "cosmos3_omni", "exaone4_5"),
        ),
        _SECTIONS,
    ),
    **{
        name: {"text_config": {**_SECTIONS["text_config"], **_DELTA}}
        for name in ("qwen3_5", "qwen3_5_moe", "qwen4_exp", "minicpmv4_7")
    },
    "florence2": {
        "vision_config": {
            "embed_dim": [16, 24, 32, 48],
            "num_heads": [1, 2, 2, 4],
            "num_groups": [1, 2, 2, 4],
            "depths": [1, 1, 1, 1],
            "window_size": 4,
            "drop_path_rate": 0.0,
        },
    },
    **{name: {"image_grid_pinpoints": [[32, 64], [64, 32]]} for name in ("llava_next", "llava_next_video")},
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "bit": {"hidden_sizes": [32, 64], "depths": [1, 1], "embedding_size": 32},
}
"""What the rule does not give, by model type."""
LENGTHS: dict[str, dict[str, Any]] = {
    "ctc": {"audio_seconds": 0.5, "target_seq": 4},
    "audio-classification": {"audio_seconds": 0.5},
    "seq2seq-lm": {"seq": 12, "target_seq": 9},
    "speech-seq2seq": {"target_seq": 9, "audio_seconds": 0.5},
    "image-text": {"images": 1, "image_size": "64x64", "seq": 64},
}
"""What plans say of lengths, by heads. Others have 12 tokens."""
OWN_LENGTHS: dict[str, dict[str, Any]] = {
    "whisper": {"audio_seconds": None},
    "audio-spectrogram-transformer": {"audio_seconds": None},
    "fsmt": {"target_seq": 12},
    **{
        name: {"image_size": "64x64"}
        for name in ("cvt", "hgnet_v2", "poolformer", "pp_lcnet", "regnet", "resnet", "segformer")
    },
}
"""The same by model types: those that take one length, or one that their config does not say."""
WHY_APART: dict[str, str] = {}
"""Classes whose estimates differ from a measured step, and why."""
