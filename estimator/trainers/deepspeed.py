"""DeepSpeed's JSON (``deepspeed/runtime/config.py``): on one device and on several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engines.assumptions import Assumption
from ..io.files import named_by, read_json
from .settings import SEVERAL, Reading, Settings

TOOL = "DeepSpeed 0.19"
MARKS = frozenset({"zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size", "steps_per_print"})
"""Keys that no other tool has, by which a file is known."""
_BUCKET = 500_000_000
"""Elements of a reduce or an allgather bucket (``deepspeed/runtime/zero/config.py``)."""


def read_file(name: str, where: str) -> Reading:
    """The settings in a file that another names, next to it or in the working folder. Raises ``InputError``."""
    path = named_by(where, name, Path(where).parent)
    return read(read_json(path, "a DeepSpeed JSON"), str(path))


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What DeepSpeed does with these settings, which do not say on how many devices. Raises ``InputError``."""
    reading = Reading(TOOL)
    settings = Settings(keys, reading, where)
    settings.whole_of("batch", "train_micro_batch_size_per_gpu")
    settings.whole_of("gradient_accumulation_steps", "gradient_accumulation_steps")
    if (norm := settings.number("gradient_clipping")) is not None:
        settings.say("gradient_clipping", norm > 0, "gradient_clipping")
    for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if settings.inner(name).flag("enabled"):
            settings.say("dtype", dtype, name)
            settings.say("autocast", None, name)
            reading.alone.plan["optimizer"], reading.said_by["optimizer"] = "adamw-master", name
    _zero(settings)
    settings.one_device("sequence_parallel_size")
    settings.refused(SEVERAL, "tensor_parallel", "pipeline")
    settings.without_rule("it has no rule here; see --checkpointing", "activation_checkpointing")
    kind = settings.inner("optimizer").text("type")
    if kind is not None and kind.lower() not in ("adam", "adamw", "fusedadam"):
        settings.problem("optimizer", "optimizer", "has no rule; known is AdamW")
    settings.finish(("train_batch_size",))
    return reading


def _zero(settings: Settings) -> None:
    zero, reading, shared = settings.inner("zero_optimization"), settings.reading, settings.reading.shared
    stage = zero.whole("stage") or 0
    older = "cpu" if zero.flag("cpu_offload") else None  # its name in earlier releases, which is still read
    for name, given in (("offload_optimizer", older), ("offload_param", None)):
        place = zero.inner(name).text("device") or given
        if place is not None:
            what = "keeps weights or states outside the GPU, which has no rules here; ask without it"
            if place == "cpu":
                what = "keeps weights or states on the host, which is answered with --world-size, 1 for one device"
            zero.problem(f"zero_optimization.{name}", name, what, alone=place == "cpu")
            shared[name] = "cpu"
    if zero.present() and stage == 0:
        reading.note("zero_optimization.stage", 0, "nothing is sharded")
    if not stage:
        settings.problem("sharding", "zero_optimization", "is stage 0, without a rule on several devices; take 1 to 3")
        return
    buckets = (zero.whole("reduce_bucket_size") or _BUCKET) + (zero.whole("allgather_bucket_size") or _BUCKET)
    why = (
        f"one device holds all shards, so nothing is saved; ZeRO's buckets, at most {buckets:,} elements, are not "
        "counted; --world-size gives the number of devices"
    )
    reading.alone.assumptions.append(Assumption("zero_optimization.stage", stage, why))
    shared["name"] = f"zero{stage}"
    if stage not in (1, 2, 3):
        zero.problem("sharding", "stage", "is none of 0 to 3")
    others = "allgather_" if stage == 3 else "stage3_"  # which another stage reads
    for key in (one for one in _SIZES if not one.startswith(others)):
        name = zero.given(key, key.removeprefix("stage3_"))
        size = "auto" if zero.raw(name) == "auto" else zero.whole(name)
        if size is not None and (size != "auto" or key != "allgather_bucket_size"):
            shared[key] = size
    for key in ("overlap_comm", "contiguous_gradients"):
        if zero.value(key) is not None:
            shared[key] = zero.flag(key)
    for name in ("zero_hpz_partition_size", "mics_shard_size"):
        if (zero.whole(name) or 1) > 1:
            zero.problem("sharding", name, "has no rule")
    if zero.flag("zero_quantized_weights") or zero.flag("zero_quantized_nontrainable_weights"):
        zero.problem("sharding", "zero_quantized_weights", "has no rule")
    zero.without_rule("answered with DeepSpeed's default, 1e9", *_HELD)
    zero.finish()


_SIZES = (
    "reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"
)  # fmt: skip
_HELD = (
    "sub_group_size", "stage3_max_live_parameters", "stage3_max_reuse_distance", "max_live_parameters",
    "max_reuse_distance",
)  # fmt: skip
