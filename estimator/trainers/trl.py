"""TRL's YAML and options: ``ScriptArguments``, ``SFTConfig`` and ``ModelConfig`` (TRL 1.16)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import InputError
from ..io.fields import torch_dtype
from ..plans.presets import checkpoint_dtype
from . import adapters, hugging_face, images
from .settings import Reading, Settings

TOOL = "TRL 1.16"
_GENERATE = ("trl-grpo", "trl-rloo")
_WITH_REFERENCE = ("trl-dpo", "trl-kto")
_TAUGHT = ("trl-gkd", "trl-distillation")
_BY_VLLM = (
    "use_vllm", "vllm_mode", "vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_max_model_length",
    "temperature", "top_p", "top_k", "log_completions", "generation_kwargs",
)  # fmt: skip
_KEYS_OF: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("trl-dpo",): (
        "discopop_tau", "f_alpha_divergence_coef", "f_divergence_type", "ld_alpha", "loss_weights", "use_weighting",
        "rpo_alpha", "reference_free", "ref_model_init_kwargs",
    ),
    ("trl-kto",): ("desirable_weight", "undesirable_weight"),
    ("trl-reward",): ("center_rewards_coefficient",),
    ("trl-cpo",): ("cpo_alpha", "simpo_gamma"),
    ("trl-grpo",): (
        "scale_rewards", "importance_sampling_level", "delta", "top_entropy_quantile", "epsilon_high",
        "mask_truncated_completions", "use_bias_correction_kl",
    ),
    ("trl-rloo",): ("normalize_advantages", "reward_clip_range", "rloo_k"),
    _GENERATE: (
        "num_generations", "steps_per_generation", "num_iterations", "generation_batch_size",
        "reward_funcs", "reward_weights", "reward_model_name_or_path", "reward_model_path", "epsilon",
    ),
    _WITH_REFERENCE: ("precompute_ref_log_probs", "precompute_ref_batch_size"),
    _TAUGHT: ("teacher_model_name_or_path", "teacher_model_init_kwargs"),
    ("trl-gkd",): ("lmbda", "seq_kd"),
    ("trl-distillation",): ("teacher_model_revision",),
    (*_GENERATE, "trl-distillation"): _BY_VLLM,
    (*_GENERATE, "trl-distillation", "trl-orpo", "trl-cpo"): ("max_completion_length",),
    (*_WITH_REFERENCE, *_GENERATE, *_TAUGHT, "trl-orpo", "trl-cpo"): ("beta",),
    (*_WITH_REFERENCE, *_GENERATE, "trl-orpo", "trl-cpo"): ("max_prompt_length",),
}  # fmt: skip
"""Keys that only the configs of some trainers have (TRL 1.16, and earlier releases of the same trainers)."""
_LOSSES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("sigmoid", "hinge", "ipo"), ("trl-dpo", "trl-cpo")),
    **dict.fromkeys(("simpo", "alphapo"), ("trl-cpo",)),
    **dict.fromkeys(("kto", "apo_zero_unpaired"), ("trl-kto",)),
    **dict.fromkeys(("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"), ("trl-grpo",)),
    **dict.fromkeys(("nll", "chunked_nll", "dft"), ("trl-sft",)),
}
"""The trainers that have a loss; others are of ``trl-dpo``."""
MARKS = frozenset({
    *(key for keys in _KEYS_OF.values() for key in keys),
    "use_peft", "max_length", "max_seq_length", "packing_strategy", "padding_free", "loss_type", "model_init_kwargs",
    "dataset_mixture", "assistant_only_loss", "completion_only_loss", "activation_offloading", "dataset_num_proc",
    "use_bnb_nested_quant", "dataset_text_field", "eval_packing", "dataset_train_split", "dataset_test_split",
    "chat_template_path", "dataset_streaming",
})  # fmt: skip
"""Keys that no other tool has, by which a file is known."""
_LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
    "task_type": "lora_task_type",
}


def read(keys: Mapping[str, Any], where: str, trainer: str | None = None, looks: bool = False) -> Reading:
    """What TRL's script of a trainer does with these keys. Raises ``InputError``.

    ``trainer`` is the plan's name of it, where a command says it. Otherwise the keys do, which only some have.
    ``looks``: it is a script for rows with images.
    """
    found = [trainer] if trainer is not None else trainers_of(keys)
    reading = Reading(TOOL, plan={"trainer": found[0]})
    settings = Settings(keys, reading, where)
    if len(found) > 1:
        fits = f"the keys fit {' and '.join(found)}; --trainer says another than the first"
        reading.note("trainer", found[0], fits)
    read_into(settings)
    own(settings, found[0])
    if looks:
        images.of_one_side(settings, None, "")
    settings.finish()
    return reading


def trainers_of(keys: Mapping[str, Any]) -> list[str]:
    """The trainers whose configs have all of these keys, those first that are used most."""
    found = [
        *("trl-dpo", "trl-grpo", "trl-kto", "trl-rloo", "trl-distillation", "trl-gkd", "trl-orpo", "trl-cpo"),
        "trl-reward",
    ]
    told = [trainers for trainers, own in _KEYS_OF.items() if not {*own}.isdisjoint(keys)]
    losses = keys.get("loss_type")
    for loss in losses if isinstance(losses, list) else [losses]:
        told += [_LOSSES.get(loss, ("trl-dpo",))] if isinstance(loss, str) else []
    if not told or ("trl-sft",) in told:
        return ["trl-sft"]
    for trainers in told:
        found = [one for one in found if one in trainers] or found
    return found


def own(settings: Settings, trainer: str) -> None:
    """What the config of this trainer alone has."""
    if trainer == "trl-sft":
        _supervised(settings)
    else:
        _other(settings, trainer)


def _supervised(settings: Settings) -> None:
    """What ``SFTConfig`` alone has."""
    reading = settings.reading
    strategy = settings.text("packing_strategy") or "bfd"
    if strategy not in ("bfd", "bfd_split", "wrapped"):
        reading.note("packing_strategy", strategy, "a strategy of earlier releases, read as bfd")
    if settings.flag("padding_free") or (settings.flag("packing") and strategy != "wrapped"):
        settings.say("packing", True, "packing", "padding_free")
        reading.plan["return_seq_idx"] = True
    elif settings.flag("packing"):
        reading.note(
            "packing_strategy", strategy, "samples are cut to rows of max_length tokens, which have no padding"
        )
    if settings.text("loss_type") == "dft":
        reading.note("loss_type", "dft", "answered as nll, whose logits are the same")
    for name in ("completion_only_loss", "assistant_only_loss"):
        if settings.flag(name):
            reading.note(name, True, "the answer is for a batch in which each token has a label, which is the most")


def _other(settings: Settings, trainer: str) -> None:
    """What the configs of the trainers of preferences, rewards and reinforcement have."""
    losses = settings.value("loss_type")
    if losses is not None:
        settings.say("loss_type", losses, "loss_type")
    if (beta := settings.number("beta")) is not None:
        settings.say("beta", beta, "beta")
    if settings.flag("precompute_ref_log_probs"):
        settings.say("precompute_ref_log_probs", True, "precompute_ref_log_probs")
    prompt, completion = settings.whole("max_prompt_length"), settings.whole("max_completion_length")
    if trainer in _TAUGHT:
        _teacher(settings)
    if trainer == "trl-gkd":
        _of_gkd(settings)
    elif trainer in (*_GENERATE, "trl-distillation"):
        settings.whole_of("num_generations", "num_generations", "rloo_k")
        completion = completion or 512
        if prompt is None:
            why = "a prompt as long as a completion, since the file does not say it; --seq counts both"
            settings.reading.assume("seq", 2 * completion, why)
        else:
            settings.say("seq", prompt + completion, "max_prompt_length", "max_completion_length")
        rest = settings.reading.plan["seq"] - completion
        prompt = prompt or (rest if rest > 0 else completion)
        settings.say("prompt_seq", prompt, "max_prompt_length", "max_completion_length")
        settings.whole_of("steps_per_generation", "steps_per_generation")
        settings.whole_of("num_iterations", "num_iterations")
        settings.refused(_OTHER_BATCHES, "generation_batch_size")
        settings.refused(_OTHER_GENERATION, "use_transformers_paged", "use_transformers_continuous_batching")
        if settings.flag("use_vllm"):
            _vllm(settings)
        if (scores := settings.text("reward_model_name_or_path", "reward_model_path")) is not None:
            settings.say("reward_model", scores, "reward_model_name_or_path", "reward_model_path")
    elif prompt is not None and prompt < settings.reading.plan.get("seq", 1024):
        settings.say("prompt_seq", prompt, "max_prompt_length")
    settings.refused("has no rule here", "use_weighting", "ld_alpha", "padding_free", "rpo_alpha", "reference_free")
    _synchronised(settings, trainer)
    settings.refused("is a loss of Liger's in earlier releases, which TRL 1.16 does not have", "use_liger_loss")
    if settings.text("f_divergence_type") not in (None, "reverse_kl"):
        settings.problem("f_divergence_type", "f_divergence_type", "has no rule here")
    settings.without_rule("a few numbers a row", "center_rewards_coefficient", "scale_rewards", "label_smoothing")


def _synchronised(settings: Settings, trainer: str) -> None:
    """``SyncRefModelCallback``: weights of the copy are changed in place behind a step. What TRL refuses is named."""
    for name in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
        settings.value(name)
    if not settings.flag("sync_ref_model"):
        return
    plan = settings.reading.plan
    why = {
        "use_peft": "method" in plan,
        "precompute_ref_log_probs": "precompute_ref_log_probs" in plan,
        "beta: 0": trainer in _GENERATE and not plan.get("beta", 0.05 if trainer == "trl-rloo" else 0.0),
    }
    for key, is_set in why.items():
        if is_set:
            settings.problem("sync_ref_model", "sync_ref_model", f"does not go with {key}, which keeps no copy (TRL)")
            return
    settings.reading.note("sync_ref_model", True, "the reference's weights are changed in place, which takes nothing")


def _teacher(settings: Settings) -> None:
    """``teacher_model_name_or_path`` and ``teacher_model_init_kwargs``. TRL's scripts load it in the model's dtype."""
    inner = settings.inner("teacher_model_init_kwargs")
    name, dtype = settings.text("teacher_model_name_or_path"), inner.dtype("dtype", "torch_dtype")
    if name is not None:
        block = {"model": name, **({} if dtype is None else {"dtype": dtype})}
        settings.say("teacher", block, "teacher_model_name_or_path")
    inner.refused("has no rule here; --teacher takes a model with its dtype", "quantization_config")
    inner.refused("asks for code that comes with the model, which is never run", "trust_remote_code")
    inner.finish(("use_cache", "revision", "device_map", "attn_implementation"))
    settings.value("teacher_model_revision")


def _of_gkd(settings: Settings) -> None:
    """``GKDConfig``: completions of ``max_new_tokens`` behind prompts, and rows of ``max_length``."""
    if (share := settings.number("lmbda")) is not None:
        settings.say("lmbda", share, "lmbda")
    if settings.flag("seq_kd"):
        settings.say("seq_kd", True, "seq_kd")
    new, seq = settings.whole("max_new_tokens") or 128, settings.reading.plan.get("seq", 1024)
    if new < seq:
        settings.say("prompt_seq", seq - new, "max_new_tokens")


def _vllm(settings: Settings) -> None:
    """What TRL's configs say of vLLM, in the process or on a server."""
    settings.say("use_vllm", True, "use_vllm")
    mode = settings.text("vllm_mode")
    if mode is not None:
        settings.say("vllm_mode", mode, "vllm_mode")
    share, asleep = settings.number("vllm_gpu_memory_utilization"), settings.flag("vllm_enable_sleep_mode")
    ranks, longest = settings.whole("vllm_tensor_parallel_size"), settings.whole("vllm_max_model_length")
    if mode != "server":
        for key, value in (
            ("vllm_gpu_memory_utilization", share),
            ("vllm_enable_sleep_mode", asleep or None),
            ("vllm_tensor_parallel_size", ranks),
            ("vllm_max_model_length", longest),
        ):
            if value is not None:
                settings.say(key, value, key)
    for name in ("base_url", "host", "port", "timeout"):
        settings.value(f"vllm_server_{name}")
    if settings.value("vllm_importance_sampling_correction") is False:
        settings.problem("use_vllm", "vllm_importance_sampling_correction", "has no rule here")


_OTHER_BATCHES = "counts the completions of all processes, which has no rule here; give steps_per_generation"
_OTHER_GENERATION = "generates in another way than the model's own generate, which has no rule here"


def read_into(settings: Settings) -> None:
    """Read TRL's keys, and transformers' among them. Raises ``InputError``."""
    reading = settings.reading
    if (model := settings.text("model_name_or_path", "model")) is not None:
        settings.say("model", model, "model_name_or_path", "model")
    hugging_face.read(settings, fuses_loss=False)
    on_cpu = "runtime" in reading.plan  # which a file says of a CPU alone
    reading.plan["run"] |= {} if on_cpu else {"device_map": "auto"}
    if settings.value("bf16") is False and not settings.flag("fp16"):
        settings.say("autocast", None, "bf16")
    _dtype(settings)
    hugging_face.attention(settings, "attn_implementation")
    _method(settings)
    if settings.raw("max_length") is None and "max_length" in settings.present():
        reading.note("max_length", None, "nothing is cut off, so the longest sample decides; --seq gives its tokens")
    settings.whole_of("seq", "max_length", "max_seq_length")
    if settings.flag("activation_offloading"):
        settings.reading.plan.setdefault("checkpointing", "layer")
        hugging_face.offloading(settings, "activation_offloading")
    settings.without_rule("on a device other than a Neuron it pads nothing unless it is a number", "pad_to_multiple_of")


def _dtype(settings: Settings) -> None:
    """``ModelConfig.dtype`` and ``SFTConfig.model_init_kwargs``: float32 unless they say another."""
    inner = settings.inner("model_init_kwargs")
    for block in (inner, settings):
        given = block.given("dtype", "torch_dtype")
        if block.raw(given) == "auto":
            block.value("dtype", "torch_dtype")
            with suppress(InputError):  # an unknown model is refused where the plan is read
                block.say("dtype", checkpoint_dtype(settings.reading.plan.get("model")), given)
            break
        if (dtype := block.dtype("dtype", "torch_dtype")) is not None:
            block.say("dtype", dtype, given)
            break
    hugging_face.attention(inner, "attn_implementation")
    inner.refused("asks for code that comes with the model, which is never run", "trust_remote_code")
    inner.finish(("use_cache", "revision"))


def _method(settings: Settings) -> None:
    """``get_peft_config`` and ``get_quantization_config``."""
    reading = settings.reading
    width = adapters.bits(settings)
    if width is not None:
        dtype = reading.plan.get("dtype", "float32")
        kind = settings.text("bnb_4bit_quant_type") or "nf4"
        name = f"load_in_{width}bit"
        double = settings.flag("use_bnb_nested_quant")
        storage = torch_dtype(settings.text("bnb_4bit_quant_storage"))
        adapters.bitsandbytes(settings, width, name, dtype, double, kind, storage)
        settings.say("rest_dtype", dtype, name)
    settings.value("bnb_4bit_quant_type")
    settings.value("bnb_4bit_quant_storage")
    if settings.flag("use_peft"):
        block = adapters.block(settings, "lora", _LORA, {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
        if width is not None:
            block["adapter_dtype"] = "bfloat16"
            reading.note("adapter_dtype", "bfloat16", "SFTTrainer casts the adapters of a quantised model")
        settings.say("method", block, "use_peft")
        return
    given = [name for name in _LORA.values() if name in settings]
    for name in _LORA.values():
        settings.value(name)
    if given:
        reading.note("use_peft", False, f"all parameters train: TRL reads {', '.join(given)} only with use_peft: true")
