"""Words of other programs for what a plan has keys for. Each is refused with the keys to write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..engines.registry import KEYS as ENGINES
from ..errors import InputError, options
from ..io.files import existing
from ..steps.sharding.options import NO_RULE_YET, ShardingOptions, without_rule


class Given(str):
    """A placeholder for the user's own value."""


_N, _LIST, _SIZE, _NAME = Given("N"), Given("LIST"), Given("SIZE"), Given("NAME")
_DTYPE = Given("DTYPE")
_LORA = {"method": "lora"}
_DORA, _RSLORA = {**_LORA, "use_dora": True}, {**_LORA, "use_rslora": True}
_ACCUMULATED, _GENERATED = {"gradient_accumulation_steps": _N}, {"max_new_tokens": _N}
_SHARDED = {"sharding": _NAME, "world_size": _N}
_OF_SHARDING = {name: {**_SHARDED, "sharding": name} for name in ("ddp", "zero1", "zero2", "zero3")}
_FSDP = {**_SHARDED, "sharding": "fsdp2"}
_4BIT, _8BIT = {"dtype": "nf4"}, {"dtype": "int8"}
_OFFLOADED = "keeps weights or states outside the GPU, which has no rules here: ask with a smaller optimizer or dtype"
_REWARDED = "is a loop with more than one model or pass, which has no rules here: ask about its training step alone"

Meaning = Mapping[str, Any] | str
"""Keys and values to write in a plan or its blocks, or the reason why there are none."""


def _each(*rows: tuple[Meaning, str]) -> dict[str, Meaning]:
    """The meaning of each word, from rows of a meaning and the words that have it."""
    return {word: meaning for meaning, words in rows for word in words.split()}


KEYS: Mapping[str, Meaning] = _each(
    # the batch and its sequences
    ({"batch": _N}, "batch_size bs micro_batch micro_batch_size train_batch_size"),
    ({"batch": _N}, "per_device_train_batch_size per_device_batch_size"),
    (_ACCUMULATED, "grad_accum grad_accumulation gradient_accumulation accumulation_steps"),
    ({"seq": _N}, "max_length max_len max_seq max_seq_length max_seq_len model_max_length seq_len seq_length"),
    ({"seq": _N}, "sequence_length sequence_len cutoff_len context_length"),
    ({"n_ctx": _N}, "ctx_size num_ctx"),
    (_GENERATED, "max_tokens"),
    # precision
    ({"dtype": _DTYPE}, "torch_dtype precision"),
    ({"autocast": "bfloat16"}, "bf16 amp mixed_precision"),
    ({"autocast": "float16"}, "fp16"),
    ({"dtype": "bfloat16"}, "pure_bf16"),
    (_4BIT, "quantization quantize quantization_bit quant bits load_in_4bit 4bit bnb_4bit_quant_type"),
    (_8BIT, "load_in_8bit 8bit"),
    ({"compute_dtype": _DTYPE, **_4BIT}, "bnb_4bit_compute_dtype"),
    ({"double_quant": True, **_4BIT}, "bnb_4bit_use_double_quant double_quantization"),
    ({"kbit_preparation": True, **_4BIT}, "prepare_model_for_kbit_training"),
    ({"method": "qlora"}, "qlora"),
    # LoRA
    ({"r": _N, **_LORA}, "rank lora_r lora_rank lora_dim"),
    ({"target_modules": _LIST, **_LORA}, "lora_target lora_target_modules"),
    (_DORA, "dora"),
    (_RSLORA, "rslora"),
    ({"method": _NAME}, "peft peft_type finetuning_type adapter_name"),
    # savings
    ({"checkpointing": "layer"}, "gradient_checkpointing activation_checkpointing use_gradient_checkpointing"),
    ({"checkpointing": "layer"}, "grad_checkpointing recompute"),
    ({"attention": "flash"}, "flash_attention flash_attention_2 use_flash_attention_2 fa2"),
    ({"attention": _NAME}, "attn attn_implementation"),
    ({"loss": "liger"}, "liger liger_kernel use_liger use_liger_kernel"),
    ({"loss": "cce"}, "cut_cross_entropy"),
    # the optimizer
    ({"optimizer": _NAME}, "optim"),
    ({"gradient_clipping": True}, "max_grad_norm clip_grad_norm"),
    # where it runs
    ({"device": _NAME}, "gpu gpu_name"),
    ({"budget": _SIZE}, "vram memory max_memory gpu_memory"),
    ({"host_memory": _SIZE}, "ram cpu_memory cpu_ram host_ram system_memory"),
    ({"task": "infer"}, "inference"),
    ({"type_k": _NAME, "type_v": _NAME}, "kv_cache_dtype"),
    ({"type_k": _NAME}, "cache_type_k"),
    ({"type_v": _NAME}, "cache_type_v"),
    # several processes
    (_SHARDED, "deepspeed zero zero_stage num_gpus n_gpus gpus nproc_per_node num_processes"),
    (_FSDP, "fsdp"),
    *((meaning, name) for name, meaning in _OF_SHARDING.items()),
    ({"tp": _N}, "tensor_parallel tensor_parallel_size"),
    *(
        (f"is {key}: {without_rule(what)}", f"{word}_parallel {word}_parallel_size")
        for key, what in NO_RULE_YET.items()
        for word in [what.partition(" ")[0]]
    ),
    # what no key is for
    (_OFFLOADED, "offload"),
    *(({"trainer": f"trl-{word}"}, word) for word in ("dpo", "grpo", "kto", "orpo", "cpo", "rloo")),
    (_REWARDED, "ppo rlhf"),
)
"""What words mean that stand in place of a key or an option."""

_METHODS = _each(
    ({**_4BIT, **_DORA}, "qdora"),
    (_DORA, "dora"),
    (_RSLORA, "rslora"),
    ({**_LORA, "init_lora_weights": "pissa"}, "pissa"),
    ({**_LORA, "init_lora_weights": "olora"}, "olora"),
    ({"method": "full"}, "sft fft full_finetune full_finetuning full_fine_tuning full_parameter"),
    ({"method": "full", "optimizer": "galore-adamw"}, "galore"),
    ({"method": "full", "optimizer": "lomo"}, "lomo"),
    ({"method": "prompt_tuning"}, "prompt"),
    ({"method": "prefix_tuning"}, "prefix"),
    ({"method": "p_tuning"}, "ptuning"),
    ({"method": "adaption_prompt"}, "llama_adapter"),
    ({"method": "ln_tuning"}, "layernorm"),
    (_4BIT, "4bit"),
    (_8BIT, "8bit"),
    (_SHARDED, "deepspeed"),
    (_FSDP, "fsdp"),
    *((meaning, name) for name, meaning in _OF_SHARDING.items()),
    *(({"trainer": f"trl-{word}"}, word) for word in ("dpo", "grpo", "kto", "orpo", "cpo", "rloo")),
    (_REWARDED, "ppo rlhf"),
)
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
    **dict.fromkeys(("bits", "quantization_bit", "quantization", "quantize", "quant"), _BITS),
    **dict.fromkeys(("mixed_precision", "amp"), _MIXED),
    "bnb_4bit_quant_type": {"fp4": {"dtype": "fp4"}},
    "zero_stage": (_STAGES := {name[-1]: meaning for name, meaning in _OF_SHARDING.items()}),
    "zero": _STAGES,
    "deepspeed": _OF_SHARDING,
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
    how_many = "; `estimator smallest-cluster` finds how many" if "world_size" in meaning else ""
    return InputError(f"`{word}` is {keys}: give {options(meaning)}{how_many}")


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


def _misplaced(plan: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What stands in the block of an engine that the plan does not name, where its words mean something else."""
    for name, keys in ENGINES.items():
        for block in () if plan.get("runtime") == name or keys.claims(plan) else keys.fields.model_fields:
            found = plan.get(block)
            yield from found.items() if isinstance(found, Mapping) else ()


def refuse_words(plan: Mapping[Any, Any]) -> None:
    """Raise ``InputError`` where a plan's key or value is a word for other keys."""
    for key, value in (*_misplaced(plan), *plan.items()):
        if isinstance(key, str):
            refuse_word(key, value)
            if key in ShardingOptions.model_fields and key != "name":
                raise InputError(f"`{key}` is a key of the block sharding: write sharding: {{{key}: {_text(value)}}}")
            named = value
            if key == "method" and isinstance(value, Mapping):
                named = value.get("name")
                refuse_words({"method": value["adapter"]} if "adapter" in value else {})
            if isinstance(named, str) and key == "method" and existing(Path(named)):
                continue  # an adapter's folder
            if isinstance(named, (str, bool)) and (meaning := VALUES.get(key, {}).get(_plain(str(named)))):
                raise _say(f"{key}: {_text(named)}", meaning)
