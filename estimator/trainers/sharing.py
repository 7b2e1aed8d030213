"""How the processes of a training file share its model: FSDP, DDP and meshes, as the plan's block ``sharding``.

A file rarely says how many processes there are: its launcher does. So what holds for several waits in
``Reading.shared`` until ``settled`` knows their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..engines.assumptions import Assumption
from ..errors import InputError
from ..plans.presets import by_accelerate, with_presets
from .settings import Reading, Settings

STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
"""FSDP1's ``ShardingStrategy``, in the order of its numbers from 1 on."""
_PRECISIONS = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16", "fp32": "float32"}
_IDLE = ("state_dict_type", "final_state_dict_type", "sync_module_states", "use_orig_params", "min_num_params", "xla")
"""Keys of FSDP that change no byte of a step with the rules here."""
_OF_DDP = ("bucket_cap_mb", "static_graph", "find_unused_parameters")
_SIZES = {"dp_replicate_size": "replicate", "tp_size": "tp", "cp_size": "cp", "pp_size": "pp", "ep_size": "ep"}


def fsdp(settings: Settings, version: int, launched: bool = False) -> None:
    """Read a block of accelerate's FSDP keys, with or without ``fsdp_`` before them.

    ``version`` is the tool's default. ``launched``: accelerate's launcher reads the block, else transformers' Trainer
    (``_process_fsdp_args``).
    """
    reading, shared = settings.reading, settings.reading.shared

    def named(key: str) -> str:
        return settings.given(f"fsdp_{key}", key)

    reading.spreads = True
    version = settings.whole(named("version")) or version
    shared["name"] = f"fsdp{version}"
    if version not in (1, 2):
        settings.problem("sharding", named("version"), "is none of 1 and 2")
    strategy, reshard = named("sharding_strategy"), named("reshard_after_forward")
    if version == 2:
        if settings.value(strategy) is not None:
            reading.note(strategy, settings.raw(strategy), "FSDP1's; version 2 takes reshard_after_forward")
        if settings.value(reshard) is not None:
            shared["reshard_after_forward"] = settings.flag(reshard)
    else:
        given = settings.value(strategy)
        _strategy(settings, strategy, given if launched else None)
        for name in (reshard,) if launched else (strategy, reshard):
            if settings.value(name) is not None:
                why = "accelerate 1.15 takes FSDP1's strategy from its launcher, FULL_SHARD where that says none"
                reading.note(name, settings.raw(name), why)
        prefetch = settings.text(named("backward_prefetch"))
        if (prefetch or "NO_PREFETCH").upper() != "BACKWARD_PRE" or settings.flag(named("forward_prefetch")):
            reading.note(named("backward_prefetch"), prefetch, "answered as BACKWARD_PRE, which gathers one unit ahead")
    policy = settings.text(named("auto_wrap_policy")) or ("NO_WRAP" if launched else "TRANSFORMER_BASED_WRAP")
    if policy.upper() != "TRANSFORMER_BASED_WRAP":
        settings.problem("sharding", named("auto_wrap_policy"), f"is {policy}: only TRANSFORMER_BASED_WRAP has rules")
    if (layers := settings.value(named("transformer_layer_cls_to_wrap"))) is not None:
        reading.note(named("transformer_layer_cls_to_wrap"), layers, "read as the class of the model's layers")
    if any([settings.flag(named("offload_params")), settings.flag(named("cpu_offload"))]):
        shared["cpu_offload"] = True
    if settings.flag(named("activation_checkpointing")):
        offloads = settings.flag(named("activation_checkpointing_offload"))
        settings.say("checkpointing", "offloaded" if offloads else "layer", named("activation_checkpointing"))
        settings.say("use_reentrant", False, named("activation_checkpointing"))
    reading.shared_run["cpu_ram_efficient_loading"] = settings.flag(
        named("cpu_ram_efficient_loading"), default=launched
    )
    _precision(settings, named("mixed_precision_policy"))
    settings.without_rule("parameters of these modules are sharded like all others here", named("ignored_modules"))
    settings.finish(f"{start}{key}" for key in _IDLE for start in ("", "fsdp_"))


def _strategy(settings: Settings, name: str, given: Any) -> None:
    """FSDP1's strategy, by its name or number. Hybrid ones replicate over hosts."""
    shared, text = settings.reading.shared, str(given or "FULL_SHARD").upper()
    known = STRATEGIES[int(text) - 1] if text in "12345" else text
    if known not in STRATEGIES or known == "NO_SHARD":
        settings.problem("sharding", name, f"has no rule; known are {', '.join(sorted({*STRATEGIES} - {'NO_SHARD'}))}")
    if known in ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2"):
        shared["reshard_after_forward"] = False
    if known.startswith("HYBRID"):
        shared["replicate"] = settings.reading.hosts


def _precision(settings: Settings, name: str) -> None:
    """A policy of mixed precision: one dtype, or one for parameters and one for gradients."""
    policy = settings.value(name)
    if policy is None:
        return
    pair = policy if isinstance(policy, Mapping) else {"param_dtype": policy, "reduce_dtype": policy}
    for key in ("param_dtype", "reduce_dtype"):
        if (dtype := _PRECISIONS.get(str(pair.get(key)).removeprefix("torch."))) is not None:
            settings.reading.shared[key] = dtype
        else:
            settings.problem("sharding", name, f"has no {key} among {', '.join(_PRECISIONS)}")


def mesh(settings: Settings, names: Mapping[str, str]) -> None:
    """Read sizes of a mesh. ``names``: the file's keys by accelerate's (``ParallelismConfig``)."""
    shared, product = settings.reading.shared, 1
    for size, name in names.items():
        number = settings.whole(name)
        if number is None or number < 2:  # -1: what remains of the processes
            continue
        product *= number
        if size in _SIZES:
            shared[_SIZES[size]] = number
        elif size != "dp_shard_size":
            settings.problem("sharding", name, "splits each sequence among processes, which has no rule")
    if product > 1:
        settings.reading.spreads = True
        if (settings.whole(names["dp_shard_size"]) or 0) > 0:
            shared.setdefault("world_size", product)


def processes(settings: Settings, world: int | None, hosts: int | None = None) -> None:
    """Say how many processes a launcher starts, on how many hosts."""
    reading = settings.reading
    reading.hosts = hosts or 1
    if world is not None and world > 0:
        reading.shared["world_size"] = world
        if hosts is not None and world > 1:
            reading.shared_run["processes_per_host"] = -(-world // hosts)


def settled(reading: Reading, given: Mapping[str, Any]) -> Reading:
    """A reading with the number of processes: the file's, or ``world_size`` beside it. One alone shares nothing.

    Without a number a file that names FSDP or a mesh stays without one, which the plan refuses.
    """
    block = dict(reading.shared)
    world = given.get("world_size", block.get("world_size"))
    several = world is not None and ("world_size" in given or str(world) != "1")
    plan, notes, problems = dict(reading.plan), list(reading.assumptions), dict(reading.problems)
    if "sharding" in given or not (several or (reading.spreads and world is None)):
        return replace(
            reading,
            plan={**plan, **reading.alone.plan},
            assumptions=[*notes, *reading.alone.assumptions],
            problems={key: why for key, why in problems.items() if key != "sharding"} | reading.alone.problems,
        )
    plain = {"torchtune": {"name": "fsdp2", "reshard_after_forward": True}}.get(
        str(plan.get("trainer")), {"name": "ddp"}
    )
    if "name" not in block:
        block = {**plain, **block}
        notes.append(Assumption("sharding", block["name"], f"what {reading.tool} does with several processes"))
    if block["name"] != "ddp":
        block = {key: value for key, value in block.items() if key not in _OF_DDP}
    if str(block["name"]).startswith("fsdp"):
        notes = [one for one in notes if one.key != "embeddings"]  # Axolotl casts none of a model that FSDP shards
    plan["sharding"] = block
    if reading.shared_run and "run" in plan:
        plan["run"] = {**plan["run"], **reading.shared_run}
    if "run" in plan and block["name"] != "ddp":  # loaded on the host
        plan["run"] = {key: value for key, value in plan["run"].items() if key != "device_map"}
    if block["name"] == "fsdp2" and plan.get("trainer") == "llama-factory" and plan.get("checkpointing") != "none":
        plan["use_reentrant"] = False
        notes.append(Assumption("use_reentrant", False, "LLaMA-Factory's with FSDP2"))
    _precision_of_processes(plan, notes, given)
    return replace(reading, plan=plan, assumptions=notes, problems=problems)


def _precision_of_processes(plan: dict[str, Any], notes: list[Assumption], given: Mapping[str, Any]) -> None:
    """What sharding makes of mixed precision, where the file says dtypes for one process."""
    filled: Mapping[str, Any] = plan
    with suppress(InputError):
        filled, _ = with_presets({**plan, **{key: given[key] for key in ("method", "autocast") if key in given}})
    precision = filled.get("autocast")
    if "trainer" not in plan:
        plan["sharding"] = {**by_accelerate(plan["sharding"], precision), **plan["sharding"]}
    if precision is not None and plan["sharding"]["name"].startswith("zero"):
        if plan.get("autocast") is not None:
            plan["autocast"] = None
            notes.append(Assumption("autocast", None, f"DeepSpeed casts the model to {precision} in its place"))
        if filled.get("dtype") == "float32" and "dtype" in plan:
            plan["dtype"] = precision
            notes.append(Assumption("dtype", precision, "DeepSpeed casts the model, and has float32 copies of its own"))
