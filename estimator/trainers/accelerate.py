"""accelerate's YAML (``accelerate/commands/config/config_args.py``, 1.15), and what its launcher adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engines.assumptions import Assumption
from . import deepspeed, sharing
from .settings import SEVERAL, UNKNOWN, Ignored, Reading, Settings

TOOL = "accelerate 1.15"
MARKS = frozenset(
    {"compute_environment", "distributed_type", "num_processes", "main_training_function", "machine_rank"}
)
"""Keys that no other tool has, by which a file is known."""


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What ``accelerate launch`` does with this config. Raises ``InputError``."""
    reading = Reading(TOOL)
    settings = Settings(keys, reading, where)
    world = settings.whole("num_processes")
    sharing.processes(settings, world, settings.whole("num_machines") or 1)
    several = world is None or world > 1
    kind = (settings.text("distributed_type") or ("MULTI_GPU" if world is not None and several else "NO")).upper()
    if kind not in ("NO", "FSDP", "DEEPSPEED", "MULTI_GPU") or (kind == "NO" and world is not None and several):
        settings.problem("distributed_type", "distributed_type", SEVERAL)
    if kind in ("FSDP", "MULTI_GPU"):
        why = "with one process nothing is spread; its buffers are not counted"
        reading.alone.assumptions.append(Assumption("distributed_type", kind, why))
    if kind == "MULTI_GPU":
        reading.shared["name"], reading.spreads = "ddp", True
    config = settings.block("deepspeed_config")
    if kind == "DEEPSPEED":
        file = config.get("deepspeed_config_file")
        reading.add(deepspeed.read_file(str(file), where) if file else _plugin(config, where))
    block = settings.inner("fsdp_config")
    if kind == "FSDP" and several:
        sharing.fsdp(block, version=1, launched=True)
    elif block.present():
        reading.note("fsdp_config", kind, "with one process nothing is sharded")
    sizes = settings.inner("parallelism_config")
    sharing.mesh(sizes, {name: sizes.given(f"parallelism_config_{name}", name) for name in _SIZES})
    sizes.finish()
    precision = settings.text("mixed_precision")
    if precision in ("bf16", "fp16"):
        settings.say("autocast", "bfloat16" if precision == "bf16" else "float16", "mixed_precision")
    elif precision not in (None, "no"):
        settings.problem("autocast", "mixed_precision", "has no rule; known are bf16, fp16 and no")
    dynamo = settings.inner("dynamo_config").text("dynamo_backend")
    if dynamo is not None and dynamo.upper() != "NO":
        reading.ignored.append(Ignored("dynamo_config", UNKNOWN, unknown=True))
    if settings.flag("use_cpu"):
        settings.say("runtime", "torch-cpu", "use_cpu")
    settings.finish()
    return reading


_SIZES = ("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size")


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
