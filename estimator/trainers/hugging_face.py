"""The keys of transformers' ``TrainingArguments``, which most tools take (``transformers/training_args.py``, 5.24)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.files import named_by, read_json
from . import deepspeed, sharing
from .settings import Settings

OPTIMIZERS: Mapping[str, str] = {
    "adamw_torch": "adamw",
    "adamw": "adamw",
    "adamw_torch_fused": "adamw-fused",
    "adamw_8bit": "adamw-8bit",
    "adamw_bnb_8bit": "adamw-8bit",
    "paged_adamw": "paged-adamw",
    "paged_adamw_32bit": "paged-adamw",
    "paged_adamw_8bit": "paged-adamw-8bit",
    "adafactor": "adafactor",
    "galore_adamw": "galore-adamw",
    "lion": "lion",
    "lion_32bit": "lion",
    "lomo": "lomo",
    "muon": "muon",
    "sgd": "sgd",
}
"""The plan's optimizers by transformers' names (``OptimizerNames``)."""

_EARLIER = {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"}
"""Optimizers of earlier releases, by those that have taken their place."""
ATTENTION: Mapping[str, str] = {
    "eager": "eager",
    "sdpa": "sdpa",
    **dict.fromkeys(("flash_attention_2", "flash_attention_3", "flash_attention", "flash", "fa2", "fa3"), "flash"),
}
"""The plan's attention by transformers' names."""

DDP_CAP = 25
"""``DistributedDataParallelKwargs.bucket_cap_mb``."""


def read(settings: Settings, fuses_loss: bool = True) -> None:
    """Read the keys of ``TrainingArguments``. Raises ``InputError``.

    ``fuses_loss``: whether the tool takes Liger's loss where it takes Liger's kernels.
    """
    settings.whole_of("batch", "per_device_train_batch_size", "per_gpu_train_batch_size")
    settings.whole_of("gradient_accumulation_steps", "gradient_accumulation_steps")
    optimizer(settings, "optim")
    precision(settings)
    checkpointing(settings)
    settings.number("max_grad_norm")  # the norm of the gradients is computed even where it is 0
    if settings.flag("use_liger_kernel", "use_liger", "enable_liger_kernel"):
        liger(settings, settings.block("liger_kernel_config"), fuses_loss)
    settings.value("liger_kernel_config")
    if (alpha := settings.number("neftune_noise_alpha")) is not None:
        settings.say("neftune_noise_alpha", alpha, "neftune_noise_alpha")
    devices(settings)
    settings.unknown("torch_compile", "torch_compile_backend", "torch_compile_mode", "label_smoothing_factor")
    settings.without_rule(
        "the batch is searched for by running out of memory; `estimator max-batch` says which fits",
        "auto_find_batch_size",
    )
    settings.without_rule("it changes what stays reserved, not the largest step", "torch_empty_cache_steps")
    run(settings)
    if settings.flag("use_cache"):
        settings.say("use_cache", True, "use_cache")
    if settings.flag("use_cpu", "no_cuda"):
        settings.say("runtime", "torch-cpu", "use_cpu", "no_cuda")


def run(settings: Settings) -> None:
    """Read what surrounds the steps: the block ``run`` of a plan, whose keys are transformers'."""
    block: dict[str, Any] = {}
    for name in ("per_device_eval_batch_size", "eval_accumulation_steps", "precompute_ref_batch_size"):
        if (number := settings.whole(name)) is not None:
            block[name] = number
    for name in ("prediction_loss_only", "batch_eval_metrics"):
        if settings.flag(name):
            block[name] = True
    if settings.value("eval_do_concat_batches") is False:
        block["eval_do_concat_batches"] = False
    settings.say("run", block, settings.given("per_device_eval_batch_size", "eval_accumulation_steps"))
    strategy = settings.text("eval_strategy", "evaluation_strategy")
    if strategy is not None and strategy != "no":
        why = "the rows of the evaluation set are not in the file; --eval-samples gives their number"
        settings.reading.note("eval_strategy", strategy, why)


def optimizer(settings: Settings, name: str) -> None:
    """Read the optimizer, by transformers' names of optimizers."""
    given = settings.text(name)
    if given is None:
        return
    if given in _EARLIER:
        settings.reading.note(name, given, f"an optimizer of earlier releases, read as {_EARLIER[given]}")
    known = OPTIMIZERS.get(_EARLIER.get(given, given).lower())
    if known is None:
        settings.problem("optimizer", name, f"has no rule; known are {', '.join(OPTIMIZERS)}")
        return
    arguments = Settings(_optim_args(settings), settings.reading, settings.where, "optim_args.")
    if known == "sgd" and (arguments.number("momentum") or 0) > 0:
        known = "sgd-momentum"
    settings.say("optimizer", known, name)
    if known == "galore-adamw":
        arguments.whole_of("optimizer_rank", "rank")


def _optim_args(settings: Settings) -> Mapping[str, Any]:
    """``optim_args``: ``key=value`` with commas between them, or a mapping."""
    value = settings.value("optim_args")
    if isinstance(value, str):
        pairs = (pair.partition("=") for pair in value.split(","))
        return {key.strip(): text.strip() for key, _, text in pairs}
    return value if isinstance(value, Mapping) else {}


def precision(settings: Settings) -> None:
    """Read mixed precision. Raises ``InputError`` where both kinds are asked for."""
    bf16, fp16 = settings.flag("bf16"), settings.flag("fp16")
    if bf16 and fp16:
        raise InputError(f"{settings.where}: bf16 and fp16 are both true; keep one of them")
    if bf16 or fp16:
        settings.say("autocast", "bfloat16" if bf16 else "float16", "bf16" if bf16 else "fp16")


def attention(settings: Settings, name: str) -> None:
    """Read the attention implementation, by transformers' names; hub kernels of flash attention count as flash."""
    given = settings.text(name)
    if given is None:
        return
    base = given.lower().split(":")[0].split("@")[0]
    kind = ATTENTION.get(base.rpartition("/")[2].replace("-", "_").removeprefix("vllm_"))
    if kind is None and "/" in base and "flash" in base:
        kind = "flash"
    if kind is None:
        settings.problem("attention", name, f"has no rule; known are {', '.join(ATTENTION)}")
    else:
        settings.say("attention", kind, name)


def offloading(settings: Settings, name: str) -> None:
    """Activation offloading as TRL and torchtune do it, which leaves parameters and the head's inputs on the GPU.

    Beside checkpointing it moves the layers' inputs; without it all that is saved.
    """
    if settings.reading.plan.get("checkpointing", "none") != "none":
        settings.say("checkpointing", "offloaded", name)
    else:
        settings.say("saved_activations", "on-host", name)
    settings.reading.note(name, True, "copies to the host and back overlap the step, which may hold a few of them more")


def checkpointing(settings: Settings) -> None:
    """Read gradient checkpointing, which transformers applies to each layer."""
    names = ("gradient_checkpointing", "activation_checkpointing")
    block = settings.value("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
    if settings.value(*names) is not None:
        settings.say("checkpointing", "layer" if settings.flag(*names) else "none", *names)
    if block is not None:
        reentrant = settings.inner(settings.given("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"))
        if reentrant.value("use_reentrant") is not None and settings.reading.plan.get("checkpointing") != "none":
            reentrant.say("use_reentrant", reentrant.flag("use_reentrant"), "use_reentrant")
        if (layers := reentrant.whole("every_n_layers")) is not None and layers > 1:
            reentrant.say("checkpointing", f"every-{layers}", "every_n_layers")
        if reentrant.flag("offload"):
            reentrant.say("checkpointing", "offloaded", "offload")
        reentrant.without_rule("all that a layer saves is recomputed here, which is less", "selective")
        reentrant.finish()


def liger(settings: Settings, config: Mapping[str, Any], fuses_loss: bool) -> None:
    """Liger's kernels, of which the fused linear cross entropy has rules."""
    fused = fuses_loss and config.get("fused_linear_cross_entropy", True) is not False
    if fused:
        settings.say("loss", "liger", "use_liger_kernel", "use_liger", "enable_liger_kernel")
    others = [name for name in ("rms_norm", "rope", "swiglu") if config.get(name, True) is not False]
    if others:
        settings.reading.note(
            "use_liger_kernel",
            ", ".join(others),
            "Liger's other kernels have no rules: the answer is of PyTorch's, which save more",
        )


def fsdp(settings: Settings, version: int = 2) -> None:
    """Read ``fsdp``, true or names of options, and its block, which is read only with it (``_process_fsdp_args``)."""
    given, config = settings.value("fsdp"), settings.value("fsdp_config")
    options = (
        [str(one).lower() for one in (given.split() if isinstance(given, str) else given)]
        if isinstance(given, str | list)
        else []
    )
    if not given or options == ["false"]:
        return
    if isinstance(config, str) and not config.lstrip().startswith("{"):
        path = named_by(settings.where, config, Path(settings.where).parent)
        config = read_json(path, "a block of FSDP")
        block = Settings(config, settings.reading, settings.where, "fsdp_config.")
    else:
        block = settings.inner("fsdp_config")
    sharing.fsdp(block, version)
    shared = settings.reading.shared
    if "offload" in options:
        shared["cpu_offload"] = True
    if shared["name"] == "fsdp2" and "shard_grad_op" in options:
        shared.setdefault("reshard_after_forward", False)
    if unknown := set(options) - {"true", "full_shard", "shard_grad_op", "offload", "auto_wrap"}:
        settings.problem("sharding", "fsdp", f"has no rule for {', '.join(sorted(unknown))}")


def ddp(settings: Settings) -> None:
    """Read what DDP is told. accelerate keeps its own defaults back, so at 25 DDP's first bucket is small."""
    cap = settings.whole("ddp_bucket_cap_mb")
    for key, value in {
        "bucket_cap_mb": None if cap == DDP_CAP else cap,
        "static_graph": settings.flag("ddp_static_graph") or None,
        "find_unused_parameters": None
        if settings.value("ddp_find_unused_parameters") is None
        else settings.flag("ddp_find_unused_parameters"),
    }.items():
        if value is not None:
            settings.reading.shared[key] = value


def devices(settings: Settings) -> None:
    """Read what spreads a step over several processes. Raises ``InputError``."""
    fsdp(settings)
    parallelism = settings.inner("parallelism_config")
    sharing.mesh(
        parallelism, {name: name for name in ("dp_replicate_size", "dp_shard_size", "tp_size", "cp_size", "sp_size")}
    )
    parallelism.finish()
    sharing.processes(settings, settings.whole("world_size"))
    ddp(settings)
    settings.one_device("n_gpu", "_n_gpu", "num_gpus", "tp_size", "sequence_parallel_size")
    given = settings.value("deepspeed")
    if isinstance(given, Mapping) or (isinstance(given, str) and given.lstrip().startswith("{")):
        settings.reading.add(deepspeed.read(settings.block("deepspeed"), f"{settings.where}: deepspeed"))
    elif isinstance(given, str):
        settings.reading.add(deepspeed.read_file(given, settings.where))
