"""Axolotl's YAML (``axolotl/utils/schemas`` and ``axolotl/loaders``, 0.19)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError, shown
from . import adapters, deepspeed, hugging_face, images, sharing
from .settings import Reading, Settings

TOOL = "Axolotl 0.19"
MARKS = frozenset({
    "base_model", "micro_batch_size", "sequence_len", "sample_packing", "adapter", "lora_target_linear",
    "pad_to_sequence_len", "val_set_size", "special_tokens", "flash_attention", "num_epochs",
})  # fmt: skip
"""Keys that no other tool has, by which a file is known."""
_LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "exclude_modules": "lora_exclude_modules",
    "layers_to_transform": "peft_layers_to_transform",
    "layers_pattern": "peft_layers_pattern",
    "use_dora": "peft_use_dora",
    "use_rslora": "peft_use_rslora",
    "init_lora_weights": "peft_init_lora_weights",
    "rank_pattern": "lora_rank_pattern",
    "alpha_pattern": "lora_alpha_pattern",
    "trainable_token_indices": "peft_trainable_token_indices",
}
_ATTENTION = {
    "flash_attention": "flash",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What ``axolotl train`` does with these keys. Raises ``InputError``."""
    reading = Reading(TOOL, plan={"trainer": "axolotl"})
    settings = Settings(keys, reading, where)
    settings.refused("trains a classifier by TRL's RewardTrainer, or its kin, which has no reader here", *_REWARDS)
    settings.refused("learns what a teacher has said, by Axolotl's own KD trainer, which has no rules here", *_DISTILLS)
    _preferences(settings)
    if (model := settings.text("base_model")) is not None:
        settings.say("model", model, "base_model")
    settings.whole_of("seq", "sequence_len")
    settings.whole_of("batch", "micro_batch_size")
    settings.whole_of("gradient_accumulation_steps", "gradient_accumulation_steps")
    _precision(settings)
    hugging_face.optimizer(settings, "optimizer")
    settings.number("max_grad_norm")  # the norm of the gradients is computed even where it is 0
    _checkpointing(settings)
    _attention(settings)
    _loss(settings)
    _method(settings)
    if (loss := reading.plan.get("loss")) and reading.plan["trainer"] != "axolotl":
        del reading.plan["loss"]
        reading.note("loss", loss, "the trainer of preferences has a loss of its own, in whose place it does not come")
    batch = settings.whole("eval_batch_size") or reading.plan.get("batch", 1)
    reading.plan["run"] = {"device_map": "auto", "per_device_eval_batch_size": batch}
    if settings.flag("sample_packing") and reading.plan["trainer"] == "axolotl":
        if reading.plan.get("attention") == "flash":
            settings.say("packing", True, "sample_packing")
        else:
            reading.note(
                "sample_packing",
                True,
                "micro_batch_size rows of sequence_len tokens, since the attention takes no lengths",
            )
    reading.note(
        "PYTORCH_ALLOC_CONF",
        "expandable_segments:True",
        "Axolotl sets it; before PyTorch 2.9 with roundup_power2_divisions:16, which has no rule here",
    )
    _images(settings)
    if (alpha := settings.number("neftune_noise_alpha")) is not None:
        settings.say("neftune_noise_alpha", alpha, "neftune_noise_alpha")
    _devices(settings)
    if (given := settings.text("deepspeed")) is not None:
        reading.add(deepspeed.read_file(given, where))
    settings.unknown("torch_compile", "torch_compile_mode", "tiled_mlp", *_KERNELS)
    settings.unknown("layer_offloading", "selective_checkpointing", "fp8", "relora")
    settings.without_rule(
        "batches are padded to the longest of their samples otherwise; the answer is for a full sequence_len",
        "pad_to_sequence_len",
    )
    settings.finish()
    return reading


def _images(settings: Settings) -> None:
    """``ProcessingStrategy``: images are padded to squares of ``image_size``, or resized to its width and height."""
    if not images.sees(settings, "image_size", "image_resize_algorithm", "processor_type", "is_multimodal"):
        return
    size = settings.value("image_size")
    for name in ("image_resize_algorithm", "processor_type", "is_multimodal"):
        settings.value(name)
    if isinstance(size, list) and len(size) == 2:  # width and height; a plan has the height first
        settings.say("image_size", size[::-1], "image_size")
        size = None
    elif size is not None and type(size) is not int:
        settings.problem("image_size", "image_size", "is no side of a square and no width and height in pixels")
        size = None
    images.of_one_side(settings, size, "", "image_size")


def _preferences(settings: Settings) -> None:
    """``HFRLTrainerBuilder``: trainers of TRL 1.9, whose step Axolotl leaves as it is."""
    reading, rl = settings.reading, settings.text("rl")
    inner = settings.inner("trl")
    if rl is None:
        return
    if rl not in _TRAINERS:
        why = _GENERATE.get(rl, f"is not known; Axolotl's are {', '.join([*_TRAINERS, *_GENERATE])}")
        settings.problem("rl", "rl", why)
        return
    settings.say("trainer", _TRAINERS[rl], "rl")
    if rl == "ipo":
        settings.say("loss_type", "ipo", "rl")
    elif (losses := settings.names("dpo_loss_type")) is not None:
        settings.say("loss_type", losses, "dpo_loss_type")
    for block, names in ((inner, ("beta",)), (settings, ("rl_beta", "dpo_beta")), (settings, ("orpo_alpha",))):
        if (beta := block.number(*names)) is not None and "beta" not in reading.plan:
            block.say("beta", beta, *names)
    if settings.flag("precompute_ref_log_probs") and rl in ("dpo", "ipo"):  # which alone are given it
        settings.say("precompute_ref_log_probs", True, "precompute_ref_log_probs")
    if settings.flag("rl_adapter_ref_model") and settings.raw("adapter") is not None:
        settings.say("reference", "copy", "rl_adapter_ref_model")
    settings.refused("has no rule here", "dpo_use_weighting", "dpo_padding_free", "dpo_use_liger_kernel")
    settings.without_rule("a few numbers a row", *_WEIGHTS)
    if settings.flag("sample_packing"):
        reading.note("sample_packing", True, "a batch of preferences is not packed")
    if rl in ("dpo", "ipo"):
        reading.note("empty_cache", True, "after each batch Axolotl frees what PyTorch reserves and does not use")


_REWARDS = ("reward_model", "process_reward_model")
_DISTILLS = ("kd_trainer", "kd_online_server_base_url")
_TRAINERS = {
    **dict.fromkeys(("dpo", "ipo"), "axolotl-dpo"),
    **{rl: f"axolotl-{rl}" for rl in ("kto", "orpo", "simpo")},
}
"""The plan's trainers by Axolotl's ``rl``."""
_GENERATE = {
    **dict.fromkeys(
        ("grpo", "gdpo"),
        "runs TRL 1.9's GRPOTrainer, of which no steps are shipped; ask `estimator estimate` with --trainer trl-grpo "
        "for TRL 1.16's",
    ),
    "ebft": "runs Axolotl's own EBFT trainer, which has no rules here",
}
"""Why a value of ``rl`` is refused."""
_WEIGHTS = (
    "dpo_label_smoothing", "dpo_loss_weights", "simpo_gamma", "cpo_alpha", "kto_desirable_weight",
    "kto_undesirable_weight",
)  # fmt: skip


def _devices(settings: Settings) -> None:
    """``prepare_optim_env``. ``fsdp_config`` alone asks for FSDP, and the version is 1 where none is given."""
    version = settings.whole("fsdp_version") or 1
    if settings.raw("fsdp") or not settings.raw("fsdp_config"):
        hugging_face.fsdp(settings, version)
    else:
        sharing.fsdp(settings.inner("fsdp_config"), version)
    hugging_face.ddp(settings)
    names = {"tp_size": "tensor_parallel_size", "cp_size": "context_parallel_size", "ep_size": "expert_parallel_size"}
    sharing.mesh(settings, {"dp_replicate_size": "dp_replicate_size", "dp_shard_size": "dp_shard_size", **names})


def _precision(settings: Settings) -> None:
    """``resolve_dtype``, and ``TrainerBuilderBase`` for autocast: none where ``bf16: full``."""
    full = settings.raw("bf16") == "full"
    bf16 = full or settings.flag("bf16", default=not (settings.flag("fp16") or settings.flag("float16")))
    pure = settings.flag("bfloat16")
    if settings.flag("fp16") and bf16 and settings.raw("bf16") not in (None, "auto"):
        raise InputError(f"{settings.where}: bf16 and fp16 are both set; keep one of them")
    half = settings.flag("fp16") or settings.flag("float16") or (settings.flag("load_in_8bit") and not bf16)
    dtype = "bfloat16" if bf16 or pure else "float16" if half else "float32"
    if dtype != "bfloat16" or full:
        named = settings.given("bf16", "fp16", "float16")
        settings.say("autocast", "float16" if settings.flag("fp16") and not full else None, named)
    if dtype != "bfloat16":
        settings.say("dtype", dtype, settings.given("bf16", "fp16", "float16"))


def _checkpointing(settings: Settings) -> None:
    """Gradient checkpointing, with the layers' inputs on the host where activations are offloaded."""
    given = settings.raw("gradient_checkpointing")
    kind = settings.value("activation_offloading")
    if given in ("offload", "offload_disk", "unsloth"):
        settings.value("gradient_checkpointing")
        kind = "disk" if given == "offload_disk" else True
    else:
        hugging_face.checkpointing(settings)
    named = "activation_offloading" if "activation_offloading" in settings else "gradient_checkpointing"
    if kind == "disk":
        settings.problem("saved_activations", named, "puts activations on a disk, which has no rule")
    elif kind == "hidden_states":
        settings.say("checkpointing", "offloaded", named)
    elif kind:
        settings.say("checkpointing", "layer", named)
        hugging_face.offloading(settings, named)
        if settings.raw("adapter") is None:  # torch's own wrapper of each layer
            settings.say("use_reentrant", False, named)
        elif settings.flag("load_in_4bit") or settings.flag("load_in_8bit"):  # as prepare_model_for_kbit_training does
            settings.say("use_reentrant", True, named)
    settings.value("gradient_checkpointing_kwargs")


def _attention(settings: Settings) -> None:
    hugging_face.attention(settings, "attn_implementation")
    for name, kind in _ATTENTION.items():
        if settings.flag(name):
            settings.say("attention", kind, name)
    for name in ("flex_attention", "xformers_attention", "sage_attention", "sdpa_varlen", "s2_attention"):
        if settings.flag(name):
            settings.problem("attention", name, "has no rule; known are flash_attention, sdp_attention and eager")


def _loss(settings: Settings) -> None:
    plugins = str(settings.value("plugins") or "")
    if settings.flag("cut_cross_entropy", default="cut_cross_entropy" in plugins):
        settings.say("loss", "cce", "cut_cross_entropy")
    elif settings.flag("liger_fused_linear_cross_entropy"):
        settings.say("loss", "liger", "liger_fused_linear_cross_entropy")
    settings.without_rule(
        "the answer is of PyTorch's operators, which save more",
        "liger_rope",
        "liger_rms_norm",
        "liger_glu_activation",
        "liger_layer_norm",
        "liger_cross_entropy",
        "chunked_cross_entropy",
    )


def _method(settings: Settings) -> None:
    adapter = settings.text("adapter")
    width = adapters.bits(settings)
    if adapter == "qlora" and width != 4:
        raise InputError(f"{settings.where}: adapter: qlora needs load_in_4bit: true (Axolotl's rule)")
    if width is not None:
        if adapter is None:
            settings.problem("method", f"load_in_{width}bit", "needs adapter: lora or qlora (Axolotl's rule)")
        dtype = settings.reading.plan.get("dtype", "bfloat16")
        adapters.bitsandbytes(settings, width, f"load_in_{width}bit", dtype, double=True, storage="bfloat16")
        settings.say("kbit_preparation", False, f"load_in_{width}bit")  # what it casts to float32 is cast back
        settings.say("rest_dtype", dtype, f"load_in_{width}bit")
    settings.refused(
        "quantises experts while they are loaded (bitsandbytes.nn.parametrize), which has no rules here; without it "
        "the answer is of experts that are not quantised, which are larger",
        "quantize_moe_experts",
    )
    if settings.flag("reinit_weights", "random_init_weights"):
        if width is not None:
            settings.problem(
                "dtype", settings.given("reinit_weights", "random_init_weights"), "makes weights that are not quantised"
            )
        settings.reading.note("reinit_weights", True, "no weights are read, so loading takes other bytes than it says")
    if adapter in ("lora", "qlora"):
        block = adapters.block(settings, "lora", _LORA)
        if settings.flag("lora_target_linear"):
            block["target_modules"], settings.reading.lists_layers = "all-linear", True
            settings.reading.said_by["target_modules"] = "lora_target_linear"
        elif "target_modules" not in block and "target_parameters" not in block:
            raise InputError(f"{settings.where}: adapter: {adapter} needs lora_target_modules or lora_target_linear")
        by_trl = settings.reading.plan["trainer"] in ("axolotl-dpo", "axolotl-kto")  # which makes the adapter itself
        if settings.value("peft_autocast_adapter_dtype") is False and not by_trl:
            block["adapter_dtype"] = "bfloat16"
        elif by_trl and width is not None:
            block["adapter_dtype"] = "bfloat16"
            settings.reading.note("adapter_dtype", "bfloat16", "TRL casts the adapters of a quantised model")
        settings.say("method", block, "adapter")
        if width != 8 and not any(name in settings for name in _KERNELS):
            settings.reading.note(
                ", ".join(_KERNELS),
                True,
                "Axolotl turns its fused LoRA kernels on where none is named; they have no "
                "rules, and the answer is of PEFT's layers, which save more",
            )
        return
    if adapter is not None:
        settings.problem("method", "adapter", "has no reader; known are lora and qlora")
        return
    if unfrozen := settings.value("unfrozen_parameters"):
        settings.problem("method", "unfrozen_parameters", f"{shown(unfrozen)} has no rule; see --method freeze")
    settings.say("method", {"name": "full"}, "adapter")
    if settings.reading.plan.get("attention") != "flash":
        settings.reading.note(
            "embeddings",
            settings.reading.plan.get("dtype", "bfloat16"),
            "Axolotl casts norms and embeddings of full fine-tuning to float32 unless flash_attention or "
            "cut_cross_entropy is on; the answer has them in the dtype of the other weights, which is less",
        )
