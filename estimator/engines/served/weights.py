"""The parameters of one rank: which part of each of a model's parameters it has.

A layer's projections are merged, which changes no count. A parameter is whole on each rank, or split by its rows or
columns; heads of keys and values are copied where there are more ranks than heads.

Sources: ``vllm/model_executor/layers/linear.py``, ``vocab_parallel_embedding.py``, ``fused_moe/config.py``,
``mamba/mamba_mixer2.py`` and ``mamba/mamba_utils.py``, and the model classes in ``vllm/model_executor/models``.
SGLang's layers and classes were made from these, and split alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

from ...errors import InputError
from ...ledger import whole
from ...programs import Config
from .parallel import Parallel

VOCABULARY = 64
"""Rows of embeddings are padded to a multiple of so many (``DEFAULT_VOCAB_PADDING_SIZE``)."""
ROWS = "o_proj|out_proj|dense|dense_4h_to_h|down_proj|fc2|fc_out|c_proj|w2|output_linear|linear_right|linear_fc2"
"""Linear layers that are split by their inputs. Each rank has the whole bias."""
COLUMNS = (
    "q_proj|q_b_proj|kv_b_proj|gate_proj|up_proj|gate_up_proj|fc1|fc_in|c_fc|dense_h_to_4h|w1|w3|input_linear|"
    "linear_left|in_proj(?:_[a-z]+)?|conv|conv1d|sinks|"
    "A_log|D|dt_bias|altup_projections|altup_unembed_projections|per_layer_model_projection"
)
"""Those that are split by their outputs, and parameters of heads."""
KEYS_AND_VALUES = "k_proj|v_proj"
MERGED = "qkv_proj|query_key_value|c_attn|Wqkv"
FLOAT32 = r"\.A_log$|e_score_correction_bias$|correct_output_scale$|\.indexer\.k_norm\."
TRANSPOSED = ("gpt_oss", "llama4_text")
"""Families whose experts' weights are [experts, inputs, outputs] in transformers."""
FLOAT32_GATES = ("ernie4_5_moe", "minimax_m2", "nemotron_h")
"""Families whose routers are in float32."""


class Part(NamedTuple):
    """A parameter, or equal ones of many layers, as a rank has it."""

    name: str
    elements: int
    float32: bool = False
    linear: tuple[int, int] | None = None
    """Of a linear layer's weight that a quantised checkpoint packs: the rank's outputs and inputs, of one expert."""
    layer: int | None = None


def kv_heads_of(heads: int, ranks: int) -> int:
    """Heads of keys or values on a rank."""
    return max(1, heads // ranks)


def kv_heads(config: Config, raw: Mapping[str, Any]) -> int:
    """Heads of keys of the whole model. Falcon's first models have one, whatever ``num_kv_heads`` is."""
    one = raw.get("multi_query") and not raw.get("new_decoder_architecture")
    return 1 if one else config.num_key_value_heads


def shapes_of(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters, as transformers has them."""
    return {name: tuple(whole(size) for size in shape) for name, shape in config.parameters.items()}


def parts(config: Config, raw: Mapping[str, Any], parallel: Parallel, old: bool = False) -> Iterator[Part]:
    """The parameters of a rank, of all layers. Raises ``InputError`` where the engine cannot split the model.

    ``old``: as vLLM 0.11 has them.
    """
    if not raw.get("kv_lora_rank") and config.heads.get("num_key_value_heads"):
        _check_copies(kv_heads(config, raw), parallel)
    roles = {module.path: module.role for module in config.modules.of("embedding", "linear")}
    shapes = shapes_of(config)
    for name, shape in shapes.items():
        if name == "lm_head.bias" and config.family == "phi" and not old:  # run by way of transformers, without it
            continue
        elements = prod(shape)
        layer = int(found[1]) if (found := re.search(r"(?<!projections)\.(\d+)\.", name)) else None
        if roles.get(name.rpartition(".")[0]) is not None or name.endswith("embed_tokens_per_layer.weight"):
            padded = -(-shape[0] // VOCABULARY) * VOCABULARY
            ranks = parallel.head if parallel.head and name.startswith("lm_head") else parallel.tp
            yield Part(name, elements // shape[0] * (padded // ranks), layer=layer)
            continue
        share = _share(name, shape, config, raw, parallel, old)
        router = (
            not old and config.family in FLOAT32_GATES and name.endswith((".mlp.gate.weight", ".mixer.gate.weight"))
        )
        float32 = router or bool(re.search(FLOAT32, name) and not (old and ".moe_statics." in name))
        count = _whole(elements * (1 if share is None else share), name, parallel)
        linear = None
        if len(shape) >= 2 and not float32 and not name.endswith("bias"):
            among = ".experts." in name
            outputs, inputs = shape[-2:] if not (among and config.family in TRANSPOSED) else shape[:-3:-1]
            one = count // parallel.experts(shape[0]) if among else count
            linear = (outputs, one // outputs) if re.fullmatch(ROWS, _last(name)) else (one // inputs, inputs)
        yield Part(name, count, float32, linear, layer)
        if raw.get("attention_k_eq_v") and name.endswith("k_proj.weight"):
            values = name.replace("k_proj", "v_proj")
            if values not in shapes:  # keys are loaded once more as values
                yield Part(values, count, False, linear, layer)
    key = SCORE_CORRECTIONS.get(config.family)
    for name in shapes:
        if key is not None and name.endswith("experts.down_proj") and (found := re.search(r"\.(\d+)\.", name)):
            yield Part("e_score_correction_bias", int(raw[key]), float32=True, layer=int(found[1]))


def _whole(count: Fraction | int, name: str, parallel: Parallel) -> int:
    """A rank's elements. Raises ``InputError`` in the engine's words where they are no whole number."""
    if count != int(count):
        raise InputError(
            f"{parallel.engine} stops: AssertionError: {name} is not divisible by {parallel.tp}; take another "
            f"{parallel.option}"
        )
    return int(count)


def _check_copies(heads: int, parallel: Parallel) -> None:
    """Raise ``InputError`` where heads of keys are neither split nor copied evenly (``models/llama.py``)."""
    if max(heads, parallel.tp) % min(heads, parallel.tp):
        raise InputError(
            f"{parallel.engine} stops: AssertionError, since {heads} heads of keys and {parallel.tp} ranks do not "
            f"divide one another; take another {parallel.option}"
        )


def _last(name: str) -> str:
    """The last word of a parameter's module, or of its own name."""
    module, _, kind = name.rpartition(".")
    last = module.rpartition(".")[2] if kind in ("weight", "bias") else kind
    return module.split(".")[-2] if last.isdigit() else last


def _share(
    name: str, shape: tuple[int, ...], config: Config, raw: Mapping[str, Any], parallel: Parallel, old: bool
) -> Fraction | None:
    """The rank's share of a parameter; ``None`` for one that each rank has whole."""
    kind, last = name.rpartition(".")[2], _last(name)
    bias = kind == "bias" or kind.endswith("proj_bias")
    tp = parallel.tp
    if ".experts." in name:
        split = 1 if bias and "down_proj" in kind else parallel.moe // parallel.ep
        return Fraction(parallel.experts(shape[0]), shape[0] * split)
    if parallel.dense and re.search(r"(gate|up|down|gate_up)_proj|\.fc[12]\.", name):
        tp = parallel.dense
    if ".indexer." in name or (config.family == "gpt_bigcode" and ".mlp." in name and not old):
        return None
    if re.search(r"\.(mamba|mixer)\.(in_proj|out_proj|conv1d|norm|A_log|D|dt_bias)", name):
        return _of_mamba2(last, kind, shape[0], raw, tp)
    if re.fullmatch(KEYS_AND_VALUES, last):
        heads = _kv_heads(shape[0], config, raw)
        if old and config.family == "smollm3":  # by way of transformers, which copied no heads
            return Fraction(1, tp)
        return Fraction(kv_heads_of(heads, tp), heads)
    if re.fullmatch(MERGED, last):
        heads, kv = config.num_attention_heads, kv_heads(config, raw)
        return Fraction(heads // tp + 2 * kv_heads_of(kv, tp), heads + 2 * kv)
    if re.fullmatch(ROWS, last):
        return None if bias else Fraction(1, tp)
    if config.family == "minimax_m2" and last == "k_norm":
        return Fraction(kv_heads_of(config.num_key_value_heads, tp), config.num_key_value_heads)
    return Fraction(1, tp) if re.fullmatch(COLUMNS, last) or (config.family, last) == ("minimax_m2", "q_norm") else None


def _kv_heads(rows: int, config: Config, raw: Mapping[str, Any]) -> int:
    """Heads of keys of a layer, where Gemma 4's differ."""
    if "global_head_dim" not in raw:
        return kv_heads(config, raw)
    sliding = rows == raw["num_key_value_heads"] * raw["head_dim"]
    return int(raw["num_key_value_heads"] if sliding else rows // raw["global_head_dim"])


def _of_mamba2(last: str, kind: str, rows: int, raw: Mapping[str, Any], tp: int) -> Fraction | None:
    """Groups are copied until each rank has one (``mamba_utils.py: extra_groups_for_head_shards``)."""
    size = mamba2(raw)
    inner, heads = size.heads * size.head, size.heads
    groups = size.groups if size.groups % tp == 0 else tp
    state = 2 * groups * size.state // tp
    if last == "in_proj":
        return Fraction(2 * inner // tp + state + heads // tp, rows)
    if last == "conv1d":
        return Fraction(inner // tp + state, rows)
    if last == "out_proj":
        return None if kind == "bias" else Fraction(1, tp)
    return Fraction(1, tp)


class Mamba2(NamedTuple):
    """Sizes of a Mamba-2 layer."""

    heads: int
    head: int
    groups: int
    state: int
    kernel: int


def mamba2(raw: Mapping[str, Any]) -> Mamba2:
    """The sizes of a config's Mamba-2 layers."""
    if "mamba_num_heads" in raw:
        names = ("mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel")
    else:
        names = ("mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_conv")
    return Mamba2(*(int(raw[name]) for name in names))


SCORE_CORRECTIONS = {
    "deepseek_v3": "n_routed_experts",
    "deepseek_v32": "n_routed_experts",
    "glm_moe_dsa": "n_routed_experts",
    "glm4_moe": "n_routed_experts",
    "minimax_m2": "num_local_experts",
    "nemotron_h": "n_routed_experts",
    "lfm2_moe": "num_experts",
}
"""Families whose routers have a float32 bias that transformers keeps as a buffer, and the key of its size."""
