"""The arguments of Unsloth's calls (2026.10), which stand in a script: a file restates them.

They are in blocks named after the calls (``from_pretrained``, ``get_peft_model``, ``SFTConfig``), or side by side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from . import adapters, trl
from .settings import Reading, Settings

TOOL = "Unsloth 2026.10"
MARKS = frozenset(
    {"training", "full_finetuning", "use_gradient_checkpointing", "fast_inference", "max_lora_rank", "model_name"}
)
"""Keys that no other tool has, by which a file is known."""
TRAINERS = {
    "SFT": "trl-sft", "DPO": "trl-dpo", "KTO": "trl-kto", "ORPO": "trl-orpo", "CPO": "trl-cpo", "GRPO": "trl-grpo",
    "RLOO": "trl-rloo", "Reward": "trl-reward",
}  # fmt: skip
"""The plan's trainers by the beginnings of their classes' names, to which Unsloth adds its own."""
BLOCKS = (
    *("from_pretrained", "get_peft_model", "TrainingArguments", "UnslothTrainingArguments", "UnslothTrainer"),
    *(f"{own}{name}{end}" for name in TRAINERS for end in ("Config", "Trainer") for own in ("", "Unsloth")),
)
"""Names of calls, by which a file is known."""
_OTHERS = ("args", "training", "lora", "data", "model")
"""Other names of blocks: of a call's arguments, and in the files of Unsloth's command line."""
_LORA = {
    "r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "target_modules",
    "modules_to_save": "modules_to_save",
    "layers_to_transform": "layers_to_transform",
    "use_rslora": "use_rslora",
    "init_lora_weights": "init_lora_weights",
}
_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


_WHOLE = frozenset({"embed_tokens", "lm_head"})


def side_by_side(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of all calls in one mapping. Raises ``InputError`` for two values of one argument."""
    found: dict[str, Any] = {}
    for name, value in keys.items():
        block = (
            value
            if isinstance(value, Mapping) and str(name).rpartition(".")[2] in (*BLOCKS, *_OTHERS)
            else {name: value}
        )
        for key, own in block.items():
            if found.setdefault(str(key), own) != own:
                raise InputError(f"{where}: {key} has two values, {found[str(key)]} and {own}; keep one of them")
    return found


def _trainer(keys: Mapping[str, Any], trl_keys: Settings, where: str) -> str:
    """The trainer whose config or call the file has, or else whose keys. Raises ``InputError`` for two of them."""
    classes = (re.fullmatch(r"(?:Unsloth)?(\w+)(?:Config|Trainer)", str(key).rpartition(".")[2]) for key in keys)
    found = dict.fromkeys(one[1] for one in classes if one is not None and one[1] not in ("Unsloth", "Lora"))
    if unknown := [name for name in found if name not in TRAINERS]:
        raise InputError(f"{where}: {unknown[0]} is no trainer with rules; known are {', '.join(TRAINERS)}")
    if len(found) > 1:
        raise InputError(f"{where}: {' and '.join(found)} are two trainers; keep the blocks of one of them")
    return TRAINERS[next(iter(found))] if found else trl.trainers_of(dict.fromkeys(trl_keys.present()))[0]


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What Unsloth's calls do with these arguments. Raises ``InputError``."""
    reading = Reading(TOOL)
    settings = Settings(side_by_side(keys, where), reading, where)
    trl_keys = Settings({key: settings.raw(key) for key in settings.present() if key not in _OWN}, reading, where)
    trainer = reading.plan["trainer"] = _trainer(keys, trl_keys, where)
    name = settings.text("model_name", "model", "model_name_or_path")
    if name is not None:
        settings.say("model", re.sub(r"-(unsloth-)?bnb-4bit$", "", name), "model_name", "model", "model_name_or_path")
    full = settings.flag("full_finetuning") or settings.text("training_type") == "full"
    four = settings.flag(
        "load_in_4bit", default=not (full or settings.flag("load_in_8bit") or settings.flag("load_in_16bit"))
    )
    trl.read_into(trl_keys)
    longest = settings.whole("max_seq_length") or 2048
    if trainer == "trl-grpo":
        _of_grpo(settings, longest)
    trl.own(trl_keys, trainer)
    dtype = settings.dtype("dtype") or "bfloat16"
    if trl_keys.raw("fp16") is True and dtype == "bfloat16":
        _only_in_float16(reading, where)
    reading.assume("autocast", dtype, "Unsloth takes the GPU's half precision where the arguments name none")
    settings.whole_of("batch", "batch_size")
    reading.assume("batch", 4, f"{TOOL} sets it where the arguments do not")
    reading.assume("gradient_accumulation_steps", 2, f"{TOOL} sets it where the arguments do not")
    reading.assume("optimizer", "adamw-8bit", f"{TOOL} sets it where the arguments do not")
    reading.assume("seq", longest, "from_pretrained's max_seq_length")
    if four or settings.flag("load_in_8bit"):
        width = 4 if four else 8
        adapters.bitsandbytes(settings, width, f"load_in_{width}bit", dtype, double=True)
        settings.say("rest_dtype", dtype, "dtype")
    else:
        settings.say("dtype", "float32" if full and settings.flag("float32_mixed_precision") else dtype, "dtype")
    if trainer == "trl-sft":
        reading.assume("loss", "unsloth", "its chunks take half of the GPU's free memory, and 4 GiB at most")
    else:
        reading.note("loss", trainer, "Unsloth's own log-probabilities have no rules; the answer is of TRL's")
    _checkpointing(settings)
    if full:
        reading.note("norms", "float32", "full_finetuning casts norms to float32; here they have the weights' dtype")
        settings.say("method", {"name": "full"}, "full_finetuning")
        reading.note("kernels", "transformers'", "full_finetuning compiles transformers' modules")
    else:
        names = {**_LORA, "r": "lora_r"} if "lora_r" in settings else _LORA
        block = adapters.block(settings, "lora", names, {"r": 16, "lora_alpha": 16, "target_modules": _PROJECTIONS})
        targets = block["target_modules"]
        if isinstance(targets, list) and not _WHOLE.isdisjoint(targets):  # trained whole, not adapted
            block["modules_to_save"] = [one for one in targets if one in _WHOLE]
            block["target_modules"] = [one for one in targets if one not in _WHOLE]
        settings.say("method", block, "get_peft_model")
        reading.assume("kernels", "unsloth", _KERNELS)
    halves = ("autocast", "dtype", "rest_dtype", "compute_dtype")
    reading.without_bfloat16 |= {key: "float16" for key in halves if reading.plan.get(key) in ("bfloat16", "float16")}
    reading.without_bfloat16["sdpa_kernel"] = "efficient"  # xFormers' there
    settings.unknown("fast_inference")
    trl_keys.finish(_OWN)
    return reading


_KERNELS = (
    "Unsloth's own MLPs, norms and adapted layers, of Llama, Mistral, Qwen 2 and 3, Gemma, Gemma 2 and Granite with "
    "adapters without dropout or bias. Modules of others are compiled, and are answered as transformers', the most "
    "that they take"
)


def _of_grpo(settings: Settings, longest: int) -> None:
    """What Unsloth's ``GRPOConfig`` sets in place of TRL's."""
    reading, made = settings.reading, settings.whole("max_completion_length") or 512
    if "max_prompt_length" not in settings and made < longest:
        reading.assume("seq", longest, "from_pretrained's max_seq_length, of which the completion is a part")
    if settings.raw("beta") is None and settings.text("loss_type") not in (None, "dapo", "dr_grpo"):
        reading.assume("beta", 0.001, f"{TOOL} sets it with this loss_type")
    generations = settings.whole("num_generations") or 8
    rows = reading.plan.get("batch", 4) * reading.plan.get("gradient_accumulation_steps", 2)
    if rows % generations and not {"steps_per_generation", "generation_batch_size"} & {*settings.present()}:
        reading.plan.pop("batch", None)
        reading.assume("batch", generations, f"{TOOL} takes num_generations where the batch is no multiple of it")


def _only_in_float16(reading: Reading, where: str) -> None:
    """Unsloth stops on ``fp16`` where it loads the model in bfloat16, as it does wherever the GPU has it."""
    reading.problems["autocast"] = (
        f"{where}: fp16: true stops on a GPU with bfloat16 (Unsloth: Model is in bfloat16 precision but you want to "
        "use float16 precision. Set fp16 to `False`); name another, such as --device t4, or set dtype: float16"
    )


_OWN = frozenset({
    *_LORA.values(), "lora_r", "batch_size", "training_type", "model_name", "model", "dtype", "max_seq_length",
    "load_in_4bit", "load_in_8bit", "load_in_16bit", "load_in_fp8", "full_finetuning", "use_gradient_checkpointing",
    "gradient_checkpointing", "fast_inference", "gpu_memory_utilization", "max_lora_rank", "float32_mixed_precision",
    "token", "random_state", "loftq_config", "bias", "device_map", "trust_remote_code", "finetune_language_layers",
    "finetune_vision_layers", "finetune_mlp_modules", "finetune_attention_modules",
})  # fmt: skip
"""Arguments of Unsloth's own calls; the others are the trainer's."""


def _checkpointing(settings: Settings) -> None:
    """``use_gradient_checkpointing``: "unsloth" holds each layer's input in the host's memory."""
    given = settings.value("use_gradient_checkpointing")
    if given is None:
        given = settings.value("gradient_checkpointing")
    kind = "offloaded" if given in (None, "unsloth") else "layer" if given in (True, "true", "True") else "none"
    settings.say("checkpointing", kind, "use_gradient_checkpointing")
    if kind != "none":
        settings.say("use_reentrant", True, "use_gradient_checkpointing")
