"""Processors of images: the classes of transformers, their files, and configs of models that they are for."""

from __future__ import annotations

from typing import Any

from tests.cases.images_and_audio import CLIP, PIXTRAL, SIGLIP

VISION = {"image_size": 336, "patch_size": 14}
STRATEGY = {"vision_feature_select_strategy": "default"}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONE_VISION = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
SQUARE = {"height": 384, "width": 384}


def config_of(model_type: str, vision: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A config with a part for images."""
    return {"model_type": model_type, "vision_config": vision, **keys}


QWEN = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: class of the image processor, of the processor, its attributes, preprocessor_config.json, config.json
    "qwen2_vl": (
        "Qwen2VLImageProcessor", "Qwen2VLProcessor", {}, {"min_pixels": 3136, "max_pixels": 12845056},
        config_of("qwen2_vl", QWEN),
    ),
    "qwen2_5_vl": (
        "Qwen2VLImageProcessor", "Qwen2_5_VLProcessor", {}, {}, config_of("qwen2_5_vl", QWEN),
    ),
    "qwen3_vl": (
        "Qwen2VLImageProcessor", "Qwen3VLProcessor", {},
        {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16},
        config_of("qwen3_vl", {**QWEN, "patch_size": 16}),
    ),
    "llava": (
        "CLIPImageProcessor", "LlavaProcessor", {"patch_size": 14, "num_additional_image_tokens": 1},
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
        config_of("llava", {**CLIP, **VISION}, **STRATEGY),
    ),
    "llava with siglip": (
        "SiglipImageProcessor", "LlavaProcessor", {"patch_size": 16, "num_additional_image_tokens": 0},
        {"size": SQUARE}, config_of(
            "llava", {**SIGLIP, "image_size": 384, "patch_size": 16}, vision_feature_select_strategy="full"
        ),
    ),
    "llava with pixtral": (
        "PixtralImageProcessor", "PixtralProcessor", {"patch_size": 16, "spatial_merge_size": 1}, {},
        config_of("llava", {**PIXTRAL, "image_size": 1024, "patch_size": 16}),
    ),
    "mistral3": (
        "PixtralImageProcessor", "PixtralProcessor", {"patch_size": 14, "spatial_merge_size": 2},
        {"size": {"longest_edge": 1540}, "patch_size": 14},
        config_of("mistral3", {**PIXTRAL, "image_size": 1540, "patch_size": 14}, spatial_merge_size=2),
    ),
    "llava_next": (
        "LlavaNextImageProcessor", "LlavaNextProcessor", {"patch_size": 14, "num_additional_image_tokens": 1},
        {
            "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336},
            "image_grid_pinpoints": PINPOINTS,
        },
        config_of("llava_next", {**CLIP, **VISION}, image_grid_pinpoints=PINPOINTS, **STRATEGY),
    ),
    "llava_onevision": (
        "LlavaOnevisionImageProcessor", "LlavaOnevisionProcessor",
        {
            "num_image_tokens": 729, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9",
        },
        {"size": SQUARE, "image_grid_pinpoints": ONE_VISION},
        config_of(
            "llava_onevision", {**SIGLIP, "image_size": 384, "patch_size": 14}, image_grid_pinpoints=ONE_VISION,
            vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
        ),
    ),
    "idefics3": (
        "Idefics3ImageProcessor", "Idefics3Processor", {"image_seq_len": 169}, {},
        config_of("idefics3", {"image_size": 364, "patch_size": 14}, scale_factor=2),
    ),
    "smolvlm": (
        "SmolVLMImageProcessor", "SmolVLMProcessor", {"image_seq_len": 64},
        {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
        config_of("smolvlm", {"image_size": 512, "patch_size": 16}, scale_factor=4),
    ),
    "smolvlm, not split": (
        "SmolVLMImageProcessor", "SmolVLMProcessor", {"image_seq_len": 81},
        {"do_image_splitting": False, "max_image_size": {"longest_edge": 384}, "size": {"longest_edge": 1536}},
        config_of("smolvlm", {"image_size": 384, "patch_size": 14}, scale_factor=3),
    ),
    "internvl": (
        "GotOcr2ImageProcessor", "InternVLProcessor", {"image_seq_length": 256},
        {"size": {"height": 448, "width": 448}, "crop_to_patches": False},
        config_of("internvl", {"image_size": [448, 448], "patch_size": [14, 14]}, downsample_ratio=0.5),
    ),
    "internvl, fewer tiles": (
        "GotOcr2ImageProcessor", "InternVLProcessor", {"image_seq_length": 256},
        {"size": {"height": 448, "width": 448}, "min_patches": 2, "max_patches": 6},
        config_of("internvl", {"image_size": [448, 448], "patch_size": [14, 14]}, downsample_ratio=0.5),
    ),
    "paligemma": (
        "SiglipImageProcessor", "PaliGemmaProcessor", {"image_seq_length": 1024},
        {"size": {"height": 448, "width": 448}},
        config_of("paligemma", {**SIGLIP, "image_size": 448, "patch_size": 14}),
    ),
    "gemma3": (
        "Gemma3ImageProcessor", "Gemma3Processor", {"image_seq_length": 256},
        {"size": {"height": 896, "width": 896}, "do_pan_and_scan": False},
        config_of("gemma3", {**SIGLIP, "image_size": 896, "patch_size": 14}, mm_tokens_per_image=256),
    ),
    "gemma3n": (
        "SiglipImageProcessor", "Gemma3nProcessor", {"image_seq_length": 256}, {"size": {"height": 768, "width": 768}},
        config_of("gemma3n", {"model_type": "gemma3n_vision"}, vision_soft_tokens_per_image=256),
    ),
    "clip": ("CLIPImageProcessor", "", {}, {}, config_of("clip", {"image_size": 224, "patch_size": 32})),
    "siglip": ("SiglipImageProcessor", "", {}, {}, config_of("siglip", {"image_size": 224, "patch_size": 16})),
    "vit": ("ViTImageProcessor", "", {}, {}, {"model_type": "vit", "image_size": 224, "patch_size": 16}),
    "dinov2": ("BitImageProcessor", "", {}, {}, {"model_type": "dinov2", "image_size": 518, "patch_size": 14}),
}  # fmt: skip
