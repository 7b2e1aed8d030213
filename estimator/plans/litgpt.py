"""litgpt's models by litgpt's names, and the methods of its training loop (``implementation: litgpt``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from ..methods.full import FullMethod
from ..methods.litgpt_lora import PARTS, LitLora
from ..methods.lora import LoraMethod
from ..programs import Config
from ..programs.modules import Method
from .models import ModelSpec

if TYPE_CHECKING:
    from .plan import Plan

SOURCE = "litgpt 0.5.13, litgpt/config.py (github.com/Lightning-AI/litgpt, commit 26857050)"
PROGRAMS = "litgpt"
"""The folder of the programs that are litgpt's."""


def config(row: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a program is of (``docs/making/litgpt.py``), from a row of ``litgpt.yaml``."""
    keys = dict(row)
    windowed, every = bool(keys.pop("sliding_window_size", None)), keys.pop("sliding_window_every", 1)
    return {
        "model_type": "litgpt",
        "partial_rotary_factor": keys.pop("rope_n_elem") / keys["head_size"],
        "sliding_window_indices": [int(windowed and i % every == 0) for i in range(keys["n_layer"])],
        **keys,
    }


def before(row: Mapping[str, Any], method: str) -> dict[str, Any]:
    """A row of ``litgpt.yaml`` as release 0.4.12 runs it."""
    row = dict(row)
    if not row.get("attention_logit_softcapping"):
        row["sliding_window_size"] = None  # Gemma 2 alone had windows; the others' came with 0.4.13
    if method == "lora":
        row["final_logit_softcapping"] = None  # logits in chunks were not capped before 0.5.5
    return row


def model(name: str, row: Mapping[str, Any]) -> ModelSpec:
    """The model of a row of ``litgpt.yaml``."""
    spec = ModelSpec(name, config(row), SOURCE, where=name, release=PROGRAMS)
    return replace(spec, read=replace(spec.config, longest=row["block_size"]))


@cache
def models() -> dict[str, dict[str, Any]]:
    """The rows of ``litgpt.yaml``, by litgpt's names of the models."""
    import yaml

    text = (Path(__file__).with_name("litgpt.yaml")).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def load(plan: Plan) -> ModelSpec:
    """The plan's model as the plan's release of litgpt runs it. Raises ``InputError``."""
    names = {name.lower(): name for name in models()}
    name = names.get(plan.model.lower())
    if name is None:
        raise InputError(
            f"litgpt model '{plan.model}' is not known here{nearest(plan.model.lower(), names)}; "
            f"known are {', '.join(names.values())}"
        )
    row = models()[name]
    if plan.litgpt != "0.5.13":
        row = before(row, plan.method.name)
    return model(name, row)


def method(plan: Plan, config: Config) -> Method:
    """The plan's method as litgpt runs it. Raises ``InputError``."""
    options = plan.method
    if isinstance(options, FullMethod):
        return options.build(config, plan.dtype)
    assert isinstance(options, LoraMethod)
    for key, field_info in LoraMethod.model_fields.items():
        if key not in _OF_LORA and getattr(options, key) != field_info.default:
            raise InputError(f"litgpt's LoRA has no {key}; leave it out")
    names = options.target_modules
    parts = ["query", "value"] if names is None else [names] if isinstance(names, str) else names
    for part in parts:
        if part not in PARTS:
            raise InputError(
                f"target_modules '{part}' is no part of litgpt's LoRA{nearest(part, PARTS)}; "
                f"its parts are {', '.join(PARTS)}"
            )
    if not parts:
        raise InputError(f"target_modules is empty; name a part: {', '.join(PARTS)}")
    stable = plan.base is not None and plan.litgpt == "0.5.13"  # since 0.5.0
    return LitLora(parts, options.r, options.lora_dropout, config, stable)


_OF_LORA = ("name", "r", "lora_alpha", "lora_dropout", "target_modules")
