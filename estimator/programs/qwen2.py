"""Qwen2: Llama with biases on query, key and value, and sliding windows in some layers (``modeling_qwen2.py``)."""

from __future__ import annotations

from ..ledger import Tensor
from . import attention, llama
from .step import Inputs


class Model(llama.Model):
    """One mask for layers without a sliding window, one for layers with it."""

    returns_cache = False

    def masks(self, inputs: Inputs, dtype: str) -> dict[bool, Tensor | None]:
        masks = super().masks(inputs, dtype)
        if any(run.windowed for run in self.c.runs):
            masks[True] = attention.causal_mask(inputs, dtype, windowed=True)
        return masks


class CausalLM(llama.CausalLM):
    """``Qwen2ForCausalLM``."""

    model_class = Model
