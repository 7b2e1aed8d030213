"""The numbers of a model that its graph and its caches are built from, as the engine reads them from a header.

Sources: ``load_hparams`` in ``src/llama-model.cpp``, ``load_arch_hparams`` in ``src/models/*.cpp``,
``src/llama-hparams.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError, shown
from .header import Header

SWA_PERIOD = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2}
"""Every how many layers one attends to the whole context, where the header does not say (``load_swa_pattern``)."""
NO_ROPE_STEP = {"smollm3": 4}
"""Every how many layers one has no rotary embedding (``n_no_rope_layer_step``)."""
SHARED_AFTER = {"gemma3n": 20}
"""Layers from here on have no cache of their own and read an earlier one's (``n_layer_kv_from_start``)."""
_ROPE_SWITCH = ("granite", "granitemoe", "granitehybrid")
"""Architectures that have rotary embeddings only if the header says so (``rope.scaling.finetuned``)."""
_LARGEST = 1 << 31


@dataclass(frozen=True)
class Hparams:
    """Sizes with the engine's names."""

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
    n_layer_dense_lead: int
    mla: tuple[int, int] | None
    """Head sizes of K and V before the latent cache is absorbed; ``None`` where heads are cached themselves."""
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
    """Per layer: whether it has rotary embeddings."""

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


def read(header: Header) -> Hparams:
    """The sizes of a header. Raises ``InputError`` where one is missing or makes no sense."""
    arch, metadata = header.architecture, header.metadata

    def number(key: str, default: int | None = None) -> int:
        value = metadata.get(key, default)
        if value is None:
            raise InputError(f"the GGUF header has no {arch}.{key}; is it the file of a whole model?")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
            raise InputError(f"the GGUF header's {arch}.{key} is {shown(value)}, which is no size")
        return value

    def factor(key: str) -> float:
        value = metadata.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"the GGUF header's {arch}.{key} is {shown(value)}, which is no number")
        return float(value)

    layers = number("block_count")
    if not 1 <= layers <= 512:
        raise InputError(f"the GGUF header's {arch}.block_count is {layers}; the engine takes 1 to 512")

    def per_layer(key: str, default: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
        value: Any = metadata.get(key, default)
        if isinstance(value, (list, tuple)):
            if len(value) < layers or not all(isinstance(one, int) and 0 <= one < _LARGEST for one in value):
                raise InputError(f"the GGUF header's {arch}.{key} must have one size for each of the {layers} layers")
            return tuple(value[:layers])
        return (number(key, value if isinstance(value, int) else None),) * layers

    embd = number("embedding_length")
    heads = per_layer("attention.head_count")
    kv_heads = per_layer("attention.head_count_kv", heads)
    first = heads[0] or max(heads)
    trained = number("context_length")
    if trained < 1:
        raise InputError(f"the GGUF header's {arch}.context_length is {trained}, which is no length")
    if embd < 1 or first < 1:
        raise InputError(f"the GGUF header's {arch} has no {'attention heads' if embd else 'embedding'}")
    head_k = number("attention.key_length", embd // first)
    head_v = number("attention.value_length", embd // first)
    period, swa = SWA_PERIOD.get(arch), 0
    is_swa = (False,) * layers
    if period is not None:
        swa = number("attention.sliding_window", 4096 if arch == "gemma2" else 0 if arch == "gemma3" else None)
        if swa:
            pattern = metadata.get("attention.sliding_window_pattern", period)
            if isinstance(pattern, (list, tuple)):
                is_swa = tuple(bool(one) for one in per_layer("attention.sliding_window_pattern"))
            else:
                every = number("attention.sliding_window_pattern", period)
                is_swa = tuple(every == 0 or i % every < every - 1 for i in range(layers))
    step = NO_ROPE_STEP.get(arch)
    mla = (number("attention.key_length_mla", 0), number("attention.value_length_mla", 0))
    recurrent = tuple(arch in ("lfm2", "lfm2moe", "granitehybrid") and n == 0 for n in kv_heads)
    return Hparams(
        architecture=arch,
        n_layer=layers,
        n_embd=embd,
        n_vocab=header.n_vocab,
        n_ctx_train=trained,
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
