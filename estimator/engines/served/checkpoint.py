"""What an engine loads: a model by its name, the bytes of its parameters, and what is computed from its positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import InputError
from ...io.fields import parse_size
from ...ledger import ITEMSIZE
from ...programs import Config
from ...programs.heads import CAUSAL, head_of
from ..engine import Spec
from .formats import PUBLISHED, Format, named
from .layers import ATTENTION, having
from .weights import Part


class Checkpoint(NamedTuple):
    """A model, and how its checkpoint is quantised."""

    spec: Spec
    quantization: Any
    """The config's own ``quantization_config``, or what the checkpoint's name says; ``None`` where it is not."""
    warnings: tuple[str, ...] = ()
    draft: Checkpoint | None = None
    """A model that drafts beside it."""


def checkpoint(model: str, load: Callable[[str], Spec], draft: str | None = None) -> Checkpoint:
    """A model by its name, and how its checkpoint is quantised: by its config.json, else by its name.

    Raises ``InputError`` where it is no causal language model.
    """
    if draft is not None:
        return checkpoint(model, load)._replace(draft=checkpoint(draft, load))
    packed = named(model)
    if packed is not None and "/" in model:
        try:
            spec = load(packed[0].rpartition("/")[2])
        except InputError:
            pass
        else:
            note = f"{model} is read as {spec.name}, quantised as its name says; its config.json replaces this"
            return Checkpoint(spec, packed[1], (note,))
    spec = load(model)
    if (head := getattr(spec, "head", CAUSAL)) != CAUSAL or (head := head_of(spec.raw)) != CAUSAL:
        raise InputError(f"{model} ends with {head}, and servers are counted of causal language models alone; take one")
    family = spec.raw.get("model_type")
    own = PUBLISHED.get(str(family)) if getattr(spec, "hub_id", None) or family == "gpt_oss" else None
    return Checkpoint(spec, getattr(spec, "quantization", None) or own, spec.warnings)


def bytes_of(part: Part, dtype: str, format: Format | None) -> int:
    """Bytes of a parameter."""
    if format is not None and (packed := format.of(part)) is not None:
        return packed
    return part.elements * (4 if part.float32 else ITEMSIZE[dtype])


def is_on(part: Part, rank: int, ranks: int, config: Config, everywhere: str = "$.") -> bool:
    """Whether a rank of a pipeline has a parameter that is in no layer: embeddings first, the output's last.

    ``everywhere`` is a pattern of those that the engine's class makes on each rank.
    """
    if re.search(everywhere, part.name):
        return True
    if re.search(r"(embed(?!ding_norm)|wte|wpe|word_embeddings)", part.name):
        return rank == 0 or (rank == ranks - 1 and config.tie_word_embeddings)
    return rank == ranks - 1


def layers_of(ranks: int, total: int, last: bool = False) -> list[range]:
    """The layers of each rank of a pipeline. What remains goes to the ranks before the last, or to the ``last``."""
    found, start = [], 0
    for rank in range(ranks):
        left = ranks - rank - (not last)
        size = total // ranks + (0 < total % ranks >= left > 0)
        found.append(range(start, start + size))
        start += size
    return found


DRAFTS = (
    *("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "glm4_moe", "ernie4_5_moe", "mimo"),
    *("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
)
"""Families whose checkpoints have a layer that drafts (``vllm/config/speculative.py: mtp``)."""


def drafting_layer(held: Sequence[Part], config: Config, option: str, instead: str) -> list[Part]:
    """The parameters of a layer that drafts, as the last that attends, with its projection and norms; on the last rank.

    Raises ``InputError`` for a family whose checkpoints have none.
    """
    if config.family not in DRAFTS:
        raise InputError(f"{option}: model_type {config.family} has no layer that drafts; name a {instead}")
    last, size, place = having(ATTENTION, config)[-1], config.hidden_size, config.num_hidden_layers - 1
    own = [part._replace(layer=place) for part in held if part.layer == last]
    return [*own, Part("the drafting layer's projection and norms", 2 * size**2 + 3 * size, layer=place)]


def adapter_bytes(held: Sequence[Part], rank: int, slots: int, dtype: str, experts: int = 0) -> int:
    """Slots for adapters on all linear layers (``lora/layers``): A [rank, in] and B [out, rank], of its sizes.

    ``experts``: how many A an expert's gate and its other half have (``fused_moe.py``); 0 where experts have no slots.
    """
    found = 0
    for part in held:
        if part.linear is not None and (experts or ".experts." not in part.name):
            outputs, inputs = part.linear
            merged = ".experts." in part.name and "gate_up" in part.name
            found += part.elements // (outputs * inputs) * (outputs + inputs * (experts if merged else 1))
    return found * rank * slots * ITEMSIZE[dtype]


def absorbed_bytes(raw: Mapping[str, Any], ranks: int, dtype: str) -> int:
    """A layer's projection of latent keys and values, which is quantised, once more in the model's dtype
    (``mla/common.py: process_weights_after_loading``).
    """
    heads = raw["num_attention_heads"] // ranks
    found: int = heads * (raw["qk_nope_head_dim"] + raw["v_head_dim"]) * raw["kv_lora_rank"] * ITEMSIZE[dtype]
    return found


def rope_bytes(raw: Mapping[str, Any], config: Config, itemsize: int) -> int:
    """Cosines and sines of all positions, of each kind of rotary embedding (``rotary_embedding/base.py``)."""
    ropes = raw.get("rope_parameters") or {}
    kinds = list(ropes.values()) if all(isinstance(one, Mapping) for one in ropes.values()) and ropes else [ropes]
    size = raw.get("qk_rope_head_dim") or raw.get("head_dim") or config.heads.get("head_dim") or 0
    found = 0
    for kind in {repr(one): one for one in kinds}.values():
        positions = raw.get("max_position_embeddings") or 0
        scaled = kind.get("rope_type") in ("yarn", "linear", "deepseek_yarn")
        start = kind.get("original_max_position_embeddings") if kind.get("rope_type") != "linear" else None
        positions = int((start or positions) * kind.get("factor", 1)) if scaled else positions
        share = kind.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1
        if kind.get("rope_type") == "proportional":
            share = 1
        found += positions * int(size * share) * itemsize
    return found


def given(size: str | None, default: int) -> int:
    """A size of the options, or the derived one."""
    return default if size is None else parse_size(size)


def positions(raw: Mapping[str, Any]) -> int | None:
    """The longest request that the model was made for (``config/model.py: _get_and_verify_max_len``)."""
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(raw[key]) for key in keys if isinstance(raw.get(key), int)), None)
