"""DeepSpeed's JSON (``deepspeed/runtime/config.py``): what it means on one device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.files import beside, read_json
from .settings import SEVERAL, Reading, Settings

TOOL = "DeepSpeed 0.19"
MARKS = frozenset({"zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size", "steps_per_print"})
"""Keys that no other tool has, by which a file is known."""
_BUCKET = 500_000_000
"""Elements of a reduce or an allgather bucket (``deepspeed/runtime/zero/config.py``)."""


def read_file(name: str, where: str) -> Reading:
    """The settings in a file that another names, beside it or in the working folder. A missing one is said."""
    if (found := beside(name, Path(where).parent)) is not None:
        return read(read_json(found, "a DeepSpeed JSON"), str(found))
    reading = Reading(TOOL)
    reading.note("deepspeed", name, "the file is not there; the answer is for a step without DeepSpeed")
    return reading


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What DeepSpeed does with these settings on one device. Raises ``InputError``."""
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
            settings.say("optimizer", "adamw-master", name)
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
    zero = settings.inner("zero_optimization")
    stage = zero.whole("stage") or 0
    for name in ("offload_optimizer", "offload_param"):
        device = zero.inner(name).text("device")
        if device is not None:
            what = "keeps weights or states outside the GPU, which has no rules here; ask without it"
            zero.problem(f"zero_optimization.{name}", name, what)
    zero.value("cpu_offload")
    if zero.present() and stage == 0:
        settings.reading.note("zero_optimization.stage", 0, "nothing is sharded")
    if stage:
        buckets = (zero.whole("reduce_bucket_size") or _BUCKET) + (zero.whole("allgather_bucket_size") or _BUCKET)
        settings.reading.note(
            "zero_optimization.stage",
            stage,
            f"one device holds all shards, so nothing is saved; ZeRO's buckets, at most {buckets:,} elements, are not "
            "counted, and there is no rule for several devices yet",
        )
