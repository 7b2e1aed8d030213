"""litgpt's models by litgpt's names, and the methods of its training loop (``implementation: litgpt``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from ..methods.full import FullMethod
from ..methods.litgpt_lora import PARTS, LitLora
from ..methods.lora import LoraMethod
from ..programs.config import Config
from ..programs.litgpt import LitSizes
from ..programs.method import Method
from ..programs.sizes import Run
from .models import ModelSpec

if TYPE_CHECKING:
    from .plan import Plan

SOURCE = "litgpt 0.5.13, litgpt/config.py (github.com/Lightning-AI/litgpt, commit 26857050)"


@dataclass(frozen=True)
class LitConfig(Config):
    """A litgpt config's numbers."""

    switches: Mapping[str, Any] = field(kw_only=True)
    """Options of the config that are not sizes, for ``LitSizes``."""

    def numbers(self, runs: tuple[Run, ...]) -> LitSizes:
        return LitSizes(*self.counts, runs, **self.switches)


_SWITCHES = {
    "bias": False,
    "lm_head_bias": False,
    "parallel_residual": False,
    "shared_attention_norm": False,
    "scale_embeddings": False,
    "post_attention_norm": False,
    "post_mlp_norm": False,
    "attention_logit_softcapping": False,
    "final_logit_softcapping": False,
    "add_unit_offset": False,
    "stable_embedding": False,
}


def config(row: Mapping[str, Any]) -> LitConfig:
    """The config of a row of ``litgpt.yaml``."""
    row = {**_SWITCHES, "sliding_window_size": None, "sliding_window_every": 1, **row}
    layers, window = row["n_layer"], row["sliding_window_size"]
    names = (*_SWITCHES, "block_size", "rope_n_elem", "norm_class_name", "mlp_class_name")
    return LitConfig(
        family="litgpt",
        vocab_size=row["padded_vocab_size"],
        hidden_size=row["n_embd"],
        intermediate_size=row["intermediate_size"],
        num_hidden_layers=layers,
        num_attention_heads=row["n_head"],
        num_key_value_heads=row["n_query_groups"],
        head_dim=row["head_size"],
        tie_word_embeddings=False,
        sliding_window=window,
        windowed_layers=tuple(window is not None and i % row["sliding_window_every"] == 0 for i in range(layers)),
        switches={name: row[name] for name in names},
    )


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
    if plan.litgpt == "0.5.13":
        row = {**row, "stable_embedding": plan.base is not None}  # since 0.5.0
    else:
        if not row.get("attention_logit_softcapping"):
            row = {**row, "sliding_window_size": None}  # Gemma 2 alone had windows; the others' came with 0.4.13
        if plan.method.name == "lora":
            row = {**row, "final_logit_softcapping": False}  # logits in chunks were not capped before 0.5.5
    return ModelSpec(name, row, SOURCE, read=config(row))


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
    return LitLora(parts, options.r, options.lora_dropout, qkv_sizes(config), config.modules)


_OF_LORA = ("name", "r", "lora_alpha", "lora_dropout", "target_modules")


def qkv_sizes(config: Config) -> tuple[int, int, int]:
    """Output features of query, key and value in the fused layer."""
    kv_size = config.num_key_value_heads * config.head_dim
    return config.num_attention_heads * config.head_dim, kv_size, kv_size
