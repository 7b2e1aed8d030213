"""The sizes of a model, as the engine reads them from a GGUF header to build the graph and the caches.

Sources: ``load_hparams`` in ``src/llama-model.cpp``, ``load_arch_hparams`` in ``src/models/*.cpp``,
``src/llama-hparams.cpp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError, shown
from .header import Header

SWA_PERIOD = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2}
"""One layer in so many attends to the whole context, where the header does not say (``load_swa_pattern``)."""
NO_ROPE_STEP = {"smollm3": 4}
"""One layer in so many has no rotary embedding (``n_no_rope_layer_step``)."""
SHARED_AFTER = {"gemma3n": 20}
"""From this layer on, layers read an earlier layer's cache and have none of their own (``n_layer_kv_from_start``)."""
_ROPE_SWITCH = ("granite", "granitemoe", "granitehybrid")
"""Architectures whose header says whether there are rotary embeddings (``rope.scaling.finetuned``)."""
RANGES: Mapping[str, tuple[int, int]] = {
    "block_count": (1, 512),  # LLAMA_MAX_LAYERS
    "context_length": (1, 1 << 31),
    "embedding_length": (1, 1 << 20),
    "embedding_length_per_layer_input": (0, 1 << 20),
    "attention.head_count": (0, 1 << 16),  # a recurrent layer has none
    "attention.head_count_kv": (0, 1 << 16),
    "attention.key_length": (1, 1 << 16),
    "attention.value_length": (1, 1 << 16),
    "attention.key_length_mla": (0, 1 << 16),
    "attention.value_length_mla": (0, 1 << 16),
    "attention.kv_lora_rank": (0, 1 << 16),
    "attention.sliding_window": (0, 1 << 31),
    "attention.sliding_window_pattern": (0, 512),
    "rope.dimension_count": (0, 1 << 16),
    "expert_count": (0, 512),  # LLAMA_MAX_EXPERTS
    "expert_used_count": (0, 64),  # models use 1 to 22
    "expert_group_count": (0, 512),
    "expert_group_used_count": (0, 512),
    "expert_gating_func": (0, 4),  # enum llama_expert_gating_func_type
    "leading_dense_block_count": (0, 512),
    "shortconv.l_cache": (0, 1 << 10),
    "ssm.conv_kernel": (0, 1 << 10),
    "ssm.inner_size": (0, 1 << 20),
    "ssm.state_size": (0, 1 << 16),
    "ssm.time_step_rank": (0, 1 << 20),
    "ssm.group_count": (0, 1 << 16),
    "altup.num_inputs": (2, 16),  # Gemma 3n has 4
}
"""The least and the largest value accepted of every whole number in a header, by its key without the architecture."""
_FACTORS = "expert_weights_scale", "embedding_scale", "residual_scale", "logit_scale", "final_logit_softcapping"
FACTORS: Mapping[str, tuple[float, float]] = dict.fromkeys((*_FACTORS, "attention.temperature_scale"), (0.0, 1e6))
"""The least and the largest value accepted of every other number."""
_SSM = tuple(f"ssm.{size}" for size in ("conv_kernel", "inner_size", "state_size", "time_step_rank", "group_count"))
_RECURRENT = {"lfm2": ("shortconv.l_cache",), "lfm2moe": ("shortconv.l_cache",), "granitehybrid": _SSM}
"""Architectures with recurrent layers, and the sizes that these layers need."""


@dataclass(frozen=True)
class Hparams:
    """A model's sizes, under the engine's names."""

    architecture: str
    n_layer: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    n_embd_head_k: int
    n_embd_head_v: int
    n_rot: int
    n_swa: int
    is_swa: tuple[bool, ...]
    n_layer_kv_from_start: int | None
    n_expert: int
    n_expert_used: int
    n_expert_groups: int
    n_expert_groups_used: int
    expert_gating: int
    n_layer_dense_lead: int
    mla: tuple[int, int] | None
    """Head sizes of K and V where the cache holds a latent vector (MLA); ``None`` where it holds heads."""
    n_lora_kv: int
    is_recurrent: tuple[bool, ...]
    l_cache: int
    ssm_conv: int
    ssm_inner: int
    ssm_state: int
    ssm_heads: int
    ssm_groups: int
    n_altup: int
    n_embd_altup: int
    expert_weights_scale: float
    expert_weights_norm: bool
    embedding_scale: float
    residual_scale: float
    logit_scale: float
    final_softcap: float
    attention_temperature: float
    rotated: tuple[bool, ...]
    """For each layer, whether it has rotary embeddings."""

    def n_embd_k(self, layer: int) -> int:
        """Elements of a layer's keys per position."""
        return self.n_embd_head_k * self.n_head_kv[layer]

    def n_embd_v(self, layer: int) -> int:
        """Elements of a layer's values per position."""
        return self.n_embd_head_v * self.n_head_kv[layer]

    def has_kv(self, layer: int) -> bool:
        """Whether a layer has a KV cache of its own."""
        start = self.n_layer_kv_from_start
        return not self.is_recurrent[layer] and (start is None or layer < start)

    @property
    def n_embd_r(self) -> int:
        """Elements of a recurrent layer's convolution state per sequence (``llama_hparams::n_embd_r``)."""
        if self.l_cache:
            return self.n_embd * (self.l_cache - 1)
        return max(self.ssm_conv - 1, 0) * (self.ssm_inner + 2 * self.ssm_groups * self.ssm_state)

    @property
    def n_embd_s(self) -> int:
        """Elements of a recurrent layer's scan state per sequence (``llama_hparams::n_embd_s``)."""
        return self.ssm_state * self.ssm_inner


def _is_below(text: str, number: int) -> bool:
    return text.isdecimal() and len(text) <= len(str(number)) and int(text) < number


def read(header: Header) -> Hparams:
    """The sizes of a header. Raises ``InputError`` for a size that is missing or out of range."""
    arch, metadata = header.architecture, header.metadata

    def number(key: str, default: int | None = None) -> int:
        value = metadata.get(key, default)
        if value is None:
            raise InputError(f"the GGUF header has no {arch}.{key}; is it the file of a whole model?")
        return in_range(key, value)

    def in_range(key: str, value: Any) -> int:
        least, largest = RANGES[key]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
            raise InputError(
                f"the GGUF header's {arch}.{key} is {shown(value)}; it must be a whole number from {least} to "
                f"{largest:,}; is the file damaged?"
            )
        return value

    def factor(key: str) -> float:
        value, (least, largest) = metadata.get(key, 0.0), FACTORS[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= largest:
            raise InputError(
                f"the GGUF header's {arch}.{key} is {shown(value)}; it must be a number from {least:g} to {largest:g}; "
                "is the file damaged?"
            )
        return float(value)

    layers = number("block_count")
    for name in header.tensors:
        if name.startswith("blk.") and not _is_below(name.split(".")[1], layers):
            raise InputError(
                f"the GGUF header has {shown(name)}, which is none of the {layers} layers that {arch}.block_count "
                "says; is the file damaged?"
            )

    def per_layer(key: str, default: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
        value: Any = metadata.get(key, default)
        if isinstance(value, (list, tuple)):
            if len(value) < layers:
                raise InputError(f"the GGUF header's {arch}.{key} must have one size for each of the {layers} layers")
            return tuple(in_range(key, one) for one in value[:layers])
        return (number(key, value if isinstance(value, int) else None),) * layers

    embd = number("embedding_length")
    heads = per_layer("attention.head_count")
    kv_heads = per_layer("attention.head_count_kv", heads)
    first = heads[0] or max(heads)
    if first < 1:
        raise InputError(f"the GGUF header's {arch}.attention.head_count is 0 in every layer; is the file damaged?")
    head_k = number("attention.key_length", embd // first)
    head_v = number("attention.value_length", embd // first)
    period, swa = SWA_PERIOD.get(arch), 0
    is_swa = (False,) * layers
    if period is not None:
        swa = number("attention.sliding_window", 4096 if arch == "gemma2" else 0 if arch == "gemma3" else None)
        if swa:
            pattern = metadata.get("attention.sliding_window_pattern", period)
            if isinstance(pattern, (list, tuple)):
                if len(pattern) < layers or not all(isinstance(one, int) for one in pattern):
                    raise InputError(
                        f"the GGUF header's {arch}.attention.sliding_window_pattern must have true or false for each "
                        f"of the {layers} layers"
                    )
                is_swa = tuple(map(bool, pattern[:layers]))
            else:
                every = number("attention.sliding_window_pattern", period)
                is_swa = tuple(every == 0 or i % every < every - 1 for i in range(layers))
    step = NO_ROPE_STEP.get(arch)
    mla = (number("attention.key_length_mla", 0), number("attention.value_length_mla", 0))
    recurrent = tuple(arch in _RECURRENT and n == 0 for n in kv_heads)
    for key in _RECURRENT.get(arch, ()) if any(recurrent) else ():
        if not number(key):
            raise InputError(f"the GGUF header's {arch}.{key} is 0, which its recurrent layers need; is it damaged?")
    found = Hparams(
        architecture=arch,
        n_layer=layers,
        n_embd=embd,
        n_vocab=header.n_vocab,
        n_ctx_train=number("context_length"),
        n_head=heads,
        n_head_kv=kv_heads,
        n_embd_head_k=head_k,
        n_embd_head_v=head_v,
        n_rot=number("rope.dimension_count", head_k),
        n_swa=swa,
        is_swa=is_swa,
        n_layer_kv_from_start=SHARED_AFTER.get(arch),
        n_expert=number("expert_count", 0),
        n_expert_used=number("expert_used_count", 0),
        n_expert_groups=number("expert_group_count", 0),
        n_expert_groups_used=number("expert_group_used_count", 1),
        expert_gating=number("expert_gating_func", 0),
        n_layer_dense_lead=number("leading_dense_block_count", 0),
        mla=mla if all(mla) else None,
        n_lora_kv=number("attention.kv_lora_rank", 0),
        is_recurrent=recurrent,
        l_cache=number("shortconv.l_cache", 0),
        ssm_conv=number("ssm.conv_kernel", 0),
        ssm_inner=number("ssm.inner_size", 0),
        ssm_state=number("ssm.state_size", 0),
        ssm_heads=number("ssm.time_step_rank", 0),
        ssm_groups=number("ssm.group_count", 0),
        n_altup=number("altup.num_inputs", 4),
        n_embd_altup=number("embedding_length_per_layer_input", 0),
        expert_weights_scale=factor("expert_weights_scale"),
        expert_weights_norm=bool(metadata.get("expert_weights_norm", False)),
        embedding_scale=factor("embedding_scale"),
        residual_scale=factor("residual_scale"),
        logit_scale=factor("logit_scale"),
        final_softcap=factor("final_logit_softcapping"),
        attention_temperature=factor("attention.temperature_scale"),
        rotated=tuple(
            (arch not in _ROPE_SWITCH or bool(metadata.get("rope.scaling.finetuned", True)))
            and (step is None or (i + 1) % step != 0)
            for i in range(layers)
        ),
    )
    _check_together(found)
    return found


def _check_together(h: Hparams) -> None:
    """Refuse numbers that contradict each other, as the engine's assertions do."""
    for key, value, whole, of in (
        ("expert_used_count", h.n_expert_used, h.n_expert, "expert_count"),
        ("expert_group_used_count", h.n_expert_groups_used, h.n_expert_groups, "expert_group_count"),
        ("expert_group_count", h.n_expert_groups, h.n_expert // 2, "expert_count by two at least"),
    ):
        grouped = h.n_expert_groups > 1
        if (h.n_expert if key == "expert_used_count" else grouped) and not 1 <= value <= whole:
            raise InputError(
                f"the GGUF header's {h.architecture}.{key} is {value}; it must be from 1 to {of}, {whole}; "
                "is the file damaged?"
            )
    for key, value, parts, by in (
        ("expert_count", h.n_expert, h.n_expert_groups, "expert_group_count"),
        ("ssm.inner_size", h.ssm_inner, h.ssm_heads, "ssm.time_step_rank"),
        ("ssm.inner_size", h.ssm_inner, h.ssm_groups, "ssm.group_count"),
    ):
        if parts and value % parts:
            raise InputError(
                f"the GGUF header's {h.architecture}.{key} is {value}, no multiple of {by}, {parts}; is it damaged?"
            )
    heads = h.mla[0] if h.mla is not None else h.n_embd_head_k
    if h.n_rot > heads:
        raise InputError(
            f"the GGUF header's {h.architecture}.rope.dimension_count is {h.n_rot}, more than a head's {heads}; "
            "is it damaged?"
        )
