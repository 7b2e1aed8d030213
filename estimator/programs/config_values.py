"""What values in a config.json say, whatever the family: lists with an entry per layer, rotary embeddings, sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ..errors import InputError, shown
from .depth import Signature
from .expressions import LARGEST, evaluate

LIMITS = {
    "vocab_size": 10**8,
    "hidden_size": 10**7,
    "intermediate_size": 10**8,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5,
    "num_key_value_heads": 10**5,
    "head_dim": 10**5,
    "sliding_window": 10**10,
    "max_window_layers": 10**5,
}
LARGEST_SIZE = 10**8
"""The largest value of each key, and of other keys."""

NAMES_BEFORE = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
}
"""Names of layers in earlier releases (``transformers/configuration_utils.py: _LEGACY_LAYER_TYPE_REMAP``)."""
STATIC_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embeddings that call the same: their frequencies differ, and are the same at all lengths."""
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh")
"""Activations that are one call, which saves its input and nothing else: a program of one is one of all."""
IGNORED = frozenset({
    "model_type", "transformers_version", "architectures", "output_hidden_states", "return_dict", "torchscript",
    "dtype", "torch_dtype", "use_cache", "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "pretraining_tp",
    "label2id", "problem_type", "_name_or_path", "output_attentions", "is_decoder", "rope_parameters",
    "rope_scaling", "rope_theta", "global_rope_theta", "local_rope_theta", "auto_map", "tokenizer_class",
    "num_labels", "task_specific_params", "mtp_layers_block_type", "mtp_hybrid_override_pattern",
})  # fmt: skip
"""Keys of every config, which change no forward pass of a causal language model or are treated by themselves.

The layers of ``mtp_...`` predict tokens further ahead; transformers builds none.
"""
GENERATION = frozenset({
    "max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "typical_p", "num_beams", "n_ctx",
    "num_beam_groups", "num_return_sequences", "early_stopping", "length_penalty", "repetition_penalty",
    "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "return_dict_in_generate",
    "output_scores", "remove_invalid_values", "initializer_range", "use_bfloat16", "cache_implementation",
})  # fmt: skip
"""Keys of configs of earlier releases that only ``generate``, the first weights or other frameworks read."""
EVERY = ("sliding_window_pattern", "global_attn_every_n_layers")
"""The keys that say how often a layer has full attention, in classes of which it sets the layers' kinds."""
DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers")
"""Keys of the number of layers without experts, which come first."""
DEPTH_KEYS = (*DENSE_FIRST, "max_window_layers", "interleave_moe_layer_step")
"""Keys of a config that count layers."""
INDEX_KEYS = ("mlp_only_layers", "moe_layers", "full_attn_idxs")
"""Keys of a config that list numbers of layers."""
SHARING = "num_kv_shared_layers"
"""The key of the number of layers, the last ones, that take keys and values from earlier layers."""
INDEXERS = "indexer_types"
"""The key of the list of which layers choose tokens by themselves; a ``shared`` one takes those of the layer before."""
CONVOLUTIONS = ("conv_L_cache", "mamba_d_conv", "conv_kernel", "linear_conv_kernel_dim")
"""Keys of the width of a layer's convolution over the sequence, whose cache has as many tokens. Fewer are padded."""
CHECKED = ("use_sliding_window", "partial_rotary_factor", "rotary_pct", "rope_pct")
"""Keys that are looked at whether a class has them or not."""
_QUOTIENT = re.compile(r"[\w.]+ / [\w.]+")
LARGEST_LIST = 4096


class OtherConfig(InputError):
    """A config has another structure than a program. ``matched`` keys are as the program's."""

    def __init__(self, message: str, matched: int = 0) -> None:
        super().__init__(message)
        self.matched = matched


class NoWindow(InputError):
    """No layer of a config has a sliding window, and some had one in a program's recordings."""


class BadValue(InputError):
    """A config has a value that no model has."""


def default_list(rule: Any, config: Mapping[str, Any], n: int, key: str) -> list[Any]:
    """A class's list with an entry per layer, by its rule (``Family.lists``)."""
    if rule is None:
        raise InputError(f"the config has no {key}")
    if "period" in rule:
        first, period = rule.get("first", []), rule["period"]
        if config.get(every := rule.get("every")) is not None:
            others = min(whole_number(config[every], every), n + 1) - 1
            leads = len(period) > 2 and period[0] != period[1]  # the layer that comes once is the first one
            period = [period[0]] + period[-1:] * others if leads else [period[0]] * others + period[-1:]
        return [*first, *(period[i % len(period)] for i in range(n))][:n]
    if "runs" in rule:
        return runs(config.get(rule["runs"])) or []
    if "text" in rule:
        text, letters = config.get(rule["text"]), rule["letters"]
        if not isinstance(text, str) or len(text) > LARGEST_LIST or not {*text} <= {*letters}:
            raise InputError(f"{rule['text']} is {shown(text)}, which has other letters than {shown(''.join(letters))}")
        return [letters[letter] for letter in text]
    if "numbers" in rule:
        numbers = config.get(rule["numbers"])
        if numbers is None:
            return [rule["listed"]] * n
        if not isinstance(numbers, (list, tuple)) or not all(type(i) is int for i in numbers):
            raise BadValue(f"{rule['numbers']} is {shown(numbers)}; it must be a list of layers' numbers")
        listed = {*numbers}
        return [rule["listed" if i in listed else "others"] for i in range(n)]
    given = config.get(rule["from"])
    below = 0 if given == 0 and type(given) is int else whole_number(given, rule["from"])
    return [rule["below"] if i < below else rule["above"] for i in range(n)]


def number_of(layers: Any) -> Any:
    """A number of layers, or the entries of a list with one for each."""
    return len(layers) if isinstance(layers, (list, tuple)) else layers


def letters_of(text: Any, entries: Sequence[Any]) -> dict[str, Any] | None:
    """What each letter of a text stands for, if it has one for each entry of a list."""
    if not isinstance(text, str) or len(text) != len(entries):
        return None
    letters = dict(zip(text, entries, strict=True))
    return letters if [letters[letter] for letter in text] == list(entries) else None


def runs(value: Any) -> list[Any] | None:
    """The list that ``[[entries, times], ...]`` stands for, or None for anything else."""
    if not isinstance(value, (list, tuple)):
        return None
    found: list[Any] = []
    for run in value:
        if (
            not isinstance(run, (list, tuple))
            or len(run) != 2
            or not isinstance(run[0], (list, tuple))
            or type(run[1]) is not int
            or not 0 < run[1] * len(run[0]) <= LARGEST_LIST
        ):
            return None
        found += [*run[0]] * run[1]
    return found


def signatures(config: Mapping[str, Any], lists: Mapping[str, Sequence[Any]], n: int) -> list[Signature]:
    """What a config says of each layer: its entries in lists, and whether it is dense or has experts."""
    dense_ones = config.get("mlp_only_layers")
    if dense_ones is not None and not isinstance(dense_ones, (list, tuple)):
        raise BadValue(f"mlp_only_layers is {shown(dense_ones)}; it must be a list of layers' numbers")
    found = []
    for i in range(n):
        signature = [structural(lists[key][i]) for key in sorted(lists)]
        for key in DENSE_FIRST:
            if isinstance(first := config.get(key), int):
                signature.append("dense" if i < first else "sparse")
        if isinstance(step := config.get("decoder_sparse_step"), int):
            dense = i in (dense_ones or ()) or step < 1 or (i + 1) % step
            signature.append("dense" if dense else "sparse")
        if isinstance(step := config.get("interleave_moe_layer_step"), int):
            sparse = config.get("moe_layers")
            dense = i not in sparse if isinstance(sparse, (list, tuple)) else step < 1 or (i + 1) % step
            signature.append("dense" if dense else "sparse")
        found.append(tuple(signature))
    kinds = lists.get("layer_types")
    if kinds is not None and isinstance(sharing := config.get(SHARING), int):
        found = [(*one, role) for one, role in zip(found, _sharing(kinds[:n], n - sharing), strict=True)]
    if "shared" in (indexers := lists.get(INDEXERS) or ()):
        found = [(*one, *choice) for one, choice in zip(found, _choices(indexers[:n]), strict=True)]
    return found


def _sharing(kinds: Sequence[Any], first: int) -> list[Signature]:
    """What each layer does with keys and values, and of which kinds of layers it is given others'.

    Layers from ``first`` on share an earlier one's. Of each kind, the last one before them leaves its own to all that
    follow (``Gemma4TextConfig.kv_sharing_modes``).
    """
    last = {kind: i for i, kind in enumerate(kinds[: max(first, 0)])}
    if missing := [kind for kind in kinds if kind not in last]:
        raise InputError(f"{SHARING}: no layer before those that share is of kind {shown(missing[0])}")
    found = []
    for i, kind in enumerate(kinds):
        role = "shares" if i >= first else "leaves" if last[kind] == i else "keeps"
        found.append((role, *sorted(other for other, left in last.items() if left < i)))
    return found


def _choices(indexers: Sequence[Any]) -> list[Signature]:
    """For each layer, the next one's entry, and whether a later layer chooses tokens."""
    last = max((i for i, kind in enumerate(indexers) if kind != "shared"), default=0)
    return [(following, i < last) for i, following in enumerate([*indexers[1:], "none"])]


def one_for_all(value: Any) -> Any:
    """A size that a config gives for each layer, as one where all have the same."""
    same = isinstance(value, (list, tuple)) and value and all(type(x) is int and x == value[0] for x in value)
    return value[0] if same else value


def structure_entry(key: str, config: Mapping[str, Any], floating: bool) -> Any:
    """What a config says about an entry of ``structure``: a key, ``a = b``, ``a <= 256``, ``a is a power of 2``, or
    ``a is given``.
    """
    if " <= " in key:
        name, bound = key.split(" <= ")
        value = config.get(name)
        return isinstance(value, int) and value <= int(bound)
    if " = " in key:
        try:
            first, second = (config.get(x) if _is_key(x) else evaluate(x, config) for x in key.split(" = "))
        except KeyError:
            return False
        return first == second
    if key.endswith(" is given"):
        return config.get(key.removesuffix(" is given")) is not None
    if key.endswith(" is a power of 2"):
        value = config.get(key.removesuffix(" is a power of 2"))
        return isinstance(value, int) and value > 0 and value & (value - 1) == 0
    return structural(config.get(key), floating)


def structural(value: Any, floating: bool = False) -> Any:
    """A config's value as far as it decides which calls are made: of a floating number, whether it is zero."""
    if isinstance(value, float) or (floating and isinstance(value, int)):
        return 1.0 if value else 0.0
    if isinstance(value, str) and "|" in value:  # as DeBERTa's configs write a list
        value = [x.strip() for x in value.lower().split("|")]
    return [structural(x) for x in value] if isinstance(value, (list, tuple)) else value


def name_of(key: str) -> str:
    """A key without the part of the config that it is of."""
    return key.rpartition(".")[2]


def _is_key(text: str) -> bool:
    return text.replace(".", "_").isidentifier()


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config and of its parts, these behind the part's name and a dot: ``vision_config.hidden_size``.

    Rotary embeddings of each part are gathered (``with_rope``).
    """
    found: dict[str, Any] = {}
    for part, value in config.items():
        if part.endswith("_config") and isinstance(value, Mapping):
            found |= {f"{part}.{key}": x for key, x in with_rope(value).items()}
        else:
            found[part] = value
    return found


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of such keys, with its parts. Raises ``InputError`` where a part is no mapping."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        part, _, name = key.rpartition(".")
        inner = found.setdefault(part, {}) if part else found
        if not isinstance(inner, dict):
            raise InputError(f"{part} must be a mapping, not {shown(inner)}")
        inner[name] = value
    return found


def with_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of rotary embeddings as transformers 5 gathers them (``modeling_rope_utils.py``)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = isinstance(rope, Mapping) and rope and all(isinstance(x, Mapping) for x in rope.values())
    kinds = rope.values() if nested else (rope,)
    types = sorted({_rope_type(x) for x in kinds if isinstance(x, Mapping)})
    factors = [x.get("partial_rotary_factor") for x in kinds if isinstance(x, Mapping)]
    factor = factors[0] if factors and all(one == factors[0] for one in factors) else None
    for key in ("partial_rotary_factor", "rotary_pct", "rope_pct"):
        factor = config.get(key) if factor is None else factor
    made = {**config, "rope_type": "/".join(types)} if rope else dict(config)
    if factor is not None:
        made["partial_rotary_factor"] = factor
    if isinstance(rope, Mapping) and "mrope_section" in rope:
        made["mrope_section"] = rope["mrope_section"]
    return made


def _rope_type(rope: Mapping[str, Any]) -> str:
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    kind = "default" if kind == "mrope" else kind  # as Qwen2-VL's first configs say it
    return f"{kind} with alpha" if rope.get("alpha") or rope.get("ntk_alpha") else kind  # Hunyuan's, which is static


def check_number(key: str, value: Any, least: int) -> None:
    """Raise ``BadValue`` for what is no integer, or one that no model has."""
    largest = LIMITS.get(name_of(key), LARGEST_SIZE)
    if not (type(value) is int and least <= value <= largest):
        raise BadValue(f"{key} is {shown(value)}; it must be a whole number between {least} and {largest}")


def sized(text: str, config: Mapping[str, Any]) -> int:
    """The positive integer that an expression of a config's keys is. Raises ``InputError``, ``KeyError`` for a key."""
    value = evaluate(text, config)
    if isinstance(value, Fraction) and value.denominator > 1 and _QUOTIENT.fullmatch(text):
        raise InputError(no_multiple(text, config))
    return whole_number(value, text)


def no_multiple(quotient: str, config: Mapping[str, Any]) -> str:
    """What a message says of a quotient of two keys that is no whole number."""
    a, b = quotient.split(" / ")
    return f"{a} {shown(config[a])} is not a multiple of {b} {shown(config[b])}"


def whole_number(value: Any, what: str) -> int:
    """A positive integer. Raises ``InputError``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, Fraction))
        or value != int(value)
        or not 0 < value <= LARGEST
    ):
        raise InputError(f"{what} is {shown(value)} in this config; it must be a positive integer")
    return int(value)
