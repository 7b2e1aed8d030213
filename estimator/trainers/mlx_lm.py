"""mlx-lm's YAML and options of ``mlx_lm.lora`` (``mlx_lm/lora.py: CONFIG_DEFAULTS``, 0.32)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engines.mlx.options import unpacked
from .settings import Reading, Settings

TOOL = "mlx-lm 0.32"
MARKS = frozenset({"fine_tune_type", "lora_parameters", "grad_checkpoint", "mask_prompt", "num_layers", "lora_layers"})
"""Keys that no other tool has together."""
DEFAULTS = {"num_layers": 16, "batch": 4, "max_seq_length": 2048, "rank": 8}
_OWN = "mlx-lm's default"


def is_config(names: set[str]) -> bool:
    """Whether keys are mlx-lm's."""
    return len(names & MARKS) > 1


def read(keys: Mapping[str, Any], where: str) -> Reading:
    """What ``mlx_lm.lora`` does with these keys. Raises ``InputError``."""
    reading = Reading(TOOL, plan={"runtime": "mlx"})
    settings = Settings(keys, reading, where)
    reading.note("device", None, "the file names none; kernels are a CPU's, and --device names a Mac")
    if (model := settings.text("model")) is not None:
        base, bits = unpacked(model)
        settings.say("model", base, "model")
        if bits is not None:
            settings.say("dtype", f"mlx-{bits}bit", "model")
    reading.assume("model", "qwen3-0.6b", _OWN)
    settings.whole_of("batch", "batch_size")
    reading.assume("batch", DEFAULTS["batch"], _OWN)
    longest = settings.whole("max_seq_length")
    settings.say("seq", max((longest or DEFAULTS["max_seq_length"]) - 1, 1), "max_seq_length")
    reading.note(
        "max_seq_length",
        longest or DEFAULTS["max_seq_length"],
        "the longest sample decides: a batch of it has one token more than the model sees; --seq gives its tokens",
    )
    settings.whole_of("gradient_accumulation_steps", "grad_accumulation_steps")
    if settings.flag("grad_checkpoint"):
        settings.say("checkpointing", "layer", "grad_checkpoint")
    layers = settings.whole("num_layers", "lora_layers")
    settings.say(
        "mlx", {"num_layers": DEFAULTS["num_layers"] if layers is None else layers}, "num_layers", "lora_layers"
    )
    _optimizer(settings)
    _method(settings)
    settings.finish(("train", "config"))
    return reading


def _optimizer(settings: Settings) -> None:
    name = settings.text("optimizer") or "adam"
    options = settings.inner("optimizer_config").inner(name)
    settings.say("optimizer", {"adam": "adamw"}.get(name, name), "optimizer")
    if name == "adam":
        settings.reading.note("optimizer", "adam", "read as adamw, whose states and update take the same memory")
    if options.number("momentum"):
        settings.problem("optimizer", "optimizer_config", "has no rule with momentum")


def _method(settings: Settings) -> None:
    kind = settings.text("fine_tune_type") or "lora"
    own = settings.inner("lora_parameters")
    if kind not in ("lora", "dora"):
        settings.say("method", kind, "fine_tune_type")
        return
    method: dict[str, Any] = {"name": "lora", "r": own.whole("rank") or DEFAULTS["rank"]}
    if kind == "dora":
        method["use_dora"] = True
    if dropout := own.number("dropout"):
        method["lora_dropout"] = dropout
    if keys := own.names("keys"):
        method["target_modules"] = keys
    own.number("scale")
    own.finish()
    settings.say("method", method, "lora_parameters")
