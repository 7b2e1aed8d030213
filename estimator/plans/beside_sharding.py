"""What a sharded step may have beside it: the values of other keys for which its rules were measured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from ..methods.registry import METHODS

FREE = frozenset(
    {
        *("model", "sharding", "task", "batch", "seq", "attention_mask", "data_collator", "keep_logits", "device"),
        *("drop_output_before_step", "experts_implementation", "routing", "budget", "gradient_accumulation_steps"),
        *("torch", "expandable_segments", "previous_seq", "empty_cache", "lengths", "trainer", "sdpa_kernel"),
        *("loss_chunk", "num_output_chunks", "label_share", "rest_dtype", "compute_dtype", "double_quant"),
        *("neftune_noise_alpha", "run", "host_memory"),
    }
)
"""The keys that may have any value."""
_ALL: Mapping[str, tuple[Any, ...]] = {
    "dtype": ("float32", "bfloat16"),
    "attention": ("eager",),
    "autocast": ("bfloat16",),
    "checkpointing": ("layer",),
    "method": ("lora",),
    "optimizer": ("sgd", "sgd-momentum"),
}
_FSDP2: Mapping[str, tuple[Any, ...] | None] = {
    "dtype": ("float32", "bfloat16", "float16", "nf4", "fp4"),
    "attention": ("eager", "flash"),
    "autocast": ("bfloat16", "float16"),
    "checkpointing": ("layer", "attention", "matmul"),
    "method": tuple(name for name in METHODS if name not in ("mezo", "forward-ad", "lars")),
    "optimizer": ("sgd", "sgd-momentum", "lion", "adamw-foreach", "adamw-fused"),
    "loss": ("chunked", "liger", "cce", "ce-chunked-output", "linear-cross-entropy", "fused-lm-head"),
    "runtime": ("torch-cuda",),
    **dict.fromkeys(("gradient_clipping", "packing", "use_cache", "previous_output", "mlp_chunks")),
    **dict.fromkeys(("use_reentrant", "convert_outputs_to_fp32")),
    **dict.fromkeys(("prompt_seq", "loss_type", "beta", "precompute_ref_log_probs", "reference")),
}
_FSDP1: Mapping[str, tuple[Any, ...] | None] = {
    **_ALL,
    "attention": ("eager", "flash"),
    "runtime": ("torch-cuda",),
    "dtype": ("float32", "bfloat16", "float16", "nf4", "fp4"),
    **dict.fromkeys(("kbit_preparation", "quant_storage", "bitsandbytes", "transformers", "implementation", "litgpt")),
    **dict.fromkeys(("use_cache", "convert_outputs_to_fp32")),
    "checkpointing": ("layer", "matmul"),
    "optimizer": (
        *("sgd", "sgd-momentum", "adafactor", "adamw-8bit", "adamw-foreach", "adamw-fused", "muon"),
        *("paged-adamw", "paged-adamw-8bit"),
    ),
    "method": (
        *("lora", "lora-fa", "adalora", "vera", "randlora", "loha", "lokr", "delora", "hra", "oft", "boft"),
        *("fourierft", "miss", "ia3", "ln_tuning", "bitfit", "freeze", "prompt_tuning", "prefix_tuning"),
    ),
    **dict.fromkeys(("gradient_clipping", "packing", "previous_output", "use_reentrant", "head", "loss", "mlp_chunks")),
}
_ZERO3: Mapping[str, tuple[Any, ...] | None] = {
    **_ALL,
    "dtype": ("float32", "bfloat16", "float16", "nf4"),
    "runtime": ("torch-cuda",),
    "optimizer": ("sgd", "sgd-momentum", "lion", "adamw-foreach", "adamw-fused"),
    "previous_output": (False,),
    **dict.fromkeys(("gradient_clipping", "packing", "kbit_preparation", "quant_storage")),
}
_ZERO: Mapping[str, tuple[Any, ...] | None] = {
    **_ZERO3,
    "dtype": ("float32", "bfloat16", "float16", "nf4", "int8"),
    "checkpointing": ("layer", "attention"),
    "loss": ("chunked", "liger"),
    "method": ("lora", "ia3"),
}
_TP: Mapping[str, tuple[Any, ...] | None] = {**_ALL, "optimizer": ("sgd",), "runtime": ("torch-cuda",)}
VALUES: Mapping[str | None, Mapping[str, tuple[Any, ...] | None]] = MappingProxyType(
    {"fsdp1": _FSDP1, "fsdp2": _FSDP2, "hsdp": _FSDP2, "zero1": _ZERO, "zero2": _ZERO, "zero3": _ZERO3, None: _TP}
)
"""The values that other keys may have beside their defaults, by the name of the sharding; ``None``: any."""
_BOTH: Mapping[str, tuple[Any, ...] | None] = {**_TP, "optimizer": ("sgd", "sgd-momentum", "lion")}
"""Beside FSDP2 of a model that transformers splits or shards as it loads it."""
REFUSED: Mapping[str, tuple[str, ...]] = {"ddp": ("implementation",)}
"""The keys that a way to share may not have beside it, where it may have all others."""


def without_a_rule(plan: Any) -> str | None:
    """The first key and value for which the plan's sharded step has no rule; ``None`` without one."""
    values, refused = VALUES.get(plan.sharding.name, _ALL), REFUSED.get(plan.sharding.name)
    free = FREE if plan.task == "train" else FREE | {"use_cache", "generate"}
    if plan.trainer == "trl-reward":
        free = free | {"head"}  # a model of rewards has one alone
    planned = plan.sharding.groups == "transformers" and plan.sharding.name in ("fsdp2", "hsdp")
    if plan.sharding.tp > 1 or planned:
        values = _TP if plan.sharding.name is None else _BOTH
        free = free - {"trainer", "run", "neftune_noise_alpha"}  # accelerate makes DTensors of all parameters
    for key, field in type(plan).model_fields.items():
        value = getattr(plan, key)
        named = getattr(value, "name", value)
        allowed = values.get(key, ())
        known = key in free or allowed is None or named in allowed if refused is None else key not in refused
        if value != field.default and not known:
            return key if isinstance(named, BaseModel) else f"{key}: {named}"
    return None
