"""Words of other programs for what a plan has keys for. Each is refused with the keys to write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engines.registry import KEYS as ENGINES
from ..errors import InputError, options
from ..files import existing


class Given(str):
    """A placeholder for the user's own value."""


_N, _LIST, _SIZE, _NAME = Given("N"), Given("LIST"), Given("SIZE"), Given("NAME")
_DTYPE = Given("DTYPE")
_LORA = {"method": "lora"}
_GENERATED = {"max_new_tokens": _N}
_4BIT, _8BIT = {"dtype": "nf4"}, {"dtype": "int8"}
_BATCH, _SEQ, _RANK = {"batch": _N}, {"seq": _N}, {"r": _N, **_LORA}
_LAYER = {"checkpointing": "layer"}
_FLASH = {"attention": "flash"}
_SEVERAL = "spreads a step over several GPUs, which has no rules here: ask about one of them, with its own batch"
_OFFLOADED = "keeps weights or states outside the GPU, which has no rules here: ask with a smaller optimizer or dtype"
_REWARDED = "is a loop with more than one model or pass, which has no rules here: ask about its training step alone"

Meaning = Mapping[str, Any] | str
"""Keys and values to write in a plan or its blocks, or the reason why there are none."""

KEYS: Mapping[str, Meaning] = {
    # the batch and its sequences
    "batch_size": _BATCH,
    "bs": _BATCH,
    "micro_batch": _BATCH,
    "micro_batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "per_device_train_batch_size": _BATCH,
    "per_device_batch_size": _BATCH,
    "grad_accum": {"gradient_accumulation_steps": _N},
    "grad_accumulation": {"gradient_accumulation_steps": _N},
    "gradient_accumulation": {"gradient_accumulation_steps": _N},
    "accumulation_steps": {"gradient_accumulation_steps": _N},
    "max_length": _SEQ,
    "max_len": _SEQ,
    "max_seq": _SEQ,
    "max_seq_length": _SEQ,
    "max_seq_len": _SEQ,
    "model_max_length": _SEQ,
    "seq_len": _SEQ,
    "seq_length": _SEQ,
    "sequence_length": _SEQ,
    "sequence_len": _SEQ,
    "cutoff_len": _SEQ,
    "context_length": _SEQ,
    "ctx_size": {"n_ctx": _N},
    "num_ctx": {"n_ctx": _N},
    "max_tokens": _GENERATED,
    # precision
    "torch_dtype": {"dtype": _DTYPE},
    "bf16": {"autocast": "bfloat16"},
    "fp16": {"autocast": "float16"},
    "amp": {"autocast": "bfloat16"},
    "mixed_precision": {"autocast": "bfloat16"},
    "precision": {"dtype": _DTYPE},
    "pure_bf16": {"dtype": "bfloat16"},
    "quantization": _4BIT,
    "quantize": _4BIT,
    "quantization_bit": _4BIT,
    "quant": _4BIT,
    "bits": _4BIT,
    "load_in_4bit": _4BIT,
    "4bit": _4BIT,
    "load_in_8bit": _8BIT,
    "8bit": _8BIT,
    "bnb_4bit_quant_type": _4BIT,
    "bnb_4bit_compute_dtype": {"compute_dtype": _DTYPE, **_4BIT},
    "bnb_4bit_use_double_quant": {"double_quant": True, **_4BIT},
    "double_quantization": {"double_quant": True, **_4BIT},
    "prepare_model_for_kbit_training": {"kbit_preparation": True, **_4BIT},
    "qlora": {"method": "qlora"},
    # LoRA
    "rank": _RANK,
    "lora_r": _RANK,
    "lora_rank": _RANK,
    "lora_dim": _RANK,
    "lora_target": {"target_modules": _LIST, **_LORA},
    "lora_target_modules": {"target_modules": _LIST, **_LORA},
    "dora": {**_LORA, "use_dora": True},
    "rslora": {**_LORA, "use_rslora": True},
    "peft": {"method": _NAME},
    "peft_type": {"method": _NAME},
    "finetuning_type": {"method": _NAME},
    "adapter_name": {"method": _NAME},
    # savings
    "gradient_checkpointing": _LAYER,
    "activation_checkpointing": _LAYER,
    "use_gradient_checkpointing": _LAYER,
    "grad_checkpointing": _LAYER,
    "recompute": _LAYER,
    "flash_attention": _FLASH,
    "flash_attention_2": _FLASH,
    "use_flash_attention_2": _FLASH,
    "fa2": _FLASH,
    "attn": {"attention": _NAME},
    "attn_implementation": {"attention": _NAME},
    "liger": {"loss": "liger"},
    "liger_kernel": {"loss": "liger"},
    "use_liger": {"loss": "liger"},
    "use_liger_kernel": {"loss": "liger"},
    "cut_cross_entropy": {"loss": "cce"},
    # the optimizer
    "optim": {"optimizer": _NAME},
    "max_grad_norm": {"gradient_clipping": True},
    "clip_grad_norm": {"gradient_clipping": True},
    # where it runs
    "gpu": {"device": _NAME},
    "gpu_name": {"device": _NAME},
    "vram": {"budget": _SIZE},
    "memory": {"budget": _SIZE},
    "max_memory": {"budget": _SIZE},
    "gpu_memory": {"budget": _SIZE},
    "inference": {"task": "infer"},
    "kv_cache_dtype": {"type_k": _NAME, "type_v": _NAME},
    "cache_type_k": {"type_k": _NAME},
    "cache_type_v": {"type_v": _NAME},
    # what no key is for
    **dict.fromkeys(("deepspeed", "zero", "zero1", "zero2", "zero3", "zero_stage", "fsdp", "ddp"), _SEVERAL),
    **dict.fromkeys(("tensor_parallel", "tensor_parallel_size", "tp", "pipeline_parallel", "pp"), _SEVERAL),
    **dict.fromkeys(("num_gpus", "n_gpus", "gpus", "world_size", "nproc_per_node", "num_processes"), _SEVERAL),
    **dict.fromkeys(("cpu_offload", "offload", "offload_optimizer", "offload_param"), _OFFLOADED),
    **dict.fromkeys(("dpo", "grpo", "ppo", "rlhf"), _REWARDED),
}
"""What words mean that stand in place of a key or an option."""

_METHODS: Mapping[str, Meaning] = {
    "qdora": {**_4BIT, **_LORA, "use_dora": True},
    "dora": KEYS["dora"],
    "rslora": KEYS["rslora"],
    "pissa": {**_LORA, "init_lora_weights": "pissa"},
    "olora": {**_LORA, "init_lora_weights": "olora"},
    "sft": {"method": "full"},
    "fft": {"method": "full"},
    "full_finetune": {"method": "full"},
    "full_finetuning": {"method": "full"},
    "full_fine_tuning": {"method": "full"},
    "full_parameter": {"method": "full"},
    "galore": {"method": "full", "optimizer": "galore-adamw"},
    "lomo": {"method": "full", "optimizer": "lomo"},
    "prompt": {"method": "prompt_tuning"},
    "prefix": {"method": "prefix_tuning"},
    "ptuning": {"method": "p_tuning"},
    "llama_adapter": {"method": "adaption_prompt"},
    "layernorm": {"method": "ln_tuning"},
    "4bit": KEYS["4bit"],
    "8bit": KEYS["8bit"],
    **dict.fromkeys(("deepspeed", "zero1", "zero2", "zero3", "fsdp", "ddp"), _SEVERAL),
    **dict.fromkeys(("dpo", "grpo", "ppo", "rlhf"), _REWARDED),
}
_OTHER_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "dtype": {
        "nf4": ("4bit", "int4", "bnb", "bnb_4bit", "load_in_4bit", "bnb_nf4"),
        "int8": ("8bit", "bnb_8bit", "load_in_8bit", "llm.int8"),
        "float8": ("fp8", "float8_e4m3fn", "e4m3"),
    },
    "autocast": {"bfloat16": ("true", "yes", "on", "amp")},
    "attention": {
        "flash": ("flash_attention_2", "flash_attn", "flash_attn_2", "flash2", "fa2", "fa"),
        "sdpa": ("memory_efficient", "torch", "default"),
    },
    "checkpointing": {
        "layer": ("true", "yes", "on", "full", "layers", "gradient_checkpointing"),
        "offloaded": ("unsloth", "offload"),
    },
    "loss": {
        "standard": ("cross_entropy", "ce", "default"),
        "liger": ("liger_kernel", "fused", "fused_linear_cross_entropy"),
        "cce": ("cut_cross_entropy",),
        "ce-chunked-output": ("cewithchunkedoutputloss",),
        "linear-cross-entropy": ("linearcrossentropyloss",),
    },
    "optimizer": {
        "adamw": ("adam", "adamw_torch", "adamw_hf"),
        "adamw-fused": ("adamw_torch_fused",),
        "adamw-8bit": ("8bit", "adam8bit", "adamw8bit", "adamw_bnb_8bit"),
        "paged-adamw": ("paged", "paged_adamw_32bit"),
        "paged-adamw-8bit": ("paged_adamw8bit", "paged_8bit"),
        "galore-adamw": ("galore",),
        "sgd-momentum": ("momentum",),
    },
    "task": {
        "infer": ("inference", "prefill", "predict", "eval", "forward"),
        "train": ("training", "finetune", "finetuning", "fine_tuning", "sft"),
    },
    "runtime": {name: keys.words for name, keys in ENGINES.items() if not keys.instead},
}
"""Other names of a value, by the key and the value."""

_MORE: Mapping[str, Mapping[str, Meaning]] = {
    "method": _METHODS,
    "dtype": {
        "qlora": KEYS["qlora"],
        **dict.fromkeys(("mixed", "amp"), KEYS["amp"]),
        "int4_weight_only": "is torchao's and cannot be trained on: ask with int8-weight-only, float8 or nf4",
    },
    "task": dict.fromkeys(("generate", "generation", "decode"), _GENERATED),
    "runtime": {name: keys.instead for name, keys in ENGINES.items() if keys.instead},
    "optimizer": {"adamw_offloaded": _OFFLOADED},
}

VALUES: Mapping[str, Mapping[str, Meaning]] = {
    key: {
        **{word: {key: value} for value, words in _OTHER_NAMES.get(key, {}).items() for word in words},
        **_MORE.get(key, {}),
    }
    for key in (*_OTHER_NAMES, "method")
}
"""What words mean that stand in place of a value, by key."""


def _plain(word: str) -> str:
    return re.sub(r"[-\s]+", "_", word.strip().lower())


_BITS, _MIXED = {"8": _8BIT, "int8": _8BIT}, {"fp16": {"autocast": "float16"}, "float16": {"autocast": "float16"}}
OF_VALUE: Mapping[str, Mapping[str, Meaning]] = {
    "bits": _BITS,
    "quantization_bit": _BITS,
    "quantization": _BITS,
    "quantize": _BITS,
    "quant": _BITS,
    "mixed_precision": _MIXED,
    "amp": _MIXED,
    "bnb_4bit_quant_type": {"fp4": {"dtype": "fp4"}},
}
"""What a word of ``KEYS`` means where its value is one of these."""
_OFF = ("false", "no", "off", "0")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _say(word: str, meaning: Meaning) -> InputError:
    if isinstance(meaning, str):
        return InputError(f"`{word}` {meaning}")
    keys = " with ".join(
        key if isinstance(value, Given) else f"{key}: {_text(value)}" for key, value in meaning.items()
    )
    return InputError(f"`{word}` is {keys}: give {options(meaning)}")


def refuse_word(name: str, value: Any = None) -> None:
    """Raise ``InputError`` where the name of a key or option is a word for other keys; ``value`` may decide which."""
    word = _plain(name)
    if (meaning := KEYS.get(word)) is None:
        return
    given = _plain(str(value))
    if given in _OFF and not isinstance(meaning, str):
        raise InputError(f"`{name}: {_text(value)}` changes nothing; leave it out")
    of_value = OF_VALUE.get(word, {}).get(given)
    raise _say(name, meaning) if of_value is None else _say(f"{name}: {_text(value)}", of_value)


def refuse_words(plan: Mapping[Any, Any]) -> None:
    """Raise ``InputError`` where a plan's key or value is a word for other keys."""
    for key, value in plan.items():
        if isinstance(key, str):
            refuse_word(key, value)
            named = value
            if key == "method" and isinstance(value, Mapping):
                named = value.get("name")
                refuse_words({"method": value["adapter"]} if "adapter" in value else {})
            if isinstance(named, str) and key == "method" and existing(Path(named)):
                continue  # an adapter's folder
            if isinstance(named, (str, bool)) and (meaning := VALUES.get(key, {}).get(_plain(str(named)))):
                raise _say(f"{key}: {_text(named)}", meaning)
