"""A model's config.json as ``export_llm`` has it: sizes, and which of its graphs the family is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from .options import ExecuTorchOptions
from .plan import Shape

FAMILIES = ("llama", "qwen2", "qwen3", "phi3", "gemma")
"""The ``model_type`` of the models that ``examples/models`` has parameters for and whose graph is that of its
``llama_transformer.py``: Llama 2 to 3.2 and SmolLM 2 are llama, Phi 4 mini is phi3."""
_STOCK_ROPE = ("llama",)
"""Families that are exported with rotary embeddings of neighbouring elements; all others have Hugging Face's."""


def shape_of(raw: Mapping[str, Any], name: str, options: ExecuTorchOptions, dtype: str, seq: int) -> Shape:
    """The model and its export. Raises ``InputError`` for a model that ``export_llm`` has no graph for."""
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise InputError(
            f"model: {name} is of the type {family}, which export_llm of ExecuTorch 1.5 does not export; it has "
            f"{', '.join(FAMILIES)}; give its .pte file, or take runtime: llama.cpp"
        )
    try:
        dim, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        head = int(raw.get("head_dim") or dim // heads)
        context = options.max_context_length or seq
        return Shape(
            dim=dim,
            n_layers=int(raw["num_hidden_layers"]),
            n_heads=heads,
            n_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=head,
            hidden_dim=int(raw["intermediate_size"]),
            vocab_size=int(raw["vocab_size"]),
            rotary_dim=int(head * float(raw.get("partial_rotary_factor") or 1)),
            use_hf_rope=family not in _STOCK_ROPE if options.use_hf_rope is None else options.use_hf_rope,
            use_qk_norm=family == "qwen3",
            qkv_bias=family == "qwen2",
            tied=bool(raw.get("tie_word_embeddings", family == "gemma")),
            dtype="float32" if dtype == "8da4w" else dtype,
            max_seq_length=options.max_seq_length or min(_EXPORTERS_SEQ, context),
            max_context_length=context,
            # The parameters that the exporter has of its models name this, and its tables are then twice as long.
            table_rows=context if raw.get("ffn_dim_multiplier", 1) is None else 2 * context,
            use_kv_cache=options.use_kv_cache,
            use_sdpa_with_kv_cache=options.fused,
            quantize_kv_cache=options.quantize_kv_cache,
            enable_dynamic_shape=options.enable_dynamic_shape,
            generate_full_logits=options.generate_full_logits,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"model: {name} has no size that export_llm needs ({error}); give a whole config.json"
        ) from None


_EXPORTERS_SEQ = 128
"""``extension/llm/export/config/llm_config.py: ExportConfig.max_seq_length``."""
