"""torchtune's recipe configs (torchtune 0.6.1), whose parts are components by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..ledger import ITEMSIZE
from ..plans.models import ModelSpec, load
from ..text import human
from . import sharing
from .hugging_face import offloading
from .settings import Reading, Settings

TOOL = "torchtune 0.6.1"
COMPONENT = "_component_"
OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.SGD": "sgd",
    "torch.optim.Adafactor": "adafactor",
    "bitsandbytes.optim.AdamW8bit": "adamw-8bit",
    "bitsandbytes.optim.PagedAdamW": "paged-adamw",
    "bitsandbytes.optim.PagedAdamW8bit": "paged-adamw-8bit",
}
"""The plan's optimizers by their classes."""
_MODULES = {"output_proj": "o_proj"}
"""transformers' names of modules that torchtune names otherwise."""
_MLP = ("gate_proj", "up_proj", "down_proj")
_LOSSES = {
    "torchtune.modules.loss.CEWithChunkedOutputLoss": "ce-chunked-output",
    "torchtune.modules.loss.LinearCrossEntropyLoss": "linear-cross-entropy",
    "torch.nn.CrossEntropyLoss": "standard",
}
"""The plan's losses by their classes. ``LinearCrossEntropyLoss`` came after release 0.6.1."""


def is_recipe(keys: Mapping[str, Any]) -> bool:
    """Whether a mapping is a recipe's config."""
    return any(isinstance(value, Mapping) and COMPONENT in value for value in keys.values())


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What a recipe does with these keys. Raises ``InputError``."""
    reading = Reading(TOOL, plan={"trainer": "torchtune"})
    settings = Settings(keys, reading, where)
    loss = settings.inner("loss")
    if re.search("DPO|PPO|Rso|KL", _component(loss)):
        settings.problem("loss._component_", "loss", "is of a loop with more than one model or pass: no rules here")
    model = settings.inner("model")
    builder = _component(model)
    why = "torchtune's own modules have no rules; the answer is of transformers'"
    reading.note("modules", "transformers'", why + _positions(_named(settings, builder)))
    settings.whole_of("batch", "batch_size")
    settings.whole_of("gradient_accumulation_steps", "gradient_accumulation_steps")
    tokenizer, dataset = settings.inner("tokenizer"), settings.inner("dataset")
    tokenizer.whole_of("seq", "max_seq_len")
    if "seq" not in reading.plan:
        reading.note("tokenizer.max_seq_len", None, "the longest sample decides; --seq gives its tokens")
    if dataset.flag("packed"):
        reading.note(
            "dataset.packed", True, "rows of max_seq_len tokens; the mask that keeps samples apart is not counted"
        )
    dtype = settings.dtype("dtype")
    if dtype is not None:
        settings.say("dtype", dtype, "dtype")
    _optimizer(settings)
    if settings.value("enable_activation_checkpointing") is not None:
        kind = "layer" if settings.flag("enable_activation_checkpointing") else "none"
        settings.say("checkpointing", kind, "enable_activation_checkpointing")
    if settings.flag("enable_activation_offloading"):
        offloading(settings, "enable_activation_offloading")
    if settings.text("ac_mode") == "selective":
        settings.problem("checkpointing", "ac_mode", "has no rule; see --checkpointing every-K")
    _loss(settings, loss)
    if settings.number("clip_grad_norm") is not None:  # its recipes clip to any number, zero among them
        settings.say("gradient_clipping", True, "clip_grad_norm")
    _method(settings, model, builder, dtype or "bfloat16")
    settings.unknown("compile")
    _devices(settings)
    reading.plan["run"] = {}
    if settings.text("device") == "cpu":
        settings.say("runtime", "torch-cpu", "device")
    settings.finish(("checkpointer",))
    return reading


def _devices(settings: Settings) -> None:
    """FSDP2 of each layer, then of the model, with one choice of resharding for all (``training.shard_model``)."""
    reading = settings.reading
    reading.shared |= {
        "name": "fsdp2",
        "reshard_after_forward": settings.flag("fsdp_reshard_after_forward", default=True),
    }
    if settings.flag("fsdp_cpu_offload"):
        reading.shared["cpu_offload"], reading.spreads = True, True
    names = {"dp_replicate_size": "data_parallel_replicate_dim", "dp_shard_size": "data_parallel_shard_dim"}
    sharing.mesh(settings, {**names, "tp_size": "tensor_parallel_dim", "cp_size": "context_parallel_dim"})
    if (layers := settings.value("custom_sharded_layers")) is not None:
        settings.problem("sharding", "custom_sharded_layers", f"{layers} are units of their own, which has no rule")


def _component(settings: Settings) -> str:
    return settings.text(COMPONENT) or ""


def _positions(model: ModelSpec | None) -> str:
    """What torchtune's tables of rotary positions add: the cosine and sine of each position and pair of a head's
    features, in float32 (``RotaryPositionalEmbeddings.build_rope_cache``). Releases before 0.3.1 copy a layer, with its
    table, as often as there are layers (``_get_clones``).
    """
    if model is None or not isinstance(positions := model.raw.get("max_position_embeddings"), int):
        return ""
    table = positions * model.config.head_dim * ITEMSIZE["float32"]
    every = human(table * model.config.num_hidden_layers)
    return f", without the table of rotary positions ({human(table)}; before release 0.3.1 one a layer, {every})"


def _named(settings: Settings, builder: str) -> ModelSpec | None:
    """The model: the folder of the checkpoint where it has a known model's name, else the builder's name."""
    folder = settings.raw("checkpointer")
    path = folder.get("checkpoint_dir") if isinstance(folder, Mapping) else None
    name = builder.rpartition(".")[2]
    sized = re.sub(r"^(q?lora|dora|qat_lora)_", "", name).replace("_", "-")
    sized = re.sub(r"(?<=\d)-(\d)(?=-)", r".\1", sized)
    sized = re.sub(r"^(llama|gemma|qwen|phi)(?=\d)", r"\1-", sized)
    for candidate in ([path.rstrip("/").rpartition("/")[2]] if isinstance(path, str) else []) + [
        sized,
        sized.replace("-", "", 1),
    ]:
        try:
            found = load(candidate)
        except InputError:
            continue
        settings.say("model", found.name, "model")
        return found
    settings.problem("model", "model", f"builds {name}, which no built-in model is known by; give --model")
    return None


def _optimizer(settings: Settings) -> None:
    optimizer = settings.inner("optimizer")
    name = _component(optimizer)
    if not name:
        return
    known = OPTIMIZERS.get(name)
    if known is None:
        settings.problem("optimizer", "optimizer", f"has no rule; known are {', '.join(OPTIMIZERS)}")
        return
    if known == "adamw" and optimizer.flag("fused"):
        known = "adamw-fused"
    if settings.flag("optimizer_in_bwd"):
        if not known.startswith("adamw"):
            settings.problem("optimizer", "optimizer_in_bwd", f"with {name} has no rule")
        known = "adamw-in-backward"
    settings.say("optimizer", known, "optimizer")


def _loss(settings: Settings, loss: Settings) -> None:
    name = _component(loss)
    known = _LOSSES.get(name)
    if known is None:
        if name:
            loss.problem("loss", COMPONENT, f"has no rule; known are {', '.join(_LOSSES)}")
        return
    settings.say("loss", known, "loss")
    if known != "standard":
        loss.whole_of("num_output_chunks", "num_output_chunks")


def _method(settings: Settings, model: Settings, builder: str, dtype: str) -> None:
    name = builder.rpartition(".")[2]
    if not re.match("q?lora_|dora_|qat_lora_", name):
        settings.say("method", {"name": "full"}, "model")
        return
    targets = [_MODULES.get(one, one) for one in model.names("lora_attn_modules") or []]
    targets += _MLP if model.flag("apply_lora_to_mlp") else ()
    targets += ["lm_head"] if model.flag("apply_lora_to_output") else []
    block: dict[str, Any] = {"name": "lora", "r": model.whole("lora_rank") or 8, "adapter_dtype": dtype}
    block |= {"lora_alpha": model.number("lora_alpha") or 16, "target_modules": targets}
    if dropout := model.number("lora_dropout"):
        block["lora_dropout"] = dropout
    if model.flag("use_dora") or name.startswith("dora_"):
        block["use_dora"] = True
    if name.startswith("qlora_") or model.flag("quantize_base"):
        settings.say("dtype", "nf4", "model")
        settings.say("rest_dtype", dtype, "dtype")
        settings.say("compute_dtype", dtype, "dtype")
        settings.say("double_quant", True, "model")
        model.problem(
            "dtype",
            COMPONENT if name.startswith("qlora_") else "quantize_base",
            "is torchao's NF4, which has no rules (it unpacks a weight into 8 bytes for each element and more); "
            "--dtype nf4 answers with bitsandbytes' layers in its place",
        )
    settings.say("method", block, "model")
    settings.reading.said_by |= {"r": "model.lora_rank", "target_modules": "model.lora_attn_modules"}
