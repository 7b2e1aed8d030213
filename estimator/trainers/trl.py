"""TRL's YAML and options: ``ScriptArguments``, ``SFTConfig`` and ``ModelConfig`` (TRL 1.16)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import InputError
from ..io.fields import torch_dtype
from ..plans.presets import checkpoint_dtype
from . import adapters, hugging_face
from .settings import Reading, Settings

TOOL = "TRL 1.16"
_OTHER_TRAINERS = (
    "num_generations", "max_completion_length", "max_prompt_length", "precompute_ref_log_probs",
    "ref_model_init_kwargs", "beta", "reward_model_path", "reward_model_name_or_path", "reward_funcs",
    "desirable_weight", "rpo_alpha",
)  # fmt: skip
"""Keys of TRL's preference and reward trainers."""
MARKS = frozenset({
    *_OTHER_TRAINERS,
    "use_peft", "max_length", "max_seq_length", "packing_strategy", "padding_free", "loss_type", "model_init_kwargs",
    "dataset_mixture", "assistant_only_loss", "completion_only_loss", "activation_offloading", "dataset_num_proc",
    "use_bnb_nested_quant", "dataset_text_field", "eval_packing", "dataset_train_split", "dataset_test_split",
    "chat_template_path", "lora_task_type", "dataset_streaming",
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
}


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What TRL's SFT script does with these keys. Raises ``InputError``."""
    reading = Reading(TOOL, plan={"trainer": "trl-sft"})
    settings = Settings(keys, reading, where)
    settings.refused(
        "is a key of TRL's preference and reward trainers, which have no rules here: ask about an SFT file",
        *_OTHER_TRAINERS,
    )
    read_into(settings)
    settings.finish()
    return reading


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
    if settings.flag("activation_offloading"):
        settings.reading.plan.setdefault("checkpointing", "layer")
        hugging_face.offloading(settings, "activation_offloading")
    for name in ("completion_only_loss", "assistant_only_loss"):
        if settings.flag(name):
            reading.note(name, True, "the answer is for a batch in which each token has a label, which is the most")
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
        adapters.bitsandbytes(settings, width, name, dtype, kind, double, storage)
        settings.say("rest_dtype", dtype, name)
    settings.value("bnb_4bit_quant_type", "bnb_4bit_quant_storage")
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
