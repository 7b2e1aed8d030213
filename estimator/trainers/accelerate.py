"""accelerate's YAML (``accelerate/commands/config/config_args.py``, 1.15): what it means on one device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import deepspeed
from .hugging_face import SLOWER_COPY
from .settings import SEVERAL, Reading, Settings

TOOL = "accelerate 1.15"
MARKS = frozenset(
    {"compute_environment", "distributed_type", "num_processes", "main_training_function", "machine_rank"}
)
"""Keys that no other tool has, by which a file is known."""


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What ``accelerate launch`` does with this config on one device. Raises ``InputError``."""
    reading = Reading(TOOL)
    settings = Settings(keys, reading, where)
    settings.one_device("num_processes", "num_machines")
    kind = (settings.text("distributed_type") or "NO").upper()
    if kind not in ("NO", "FSDP", "DEEPSPEED", "MULTI_GPU"):
        settings.problem("distributed_type", "distributed_type", SEVERAL)
    if kind in ("FSDP", "MULTI_GPU"):
        reading.note("distributed_type", kind, "with one process nothing is spread; its buffers are not counted")
    config = settings.block("deepspeed_config")
    if kind == "DEEPSPEED":
        file = config.get("deepspeed_config_file")
        reading.add(deepspeed.read_file(str(file), where) if file else _plugin(config, where))
    if settings.block("fsdp_config"):
        reading.note("fsdp_config", kind, "with one process nothing is sharded")
    precision = settings.text("mixed_precision")
    if precision in ("bf16", "fp16"):
        settings.say("autocast", "bfloat16" if precision == "bf16" else "float16", "mixed_precision")
    elif precision not in (None, "no"):
        settings.problem("autocast", "mixed_precision", "has no rule; known are bf16, fp16 and no")
    dynamo = settings.inner("dynamo_config").text("dynamo_backend")
    if dynamo is not None and dynamo.upper() != "NO":
        reading.note("dynamo_config", dynamo, SLOWER_COPY)
    if settings.flag("use_cpu"):
        settings.say("runtime", "torch-cpu", "use_cpu")
    settings.finish()
    return reading


def _plugin(config: Mapping[str, Any], where: str) -> Reading:
    """``deepspeed_config``: the plugin's own keys, as DeepSpeed's JSON would have them."""
    offload = {
        name: {"device": config.get(f"{name}_device")}
        for name in ("offload_optimizer", "offload_param")
        if config.get(f"{name}_device") is not None
    }
    keys: dict[str, Any] = {"zero_optimization": {"stage": config.get("zero_stage", 2), **offload}}
    keys |= {key: config[key] for key in ("gradient_accumulation_steps", "gradient_clipping") if key in config}
    return deepspeed.read(keys, f"{where}: deepspeed_config")
