"""LLaMA-Factory's YAML (``llamafactory/hparams`` and ``llamafactory/model``, 0.9.5)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import InputError
from ..plans.presets import checkpoint_dtype
from . import adapters, hugging_face, images
from .settings import Reading, Settings

TOOL = "LLaMA-Factory 0.9.5"
MARKS = frozenset({
    "stage", "finetuning_type", "cutoff_len", "template", "lora_target", "lora_rank", "quantization_bit", "dataset_dir",
    "pure_bf16", "flash_attn", "neat_packing", "disable_gradient_checkpointing", "pref_loss",
})  # fmt: skip
"""Keys that no other tool has, by which a file is known."""
_LORA = {
    "r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target",
    "modules_to_save": "additional_target",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
}
_OFT = {"oft_block_size": "oft_block_size", "target_modules": "oft_target", "modules_to_save": "additional_target"}
_ATTENTION = {"disabled": "eager", "sdpa": "sdpa", "fa2": "flash", "fa3": "flash"}
_STAGES = ("pt", "sft")
_PREFERENCES = {"dpo": "llama-factory-dpo", "kto": "llama-factory-kto"}
"""The plan's trainers by the stages of preferences."""
_VALUES = "makes a model with a value head beside its own (TRL's AutoModelForCausalLMWithValueHead)"
_OTHER_STAGES = {
    "rm": f"{_VALUES}, whose step has the logits of all tokens and the hidden states of all layers; there is no rule "
    "for it",
    "ppo": f"{_VALUES}, and generates and scores with it; there is no rule for it",
}
"""Why a stage is refused."""


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What ``llamafactory-cli train`` does with these keys. Raises ``InputError``."""
    reading = Reading(TOOL, plan={"trainer": "llama-factory"}, lists_layers=True)
    settings = Settings(keys, reading, where)
    stage = settings.text("stage") or "sft"
    if stage not in (*_STAGES, *_PREFERENCES):
        known = ", ".join([*_STAGES, *_PREFERENCES, *_OTHER_STAGES])
        raise InputError(f"{where}: stage: {stage} {_OTHER_STAGES.get(stage, f'is not known; stages are {known}')}")
    if (model := settings.text("model_name_or_path")) is not None:
        settings.say("model", model, "model_name_or_path")
    settings.whole_of("seq", "cutoff_len")
    hugging_face.read(settings)
    reading.plan["run"] |= {"device_map": "auto"}
    _memory(settings)
    _attention(settings)
    _method(settings)
    _images(settings)
    if stage in _PREFERENCES:
        _preferences(settings, stage)
    elif settings.flag("neat_packing"):
        reading.note(
            "neat_packing", True, "rows of cutoff_len tokens; the mask that keeps samples apart is not counted"
        )
    elif settings.flag("packing", default=stage == "pt"):
        reading.note("packing", True, "samples are joined to full rows of cutoff_len tokens")
    settings.unknown("shift_attn", "use_unsloth", "upcast_layernorm", "upcast_lmhead_output")
    settings.refused("has no rule here", "use_kt", "use_ray", "mixture_of_depths")
    settings.finish()
    return reading


def _preferences(settings: Settings, stage: str) -> None:
    """``CustomDPOTrainer`` and ``CustomKTOTrainer``."""
    reading = settings.reading
    settings.say("trainer", _PREFERENCES[stage], "stage")
    if stage == "dpo" and (loss := settings.text("pref_loss")) is not None:
        settings.say("loss_type", loss, "pref_loss")
    if (beta := settings.number("pref_beta", "dpo_beta", "kto_beta")) is not None:
        settings.say("beta", beta, "pref_beta")
    bits = settings.whole("ref_model_quantization_bit")
    if (reference := settings.text("ref_model")) is not None:
        block: dict[str, Any] = {"model": reference}
        if bits is not None:
            block["dtype"] = "nf4" if bits == 4 else "int8"
        else:
            with suppress(InputError):
                block["dtype"] = checkpoint_dtype(reference)
        settings.say("reference", block, "ref_model")
    reading.note("pad_to_multiple_of", 8, "rows are padded to a multiple of 8 tokens; the answer has seq of them")
    settings.refused("has no rule here", "ref_model_adapters", "pref_bco_weight", "ld_alpha")
    settings.without_rule(
        "a few numbers a row",
        *("pref_ftx", "dpo_label_smoothing", "simpo_gamma", "kto_chosen_weight", "kto_rejected_weight"),
    )


_FROZEN = {
    "vision": ("freeze_vision_tower", True),
    "projector": ("freeze_multi_modal_projector", True),
    "language": ("freeze_language_model", False),
}
"""Parts of a plan, the keys that freeze them (``FinetuningArguments``), and whether they are frozen by default."""
_PIXELS = ("image_max_pixels", "image_min_pixels")
_VISION = ("llava", "yi_vl", "paligemma", "pixtral", "mllama", "intern_vl", "minicpm_v", "kimi_vl", "glm4v", "glm4_5v")
"""How templates begin that are for rows with images alone; those with ``_vl`` in their names are, too."""


def _images(settings: Settings) -> None:
    """Images are resized to ``image_max_pixels`` at most, before the model's own processor (``_preprocess_image``)."""
    template = settings.raw("template")
    marks = [*_PIXELS, *(name for name, _ in _FROZEN.values())]
    if isinstance(template, str) and (template.startswith(_VISION) or "_vl" in template):
        marks.append("template")
    if not images.sees(settings, *marks):
        return
    pixels = settings.whole("image_max_pixels") or 768 * 768
    settings.value("image_min_pixels"), settings.value("template")
    side = images.side_of(pixels, settings, "image_max_pixels")
    images.of_one_side(settings, side, f" of image_max_pixels, {pixels:,}, as a square", "image_max_pixels")
    frozen = images.frozen(settings, _FROZEN)
    if "vision" in frozen and "projector" not in frozen:
        settings.reading.note(
            "freeze_multi_modal_projector",
            False,
            "the merger of Qwen2-VL and its kin lies within the tower and does not train here",
        )
    settings.refused("has no rule here", "image_do_pan_and_scan", "crop_to_patches")


def _memory(settings: Settings) -> None:
    """Checkpointing is on unless it is switched off, and reentrant (``prepare_model_for_training``)."""
    if settings.flag("disable_gradient_checkpointing"):
        settings.say("checkpointing", "none", "disable_gradient_checkpointing")
        settings.reading.plan.pop("use_reentrant", None)
    elif settings.flag("use_unsloth_gc"):
        settings.say("checkpointing", "offloaded", "use_unsloth_gc")
    else:
        settings.reading.plan.pop("checkpointing", None)  # what transformers' own key says is overridden
    if settings.value("use_reentrant_gc") is not None and settings.reading.plan.get("checkpointing") != "none":
        settings.say("use_reentrant", settings.flag("use_reentrant_gc"), "use_reentrant_gc")


def _attention(settings: Settings) -> None:
    given = settings.text("flash_attn")
    if given is None:
        return
    if given in _ATTENTION:
        settings.say("attention", _ATTENTION[given], "flash_attn")
    else:
        settings.problem("attention", "flash_attn", f"is none of auto, {', '.join(_ATTENTION)}")


def _method(settings: Settings) -> None:
    reading = settings.reading
    kind = settings.text("finetuning_type") or "lora"
    pure = settings.flag("pure_bf16")
    loaded = _loaded(reading)
    compute = "bfloat16" if pure else reading.plan.get("autocast") or loaded
    trained = "float32" if kind == "full" and not pure else loaded
    reading.assume("dtype", trained, "weights are loaded in the checkpoint's dtype; what trains is cast to float32")
    if pure and "autocast" not in reading.plan:
        settings.say("autocast", None, "pure_bf16")
    bits = settings.whole("quantization_bit")
    method = settings.text("quantization_method") or "bnb"
    if bits is not None:
        if method not in ("bnb", "bitsandbytes") or bits not in (4, 8):
            settings.problem("dtype", "quantization_bit", f"by {method} has no rule; known are 4 and 8 by bnb")
        double, quant_type = settings.flag("double_quantization", default=True), settings.text("quantization_type")
        adapters.bitsandbytes(settings, bits, "quantization_bit", compute, double, quant_type or "nf4", compute)
        settings.say("rest_dtype", loaded, "quantization_bit")
    settings.value("quantization_method")
    settings.value("quantization_type")
    settings.value("double_quantization")
    if kind == "lora":
        block = adapters.block(settings, "lora", _LORA, {"r": 8, "target_modules": "all-linear"})
        if isinstance(block.get("target_modules"), list) and "all" in block["target_modules"]:
            block["target_modules"] = "all-linear"
        block.setdefault("lora_alpha", 2 * block["r"])
        if settings.value("pissa_init"):
            block["init_lora_weights"] = "pissa"
        settings.say("method", block, "finetuning_type")
    elif kind == "full":
        settings.say("method", {"name": "full"}, "finetuning_type")
        _full(settings)
    elif kind == "freeze":
        _freeze(settings)
    elif kind == "oft":
        block = adapters.block(settings, "oft", _OFT, {"oft_block_size": 32, "target_modules": "all-linear"})
        if rank := settings.whole("oft_rank"):
            block |= {"r": rank, "oft_block_size": 0}
        settings.say("method", block, "finetuning_type")
    else:
        settings.problem("method", "finetuning_type", "has no reader; known are lora, oft, full and freeze")


def _loaded(reading: Reading) -> str:
    """The checkpoint's dtype; bfloat16 where the model is not known, which is refused where the plan is read."""
    with suppress(InputError, KeyError):
        return checkpoint_dtype(reading.plan["model"])
    return "bfloat16"


def _full(settings: Settings) -> None:
    if settings.flag("use_galore"):
        settings.say("optimizer", "galore-adamw", "use_galore")
        settings.say("optimizer_rank", settings.whole("galore_rank") or 16, "galore_rank")
    for name in ("use_apollo", "use_badam", "use_adam_mini"):
        if settings.flag(name):
            settings.problem("optimizer", name, "has no rule")
    if settings.flag("use_muon"):
        settings.say("optimizer", "muon", "use_muon")


def _freeze(settings: Settings) -> None:
    """The last layers train, whole, and neither the final norm nor the head (``_setup_freeze_tuning``)."""
    layers = settings.whole("freeze_trainable_layers")
    layers = 2 if layers is None else layers
    modules, extra = settings.names("freeze_trainable_modules"), settings.names("freeze_extra_modules")
    if layers < 0 or modules not in (None, ["all"]) or extra is not None:
        settings.problem("method", "finetuning_type", "of chosen modules or of the first layers has no rule")
        return
    block = {"name": "freeze", "top_layers": layers, "train_norm": False, "train_head": False}
    settings.say("method", block, "finetuning_type")
    settings.reading.note(
        "freeze",
        settings.reading.plan.get("dtype"),
        "the trained layers are cast to float32 unless pure_bf16 is set; here "
        "they have the dtype of the others, which is less",
    )
