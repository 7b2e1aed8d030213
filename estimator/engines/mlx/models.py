"""mlx-lm's models (``mlx_lm/models/*.py``, release 0.32): each family by what differs from Llama."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from . import arrays as mx
from .arrays import Array
from .gradients import checkpoint
from .layers import (
    Embedding,
    Linear,
    Module,
    RMSNorm,
    RoPE,
    Setting,
    Switch,
    attention,
    compiled_alone,
    gelu_approx,
    swiglu,
)


@dataclass(frozen=True)
class Family:
    """What of a model's file differs from ``llama.py``."""

    qkv_bias: bool | None = False
    """``None``: the config's ``attention_bias``, also of the output's projection, and ``mlp_bias``."""
    head_norm: bool = False
    """Queries and keys are normed: before the transpose (Qwen 3) or after it (Gemma 3)."""
    fused: bool = False
    """One projection for queries, keys and values, and one for gate and up (Phi 3)."""
    gemma: bool = False
    """Norms around attention and MLP, GELU, and norms' weights plus one."""
    own_attention: bool = False
    """Attention is written out, with a soft cap (Gemma 2)."""
    head_dim: bool = True
    """The config's ``head_dim`` is read."""
    experts: str = ""
    """The config's key of the number of experts."""
    tied: bool = True
    """What the config's default of ``tie_word_embeddings`` is."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family(qkv_bias=None),
    "mistral": Family(qkv_bias=None),
    "qwen2": Family(qkv_bias=True, head_dim=False),
    "qwen3": Family(head_norm=True),
    "qwen3_moe": Family(head_norm=True, experts="num_experts"),
    "mixtral": Family(head_dim=False, experts="num_local_experts", tied=False),
    "phi3": Family(fused=True, head_dim=False, tied=False),
    "gemma2": Family(gemma=True, own_attention=True),
    "gemma3_text": Family(gemma=True, head_norm=True),
}


GEMMA_3 = {
    "hidden_size": 1152,
    "num_hidden_layers": 26,
    "intermediate_size": 6912,
    "num_attention_heads": 4,
    "head_dim": 256,
    "vocab_size": 262144,
    "num_key_value_heads": 1,
    "rope_theta": 1e6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
"""Defaults of ``gemma3_text.py``."""


def config_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json as mlx-lm reads it: of Gemma 3 with images the text model alone."""
    text = raw.get("text_config")
    if raw.get("model_type") == "gemma3" and isinstance(text, Mapping):
        return {**GEMMA_3, **text, "model_type": "gemma3_text"}
    return {**GEMMA_3, **raw} if raw.get("model_type") == "gemma3_text" else raw


class Attention(Module):
    """A layer's attention."""

    def __init__(self, config: Mapping[str, Any], family: Family, setting: Setting, index: int) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.heads = heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads") or heads
        own = config.get("head_dim") if family.head_dim else None
        self.head_dim = dim = own or hidden // heads
        self.family, self.setting = family, setting
        bias = config.get("attention_bias", False) if family.qkv_bias is None else family.qkv_bias
        if family.fused:
            rows = {"qkv_proj": heads + 2 * self.kv_heads}
        else:
            rows = {"q_proj": heads, "k_proj": self.kv_heads, "v_proj": self.kv_heads}
        self.linears = {name: Linear(count * dim, hidden, setting, bias) for name, count in rows.items()}
        self.linears["o_proj"] = Linear(hidden, heads * dim, setting, bias and family.qkv_bias is None)
        names = ("q_norm", "k_norm") if family.head_norm else ()
        self.norms = {name: RMSNorm(dim, setting, family.gemma) for name in names}
        self.scale = (config.get("query_pre_attn_scalar", dim) if family.gemma else dim) ** -0.5
        self.cap = config.get("attn_logit_softcapping", 50.0)
        self.rope = rope_of(config, dim, setting, is_sliding(config, index))

    def children(self) -> Iterator[Module]:
        yield from (*self.linears.values(), *self.norms.values(), self.rope)

    def __call__(self, x: Array, mask: Array | str | None, cache: Any) -> Array:
        batch, length, _ = x.shape
        if self.family.fused:
            at = self.heads * self.head_dim
            q, k, v = mx.split(self.linears["qkv_proj"](x), [at, at + self.kv_heads * self.head_dim])
        else:
            q, k, v = (self.linears[name](x) for name in ("q_proj", "k_proj", "v_proj"))
        q = self._heads(q, self.heads, batch, length, "q_norm")
        k = self._heads(k, self.kv_heads, batch, length, "k_norm")
        v = self._heads(v, self.kv_heads, batch, length, "")
        offset = 0 if cache is None else cache.offset
        q, k = self.rope(q, offset), self.rope(k, offset)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        if self.family.own_attention and hasattr(cache, "bits"):
            raise InputError("kv_bits does not go with this model, whose attention in mlx-lm cannot read such a cache")
        if self.family.own_attention:
            out = self._own(q, k, v, mask)
        elif hasattr(cache, "bits"):
            out = cache.attention(q, k, v, self.scale, mask)
        else:
            out = attention(q, k, v, self.scale, mask, self.setting)
        out = mx.reshape(out.transpose(0, 2, 1, 3), (batch, length, -1))
        return self.linears["o_proj"](out)

    def _heads(self, x: Array, heads: int, batch: int, length: int, name: str) -> Array:
        x = mx.reshape(x, (batch, length, heads, -1))
        norm = self.norms.get(name)
        if norm is not None and not self.family.gemma:
            x = norm(x)
        x = x.transpose(0, 2, 1, 3)
        return norm(x) if norm is not None and self.family.gemma else x

    def _own(self, q: Array, k: Array, v: Array, mask: Any) -> Array:
        """Gemma 2's, with a soft cap."""
        batch, _, length, _ = q.shape
        q = q * self.scale
        repeats = self.heads // self.kv_heads
        if repeats > 1:
            q = mx.reshape(q, (batch, self.kv_heads, repeats, length, self.head_dim))
            k, v = mx.expand_dims(k, 2), mx.expand_dims(v, 2)
        scores = q @ mx.swapaxes(k, -1, -2)
        scores = mx.unary("Tanh", scores / self.cap) * self.cap
        if mask is not None:
            scores = mx.where(mask, scores, mx.scalar(-1e30, scores.dtype))
        out = mx.softmax(scores) @ v
        return mx.reshape(out, (batch, self.heads, length, self.head_dim)) if repeats > 1 else out


def is_sliding(config: Mapping[str, Any], index: int) -> bool:
    """Whether mlx-lm lets a layer attend to a window. In its Qwen 2 and 3, Phi 3 and Gemma 2 none does."""
    if config["model_type"] == "gemma3_text":
        return bool((index + 1) % config["sliding_window_pattern"])
    kinds = config.get("layer_types")
    if kinds is None or config["model_type"] not in ("llama", "mistral"):
        return False
    return str(kinds[index]) == "sliding_attention"


def rope_of(config: Mapping[str, Any], dim: int, setting: Setting, sliding: bool) -> RoPE:
    """A layer's rotary embedding (``rope_utils.py: initialize_rope``)."""
    kind = config["model_type"]
    local = sliding and kind == "gemma3_text"
    dims = int(dim * config.get("partial_rotary_factor", 1.0)) if kind == "phi3" else dim
    base = float((config.get("rope_local_base_freq") if local else config.get("rope_theta")) or 1e4)
    scaling = (
        {}
        if local or kind in ("gemma2", "mixtral")
        else config.get("rope_scaling") or config.get("rope_parameters") or {}
    )
    name = scaling.get("type") or scaling.get("rope_type") or "default"
    if name in ("default", "linear", "mrope", "dynamic"):
        return RoPE(dims, setting, base)
    if name not in ("llama3", "longrope", "su", "yarn"):
        raise InputError(
            f"rope_scaling of type {name} has no rule with runtime: mlx; known: default, linear, dynamic, llama3, "
            "yarn, longrope"
        )
    rescaled = name in ("longrope", "su") or (name == "yarn" and scaling.get("factor", 1) > 1)
    return RoPE(dims, setting, base, table=True, rescaled=rescaled)


class MLP(Module):
    """A gated MLP."""

    def __init__(self, config: Mapping[str, Any], family: Family, setting: Setting) -> None:
        super().__init__()
        hidden, width = config["hidden_size"], config["intermediate_size"]
        bias = family.qkv_bias is None and config.get("mlp_bias", False)
        self.gemma, self.setting = family.gemma, setting
        self.linears: dict[str, Linear]
        if family.fused:
            self.linears = {
                "gate_up_proj": Linear(2 * width, hidden, setting),
                "down_proj": Linear(hidden, width, setting),
            }
        else:
            self.linears = {
                "gate_proj": Linear(width, hidden, setting, bias),
                "down_proj": Linear(hidden, width, setting, bias),
                "up_proj": Linear(width, hidden, setting, bias),
            }

    def children(self) -> Iterator[Module]:
        yield from self.linears.values()

    def __call__(self, x: Array) -> Array:
        if "gate_up_proj" in self.linears:
            both = self.linears["gate_up_proj"](x)
            gate, up = mx.split(both, [both.shape[-1] // 2])
        else:
            gate, up = self.linears["gate_proj"](x), self.linears["up_proj"](x)
        if self.gemma:
            inner = compiled_alone(gelu_approx, self.setting, gate) * up
        else:
            inner = compiled_alone(swiglu, self.setting, gate, up)
        return self.linears["down_proj"](inner)


class Experts(Module):
    """A router, and an MLP for each expert (``switch_layers.py: SwitchGLU``)."""

    def __init__(self, config: Mapping[str, Any], family: Family, setting: Setting) -> None:
        super().__init__()
        hidden, count = config["hidden_size"], config[family.experts]
        self.setting = setting
        self.mixtral = family.experts == "num_local_experts"
        width = config["intermediate_size" if self.mixtral else "moe_intermediate_size"]
        self.top, self.normed = config["num_experts_per_tok"], config.get("norm_topk_prob", False)
        # ``qwen3_moe.py: quant_predicate``; Mixtral has none.
        self.gate = Linear(count, hidden, setting, bits=setting.bits and (setting.bits if self.mixtral else 8))
        self.switches = {
            "gate_proj": Switch(count, width, hidden, setting),
            "up_proj": Switch(count, width, hidden, setting),
            "down_proj": Switch(count, hidden, width, setting),
        }

    def children(self) -> Iterator[Module]:
        yield from (self.gate, *self.switches.values())

    @property
    def linears(self) -> dict[str, Any]:
        return {"gate": self.gate, **self.switches}

    def __call__(self, x: Array) -> Array:
        gates = self.gate(x)
        count = gates.shape[-1]
        if self.mixtral:
            order = Array(gates.shape, "uint32", mx.Primitive("ArgPartition", (self.top - 1,)), (-gates,))
            index = mx.stop_gradient(mx.slice_axis(order, -1, 0, self.top))
            scores = mx.softmax(mx.take_along_axis(gates, index))
        else:
            gates = mx.softmax(gates)
            order = Array(gates.shape, "uint32", mx.Primitive("ArgPartition", (count - self.top,)), (gates,))
            index = mx.stop_gradient(mx.slice_axis(order, -1, count - self.top, count))
            scores = mx.take_along_axis(gates, index)
            if self.normed:
                scores = scores / mx.sum(scores, -1, keepdims=True)
        y = self._switch(x, index)
        found = mx.sum(y * mx.expand_dims(scores, -1), -2)
        return found if self.mixtral else found.astype(y.dtype)

    def _switch(self, x: Array, index: Array) -> Array:
        x = mx.expand_dims(x, (-2, -3))
        index = mx.stop_gradient(index)
        shape, in_order, back = index.shape, index.size >= 64, None
        if in_order:
            flat = mx.flatten(index)
            order = Array(flat.shape, "uint32", mx.Primitive("ArgSort"), (flat,))
            back = Array(flat.shape, "uint32", mx.Primitive("ArgSort"), (order,))
            row = mx.divide(order, mx.scalar(shape[-1], "uint32"))
            x, index = mx.flatten(x, 0, -3)[row], flat[order]
        up = self.switches["up_proj"](x, index, in_order)
        gate = self.switches["gate_proj"](x, index, in_order)
        x = self.switches["down_proj"](compiled_alone(swiglu, self.setting, gate, up), index, in_order)
        if back is not None:
            x = mx.unflatten(x[back], 0, shape)
        return mx.squeeze(x, (-2,))


class Block(Module):
    """A layer."""

    def __init__(self, config: Mapping[str, Any], family: Family, setting: Setting, index: int) -> None:
        super().__init__()
        self.family, self.setting, self.sliding = family, setting, is_sliding(config, index)
        self.attention = Attention(config, family, setting, index)
        sparse = bool(family.experts) and (
            index not in config.get("mlp_only_layers", ()) and (index + 1) % config.get("decoder_sparse_step", 1) == 0
        )
        self.mlp: MLP | Experts
        self.mlp = Experts(config, family, setting) if sparse else MLP(config, family, setting)
        names = ["input_layernorm", "post_attention_layernorm"]
        if family.gemma:
            names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        self.norms = {name: RMSNorm(config["hidden_size"], setting, family.gemma) for name in names}

    def children(self) -> Iterator[Module]:
        yield from (self.attention, self.mlp, *self.norms.values())

    @property
    def linears(self) -> dict[str, Any]:
        return {**self.attention.linears, **self.mlp.linears}

    def __call__(self, x: Array, mask: Any, cache: Any = None) -> Array:
        n = self.norms
        r = self.attention(n["input_layernorm"](x), mask, cache)
        if self.family.gemma:
            h = self._residual(x, n["post_attention_layernorm"](r))
            return self._residual(h, n["post_feedforward_layernorm"](self.mlp(n["pre_feedforward_layernorm"](h))))
        h = x + r
        return h + self.mlp(n["post_attention_layernorm"](h))

    def _residual(self, x: Array, y: Array) -> Array:
        return x + y if self.family.own_attention else compiled_alone(clip_residual, self.setting, x, y)


def clip_residual(x: Array, y: Array) -> Array:
    """``gemma3_text.py: clip_residual``."""
    if x.dtype != "float16":
        return x + y
    whole = x.astype("float32") + y.astype("float32")
    low = mx.binary("Maximum", whole, mx.scalar(-65504, "float32"))
    return mx.binary("Minimum", low, mx.scalar(65504, "float32")).astype("float16")


class Model(Module):
    """A causal model of mlx-lm."""

    def __init__(self, config: Mapping[str, Any], setting: Setting) -> None:
        super().__init__()
        family = FAMILIES[config["model_type"]]
        self.config, self.family, self.setting = config, family, setting
        hidden, words = config["hidden_size"], config["vocab_size"]
        self.embed = Embedding(words, hidden, setting)
        self.layers = [Block(config, family, setting, i) for i in range(config["num_hidden_layers"])]
        self.norm = RMSNorm(hidden, setting, family.gemma)
        tied = family.gemma or config.get("tie_word_embeddings", family.tied)
        self.head = None if tied else Linear(words, hidden, setting)

    def children(self) -> Iterator[Module]:
        yield from (self.embed, *self.layers, self.norm)
        if self.head is not None:
            yield self.head

    def __call__(self, inputs: Array, caches: Any = None) -> Array:
        h = self.embed(inputs)
        if self.family.own_attention:
            h = h * self.config["hidden_size"] ** 0.5
        elif self.family.gemma:
            h = h * Array((), "bfloat16", value=self.config["hidden_size"] ** 0.5).astype(h.dtype)
        masks = self._masks(h, caches)
        for i, layer in enumerate(self.layers):
            mask = masks[layer.sliding]
            if self.setting.checkpointing:
                h = _checkpointed(layer, h, mask)
            else:
                h = layer(h, mask, None if caches is None else caches[i])
        h = self.norm(h)
        out = self.embed.as_linear(h) if self.head is None else self.head(h)
        if self.family.own_attention:
            cap = self.config.get("final_logit_softcapping", 30.0)
            out = mx.unary("Tanh", out / cap) * cap
        return out

    def _masks(self, h: Array, caches: Any) -> dict[bool, Any]:
        """By whether a layer has a window (``base.py: create_attention_mask``)."""
        length, window, written = h.shape[1], self.config.get("sliding_window"), self.family.own_attention
        if caches is not None:
            kinds = {layer.sliding: caches[i] for i, layer in reversed(list(enumerate(self.layers)))}
            return {
                sliding: cache.mask(length, window if sliding else None, written) for sliding, cache in kinds.items()
            }
        full = None if length == 1 else causal_mask(length) if written else "causal"
        windowed = window is not None and length > window and any(layer.sliding for layer in self.layers)
        return {False: full, True: causal_mask(length, window=window) if windowed else full}


def _checkpointed(layer: Block, h: Array, mask: Any) -> Array:
    """``tuner/trainer.py: grad_checkpoint``, of every layer."""
    slots = [(module, name) for module in layer.modules() for name in module.arrays if name in module.trained]
    masks = [mask] if isinstance(mask, Array) else []
    own = [module[name] for module, name in slots]

    def run(inputs: list[Array]) -> list[Array]:
        for (module, name), array in zip(slots, inputs, strict=False):
            module.arrays[name] = array
        x = inputs[len(slots)]
        found = layer(x, inputs[-1] if masks else mask)
        for (module, name), array in zip(slots, own, strict=True):
            module.arrays[name] = array
        return [found]

    return checkpoint(run, [*own, h, *masks])[0]


def causal_mask(length: int, offset: int = 0, window: int | None = None) -> Array:
    """``base.py: create_causal_mask``."""
    columns = mx.arange(0, offset + length)
    rows = mx.arange(offset, offset + length) if offset else columns
    rows, columns = mx.expand_dims(rows, -1), mx.expand_dims(columns, 0)
    mask = mx.binary("GreaterEqual", rows, columns, "bool")
    if window is not None:
        near = mx.binary("Less", rows, columns + mx.scalar(window, "int32"), "bool")
        mask = mx.binary("LogicalAnd", mask, near, "bool")
    return mask
