"""Quantisation recipes: which type ``llama-quantize`` gives each tensor.

After ``llama_tensor_get_type_impl``, ``tensor_type_fallback`` and ``tensor_allows_quantization`` of
``src/llama-quant.cpp``, without an importance matrix. A recipe's name (Q4_K_M) gives the type of most tensors. The
types of output, value and down projections depend on the layer. A tensor whose rows are not whole blocks of its type
gets a type with smaller blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .ggml import TYPES, UNQUANTISED
from .placement import INPUTS

RECIPES: Mapping[str, str] = {
    "f32": "f32", "f16": "f16", "bf16": "bf16", "q8_0": "q8_0", "q6_k": "q6_k", "q5_k_m": "q5_k", "q5_k_s": "q5_k",
    "q5_1": "q5_1", "q5_0": "q5_0", "q4_k_m": "q4_k", "q4_k_s": "q4_k", "q4_1": "q4_1", "q4_0": "q4_0",
    "iq4_nl": "iq4_nl", "iq4_xs": "iq4_xs", "q3_k_l": "q3_k", "q3_k_m": "q3_k", "q3_k_s": "q3_k", "iq3_m": "iq3_s",
    "iq3_s": "iq3_s", "q2_k": "q2_k", "mxfp4_moe": "mxfp4",
}  # fmt: skip
"""The type that most tensors get, by recipe (``llama_ftype_get_default_type``)."""

RELEASED = {"gpt_oss": "mxfp4_moe"}
"""By a config's ``model_type``: the recipe of its one released format, the default of ``ollama run``, ``lms load`` and
``-hf``. Source: ggml-org/gpt-oss-20b-GGUF and ollama.com/library/gpt-oss, whose files have experts in MXFP4."""

_FALLBACK = {
    "iq3_s": "iq4_nl", "iq4_xs": "iq4_nl", "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1",
    "q6_k": "q8_0",
}  # fmt: skip
"""The type of a tensor whose rows are not whole blocks of the chosen type (``tensor_type_fallback``)."""
_NEVER_QUANTISED = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d", "shortconv.conv.weight")
_KEPT = (*_NEVER_QUANTISED, "altup", "laurel", "per_layer_model_proj")
"""Parts of the names of tensors that keep the type they were converted to."""
_FLOAT32 = (*_NEVER_QUANTISED, "altup_correct", "altup_predict")
"""Parts of the names of tensors that are converted to float32, as tensors of one dimension are
(``conversion/base.py: prepare_tensors``)."""
_VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")


def order(names: list[str]) -> list[str]:
    """Tensors as ``llama-quantize`` writes them: by layer, then by name (``weight_name_comparer``)."""

    def key(name: str) -> tuple[int, str]:
        found = re.match(r"blk\.(\d+)\.", name)
        return (int(found[1]) if found else -1, name)

    return sorted(names, key=key)


@dataclass
class _Model:
    """What the choice of a type depends on beside the tensor."""

    recipe: str
    layers: int
    experts: int
    n_gqa: int
    """Query heads per key/value head in the first layer."""
    is_70b: bool
    """A model of 80 layers, whose values get more bits."""
    tied: bool
    values: int
    seen_values: int = 0
    seen_down: int = 0


def types(
    shapes: Mapping[str, tuple[int, ...]],
    recipe: str,
    *,
    layers: int,
    experts: int,
    n_gqa: int,
    is_70b: bool,
    converted: str = "bf16",
) -> dict[str, str]:
    """Each tensor's type, in the order of the file. ``converted`` is the type of the file before quantisation."""
    names = order(list(shapes))
    default = RECIPES[recipe]
    model = _Model(
        recipe,
        layers,
        experts,
        n_gqa,
        is_70b,
        tied="output.weight" not in shapes,
        values=sum(name.endswith(_VALUES) for name in names),
    )
    if recipe in ("f32", "f16", "bf16"):
        converted = recipe
    found = {}
    for name in names:
        shape = shapes[name]
        if len(shape) == 1 or not name.endswith(".weight") or any(part in name for part in _FLOAT32):
            found[name] = "f32"
        elif default in UNQUANTISED or any(part in name for part in _KEPT):
            found[name] = converted
        else:
            found[name] = _fitting(_chosen(model, name, shape, default), shape[0])
    return found


def _fitting(kind: str, row: int) -> str:
    if row % TYPES[kind][0] == 0:
        return kind
    smaller = _FALLBACK.get(kind, kind)
    return smaller if row % TYPES[smaller][0] == 0 else "f16"


def _chosen(m: _Model, name: str, shape: tuple[int, ...], default: str) -> str:
    if name == "output.weight" or (m.tied and name in INPUTS):
        if m.recipe == "mxfp4_moe" or shape[0] % TYPES[default][0]:
            return "q8_0"
        return default if default == "q8_0" else "q6_k"
    if m.recipe == "mxfp4_moe":
        return "mxfp4" if len(shape) > 2 else "q8_0"
    if name in INPUTS:
        return default
    if name.endswith(_VALUES):
        return _value(m, default)
    part = name.rpartition(".weight")[0].rpartition(".")[2]
    if part == "attn_k":
        return "q8_0" if m.experts == 8 else default
    if part == "attn_output":
        return _output(m, default)
    if part.startswith("ffn_down"):
        return _down(m, name, default)
    return default


def _more_bits(i: int, n: int) -> bool:
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _value(m: _Model, default: str) -> str:
    i, kind = m.seen_values, default
    m.seen_values += 1
    many = m.n_gqa >= 4
    if m.recipe == "q2_k":
        kind = "q4_k" if many else "q3_k"
    elif m.recipe == "q3_k_m":
        kind = "q5_k" if i < 2 else "q4_k"
    elif m.recipe == "q3_k_l":
        kind = "q5_k"
    elif m.recipe == "iq3_m" or (m.recipe == "iq3_s" and many):
        kind = "q4_k"
    elif m.recipe in ("iq4_nl", "iq4_xs") and many:
        kind = "q5_k"
    elif m.recipe in ("q4_k_m", "q5_k_m") and _more_bits(i, m.values):
        kind = "q6_k"
    elif m.recipe == "q4_k_s" and i < 4:
        kind = "q5_k"
    if m.is_70b and kind in ("q3_k", "q4_k"):
        kind = "q5_k"
    return "q8_0" if m.experts == 8 else kind


def _down(m: _Model, name: str, default: str) -> str:
    i, n = m.seen_down, m.layers
    m.seen_down += 1
    if m.experts > 1:
        found = re.match(r"blk\.(\d+)\.", name)
        assert found is not None
        i = int(found[1])
    if m.recipe == "q2_k":
        return "q3_k"
    if m.recipe == "q3_k_m":
        return "q5_k" if i < n // 16 else "q4_k"
    if m.recipe == "q3_k_l":
        return "q5_k"
    if m.recipe == "iq3_m" and (i < n // 8 or (m.experts == 8 and _more_bits(i, n))):
        return "q4_k"
    if m.recipe in ("q4_k_m", "q5_k_m") and _more_bits(i, n):
        return "q6_k"
    if m.recipe in ("iq4_nl", "iq4_xs", "q4_k_s") and i < n // 8:
        return "q5_k"
    return default


def _output(m: _Model, default: str) -> str:
    if m.experts == 8:
        five = ("q2_k", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs")
        return "q5_k" if m.recipe in five else default
    return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}.get(m.recipe, default)
