"""From a config.json to the header of the GGUF file that llama.cpp's converter and ``llama-quantize`` would write.

Names and shapes are those of ``gguf-py/gguf/constants.py`` and ``conversion/*.py``; shapes have the innermost
dimension first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError, shown
from .config_keys import ConfigKeys
from .header import Header, TensorInfo
from .recipes import types

Shapes = dict[str, tuple[int, ...]]


@dataclass
class _File:
    """A header under construction."""

    architecture: str
    keys: ConfigKeys
    metadata: dict[str, Any] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=dict)

    @property
    def embd(self) -> int:
        return self.keys.number("hidden_size")

    @property
    def layers(self) -> int:
        return self.keys.number("num_hidden_layers")

    def layer(self, i: int, **shapes: tuple[int, ...]) -> None:
        """Add tensors of a layer: ``attn_q=(in, out)`` is ``blk.i.attn_q.weight``, ``attn_q_bias`` is its bias."""
        for name, shape in shapes.items():
            stem = f"blk.{i}.{name}"
            self.shapes[f"{stem[:-5]}.bias" if name.endswith("_bias") else f"{stem}.weight"] = shape

    def frame(self) -> None:
        """Add embedding, last norm and output, and the sizes that every architecture has."""
        k, vocab = self.keys, self.keys.number("vocab_size")
        self.shapes["token_embd.weight"] = (self.embd, vocab)
        self.shapes["output_norm.weight"] = (self.embd,)
        if not k.flag("tie_word_embeddings", self.architecture in _TIED):
            self.shapes["output.weight"] = (self.embd, vocab)
        heads = k.number("num_attention_heads")
        self.metadata |= {
            "block_count": self.layers,
            "context_length": k.number("max_position_embeddings", 1 << 20),
            "embedding_length": self.embd,
            "attention.head_count": heads,
            "attention.head_count_kv": k.number("num_key_value_heads", heads),
        }

    def heads(self, default: int | None = None) -> tuple[int, int, int]:
        """(query heads, key/value heads, head size); adds the head size to the metadata."""
        k, heads = self.keys, self.keys.number("num_attention_heads")
        size = k.number("head_dim", default or max(self.embd // heads, 1))
        kv = k.number("num_key_value_heads", heads)
        if heads % kv:
            raise InputError(f"{k.where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}")
        rotated = int(k.factor("partial_rotary_factor", 1.0) * size)
        self.metadata |= {"attention.key_length": size, "attention.value_length": size, "rope.dimension_count": rotated}
        return heads, kv, size

    def attention(self, i: int, heads: int, kv: int, size: int, *, bias: bool = False, out_bias: bool = False) -> None:
        """Add the norm and the projections of a layer's attention."""
        e = self.embd
        self.layer(i, attn_norm=(e,), attn_output=(heads * size, e))
        self.layer(i, attn_q=(e, heads * size), attn_k=(e, kv * size), attn_v=(e, kv * size))
        if bias:
            self.layer(i, attn_q_bias=(heads * size,), attn_k_bias=(kv * size,), attn_v_bias=(kv * size,))
        if out_bias:
            self.layer(i, attn_output_bias=(e,))

    def qk_norm(self, i: int, size: int) -> None:
        """Add the norms of queries and keys."""
        self.layer(i, attn_q_norm=(size,), attn_k_norm=(size,))

    def ffn(self, i: int, width: int, suffix: str = "") -> None:
        """Add the gate, up and down projections of an MLP."""
        shapes = {"gate": (self.embd, width), "up": (self.embd, width), "down": (width, self.embd)}
        self.layer(i, **{f"ffn_{part}{suffix}": shape for part, shape in shapes.items()})

    def experts(self, i: int, count: int, width: int) -> None:
        """Add a layer's router and experts."""
        e = self.embd
        self.layer(i, ffn_gate_inp=(e, count), ffn_down_exps=(width, e, count))
        self.layer(i, ffn_gate_exps=(e, width, count), ffn_up_exps=(e, width, count))

    def expert_counts(self, count: int, used: int) -> None:
        """Add the number of experts, and of those used for a token."""
        if used > count:
            raise InputError(f"{self.keys.where}: {used} experts per token of {count}; check the config")
        self.metadata |= {"expert_count": count, "expert_used_count": used}


_TIED = ("gemma2", "gemma3", "gemma3n", "lfm2", "lfm2moe", "smollm3")
"""Architectures that tie output and embedding unless the config says otherwise."""


def _rope_type(file: _File) -> Any:
    found = file.keys.raw.get("rope_parameters") or file.keys.raw.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise InputError(f"{file.keys.where}: rope_parameters is {shown(found)}; it must be a mapping")
    return found.get("rope_type") or found.get("type")


def _llama(file: _File) -> None:
    k = file.keys
    family = k.raw["model_type"]
    file.frame()
    heads, kv, size = file.heads(128 if family in ("qwen3", "qwen3_moe") else None)
    bias = k.flag("attention_bias", False) if family != "qwen2" else True
    width = k.number("intermediate_size")
    file.metadata["feed_forward_length"] = width
    count = used = 0
    if family == "mixtral":
        count, used = k.number("num_local_experts", 8), k.number("num_experts_per_tok", 2)
    elif family == "qwen3_moe":
        count, used = k.number("num_experts", 128), k.number("num_experts_per_tok", 8)
        width = k.number("moe_intermediate_size", 768)
        file.metadata["expert_feed_forward_length"] = width
    if count:
        file.expert_counts(count, used)
    if _rope_type(file) == "llama3":
        file.shapes["rope_freqs.weight"] = (size // 2,)
    for i in range(file.layers):
        file.attention(i, heads, kv, size, bias=bias, out_bias=bias and family == "llama")
        file.layer(i, ffn_norm=(file.embd,))
        if family in ("qwen3", "qwen3_moe"):
            file.qk_norm(i, size)
        if count:
            file.experts(i, count, width)
        else:
            file.ffn(i, width)
            if k.flag("mlp_bias", False):
                file.layer(i, ffn_gate_bias=(width,), ffn_up_bias=(width,), ffn_down_bias=(file.embd,))
    if family == "granite":
        _scales(file)


def _scales(file: _File) -> None:
    k = file.keys
    file.metadata |= {
        "embedding_scale": k.factor("embedding_multiplier"),
        "residual_scale": k.factor("residual_multiplier"),
        "logit_scale": k.factor("logits_scaling"),
    }


def _gemma(file: _File) -> None:
    k, e = file.keys, file.embd
    file.frame()
    heads, kv, size = file.heads(256)
    is_gemma3 = file.architecture == "gemma3"
    file.metadata["attention.sliding_window"] = k.number("sliding_window", 4096)
    file.metadata["final_logit_softcapping"] = k.factor("final_logit_softcapping", 0.0 if is_gemma3 else 30.0)
    width = file.metadata["feed_forward_length"] = k.number("intermediate_size")
    for i in range(file.layers):
        file.attention(i, heads, kv, size)
        file.layer(i, post_attention_norm=(e,), ffn_norm=(e,), post_ffw_norm=(e,))
        if is_gemma3:
            file.qk_norm(i, size)
        file.ffn(i, width)


def _gemma3n(file: _File) -> None:
    k, e, layers = file.keys, file.embd, file.layers
    file.frame()
    heads, kv, size = file.heads(256)
    altup, rank = k.number("altup_num_inputs", 4), k.number("laurel_rank", 64)
    each = k.number("hidden_size_per_layer_input", 256)
    if layers - k.number("num_kv_shared_layers", 15, least=0) != 20:
        raise InputError(
            f"{k.where}: num_kv_shared_layers leaves other than 20 layers with a cache, which the engine assumes"
        )
    kinds = k.kinds("layer_types", layers) or [
        "full_attention" if (i + 1) % 5 == 0 else "sliding_attention" for i in range(layers)
    ]
    vocab = k.number("vocab_size")
    file.metadata |= {
        "attention.sliding_window": k.number("sliding_window", 512),
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in kinds],
        "altup.num_inputs": altup,
        "altup.active_idx": 0,
        "embedding_length_per_layer_input": each,
        "final_logit_softcapping": k.factor("final_logit_softcapping", 30.0),
    }
    file.shapes |= {
        "per_layer_token_embd.weight": (each * layers, vocab),
        "per_layer_model_proj.weight": (e, each * layers),
        "per_layer_proj_norm.weight": (each,),
        "altup_proj.weight": (e, e, altup - 1),
        "altup_unembd_proj.weight": (e, e, altup - 1),
    }
    widths = k.raw.get("intermediate_size")
    width = widths[0] if isinstance(widths, list) and widths else k.number("intermediate_size")
    file.metadata["feed_forward_length"] = width
    for i in range(layers):
        file.attention(i, heads, kv, size)
        file.qk_norm(i, size)
        file.ffn(i, width)
        file.layer(i, post_attention_norm=(e,), ffn_norm=(e,), post_ffw_norm=(e,))
        file.layer(i, inp_gate=(e, each), proj=(each, e), post_norm=(e,))
        file.layer(i, altup_correct_coef=(altup, altup), altup_correct_scale=(e,))
        file.layer(i, altup_predict_coef=(altup, altup * altup), altup_router=(e, altup), altup_router_norm=(e,))
        file.layer(i, laurel_l=(e, rank), laurel_r=(rank, e), laurel_post_norm=(e,))


def _phi3(file: _File) -> None:
    k, e = file.keys, file.embd
    file.frame()
    heads, kv, size = file.heads()
    width = file.metadata["feed_forward_length"] = k.number("intermediate_size")
    if _rope_type(file) in ("longrope", "su", "yarn"):
        half = file.metadata["rope.dimension_count"] // 2
        file.shapes |= {"rope_factors_long.weight": (half,), "rope_factors_short.weight": (half,)}
    for i in range(file.layers):
        file.layer(i, attn_norm=(e,), attn_qkv=(e, (heads + 2 * kv) * size), attn_output=(heads * size, e))
        file.layer(i, ffn_norm=(e,), ffn_up=(e, 2 * width), ffn_down=(width, e))


def _gpt_oss(file: _File) -> None:
    k, e = file.keys, file.embd
    file.frame()
    heads, kv, size = file.heads(64)
    count, used = k.number("num_local_experts", 128), k.number("num_experts_per_tok", 4)
    file.expert_counts(count, used)
    width = k.number("intermediate_size", 2880)
    file.metadata |= {"attention.sliding_window": k.number("sliding_window", 128), "expert_feed_forward_length": width}
    for i in range(file.layers):
        file.attention(i, heads, kv, size, bias=True, out_bias=True)
        file.layer(i, attn_sinks=(heads,), post_attention_norm=(e,), ffn_gate_inp_bias=(count,))
        file.experts(i, count, width)
        file.layer(i, ffn_gate_exps_bias=(width, count), ffn_up_exps_bias=(width, count), ffn_down_exps_bias=(e, count))


def _deepseek2(file: _File) -> None:
    k, e = file.keys, file.embd
    file.frame()
    heads = k.number("num_attention_heads")
    rank, rope = k.number("kv_lora_rank", 512), k.number("qk_rope_head_dim", 64)
    plain, v = k.number("qk_nope_head_dim", 128), k.number("v_head_dim", 128)
    q_rank = k.raw.get("q_lora_rank") and k.number("q_lora_rank")
    count, used = k.number("n_routed_experts"), k.number("num_experts_per_tok")
    width, shared = k.number("moe_intermediate_size"), k.number("n_shared_experts", 1)
    dense = k.number("first_k_dense_replace", 0, least=0)
    is_v3 = k.raw["model_type"] == "deepseek_v3"
    file.expert_counts(count, used)
    file.metadata |= {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": plain + rope,
        "attention.value_length_mla": v,
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": rope,
        "leading_dense_block_count": dense,
        "feed_forward_length": k.number("intermediate_size", width),
        "expert_feed_forward_length": width,
        "expert_shared_count": shared,
        "expert_weights_scale": k.factor("routed_scaling_factor", 1.0),
        "expert_weights_norm": k.flag("norm_topk_prob", is_v3),
        "expert_gating_func": 2 if is_v3 else 1,
        "expert_group_count": k.number("n_group", 1),
        "expert_group_used_count": k.number("topk_group", 1),
    }
    if q_rank:
        file.metadata["attention.q_lora_rank"] = q_rank
    for i in range(file.layers):
        if q_rank:
            file.layer(i, attn_q_a=(e, q_rank), attn_q_a_norm=(q_rank,), attn_q_b=(q_rank, heads * (plain + rope)))
        else:
            file.layer(i, attn_q=(e, heads * (plain + rope)))
        file.layer(i, attn_norm=(e,), attn_output=(heads * v, e), ffn_norm=(e,))
        file.layer(i, attn_kv_a_mqa=(e, rank + rope), attn_kv_a_norm=(rank,))
        file.layer(i, attn_k_b=(plain, rank, heads), attn_v_b=(rank, v, heads))
        if i < dense:
            file.ffn(i, k.number("intermediate_size"))
            continue
        file.experts(i, count, width)
        file.ffn(i, width * shared, "_shexp")
        if is_v3:
            file.layer(i, exp_probs_b_bias=(count,))


def _lfm2(file: _File) -> None:
    k, e, layers = file.keys, file.embd, file.layers
    file.frame()
    heads, kv, size = file.heads()
    kinds = k.kinds("layer_types", layers)
    if kinds is None:
        full = k.raw.get("full_attn_idxs")
        if not isinstance(full, list):
            raise InputError(f"{k.where}: layer_types is missing; add it to the config")
        kinds = ["full_attention" if i in full else "conv" for i in range(layers)]
    kernel = k.number("conv_L_cache", 3)
    file.metadata |= {
        "attention.head_count_kv": [kv if kind == "full_attention" else 0 for kind in kinds],
        "shortconv.l_cache": kernel,
    }
    file.shapes["token_embd_norm.weight"] = file.shapes.pop("output_norm.weight")
    moe = file.architecture == "lfm2moe"
    width, count, dense, expert = k.number("intermediate_size", 1), 0, layers, 0
    if moe:
        count, used = k.number("num_experts"), k.number("num_experts_per_tok")
        dense, expert = k.number("num_dense_layers", 0, least=0), k.number("moe_intermediate_size")
        file.expert_counts(count, used)
        file.metadata |= {
            "leading_dense_block_count": dense,
            "expert_gating_func": 2,
            "expert_feed_forward_length": expert,
        }
    else:
        width = k.number("block_ff_dim", k.number("intermediate_size", e))
        if k.flag("block_auto_adjust_ff_dim", False):
            width = int(k.factor("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
            multiple = k.number("block_multiple_of", 256)
            width = -(-width // multiple) * multiple
    file.metadata["feed_forward_length"] = width
    for i, kind in enumerate(kinds):
        if kind == "full_attention":
            file.attention(i, heads, kv, size)
            file.qk_norm(i, size)
        else:
            file.layer(i, attn_norm=(e,))
            file.shapes |= {
                f"blk.{i}.shortconv.conv.weight": (kernel, e),
                f"blk.{i}.shortconv.in_proj.weight": (e, 3 * e),
                f"blk.{i}.shortconv.out_proj.weight": (e, e),
            }
        file.layer(i, ffn_norm=(e,))
        if i < dense:
            file.ffn(i, width)
        else:
            file.experts(i, count, expert)
            file.layer(i, exp_probs_b_bias=(count,))


def _granite_hybrid(file: _File) -> None:
    k, e, layers = file.keys, file.embd, file.layers
    file.frame()
    heads, kv, size = file.heads()
    kinds = k.kinds("layer_types", layers) or k.kinds("layers_block_type", layers)
    if kinds is None:
        raise InputError(f"{k.where}: layer_types is missing; add it to the config")
    mamba, head = k.number("mamba_n_heads", 128), k.number("mamba_d_head", 64)
    state, groups, kernel = k.number("mamba_d_state", 256), k.number("mamba_n_groups", 1), k.number("mamba_d_conv", 4)
    inner, width = mamba * head, k.number("shared_intermediate_size", 1024)
    count = k.number("num_local_experts", 0, least=0)
    file.metadata |= {
        "attention.head_count_kv": [kv if kind == "attention" else 0 for kind in kinds],
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": mamba,
        "ssm.group_count": groups,
        "rope.scaling.finetuned": k.raw.get("position_embedding_type") == "rope",
        "feed_forward_length": k.number("intermediate_size") if count else width,
    }
    _scales(file)
    if count:
        file.expert_counts(count, k.number("num_experts_per_tok", 10))
        file.metadata["expert_shared_feed_forward_length"] = width
    channels = inner + 2 * groups * state
    for i, kind in enumerate(kinds):
        if kind == "attention":
            file.attention(i, heads, kv, size, bias=k.flag("attention_bias", False))
        else:
            file.layer(i, attn_norm=(e,), ssm_in=(e, inner + channels + mamba), ssm_out=(inner, e))
            file.layer(i, ssm_conv1d=(kernel, channels), ssm_conv1d_bias=(channels,))
            file.layer(i, ssm_dt_bias=(mamba,), ssm_norm=(inner // groups, groups))
            file.shapes |= {f"blk.{i}.ssm_a": (1, mamba), f"blk.{i}.ssm_d": (1, mamba)}
        file.layer(i, ffn_norm=(e,))
        if count:
            file.experts(i, count, k.number("intermediate_size"))
            file.ffn(i, width, "_shexp")
        else:
            file.ffn(i, width)


FAMILIES: Mapping[str, tuple[str, Callable[[_File], None]]] = {
    "llama": ("llama", _llama),
    "mistral": ("llama", _llama),
    "mixtral": ("llama", _llama),
    "qwen2": ("qwen2", _llama),
    "qwen3": ("qwen3", _llama),
    "qwen3_moe": ("qwen3moe", _llama),
    "smollm3": ("smollm3", _llama),
    "granite": ("granite", _llama),
    "gemma2": ("gemma2", _gemma),
    "gemma3": ("gemma3", _gemma),
    "gemma3_text": ("gemma3", _gemma),
    "gemma3n": ("gemma3n", _gemma3n),
    "gemma3n_text": ("gemma3n", _gemma3n),
    "phi3": ("phi3", _phi3),
    "gpt_oss": ("gpt-oss", _gpt_oss),
    "deepseek_v2": ("deepseek2", _deepseek2),
    "deepseek_v3": ("deepseek2", _deepseek2),
    "lfm2": ("lfm2", _lfm2),
    "lfm2_moe": ("lfm2moe", _lfm2),
    "granitemoehybrid": ("granitehybrid", _granite_hybrid),
}
"""By ``model_type``: the file's architecture, and the function that adds its metadata and tensors."""


def header(raw: Mapping[str, Any], where: str, recipe: str) -> Header:
    """The header of a model's file. Raises ``InputError`` for a family without a rule, or a size out of range."""
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        got = "no model_type" if family is None else f"model_type {shown(family)}"
        raise InputError(f"{where}: {got}; runtime llama.cpp knows {', '.join(FAMILIES)}")
    architecture, write = FAMILIES[family]
    keys = ConfigKeys(raw, where)
    file = _File(architecture, keys)
    write(file)
    if file.layers > 512:
        raise InputError(f"{where}: num_hidden_layers is {file.layers}; the engine takes up to 512")
    heads, kv = file.metadata["attention.head_count"], file.metadata["attention.head_count_kv"]
    first = kv[0] if isinstance(kv, list) else kv
    kinds = types(
        file.shapes,
        recipe,
        layers=file.layers,
        experts=file.metadata.get("expert_count", 0),
        n_gqa=heads // first if first else 0,
        is_70b=file.layers == 80 and (architecture == "qwen2" or (architecture == "llama" and heads != first)),
    )
    tensors = {name: TensorInfo(kind, file.shapes[name]) for name, kind in kinds.items()}
    return Header(architecture, file.metadata, tensors, keys.number("vocab_size"))
