"""Mistral: Llama with a sliding window in every layer (``modeling_mistral.py``)."""

from __future__ import annotations

from ..ledger import Tensor
from . import attention, llama
from .step import Inputs


class Model(llama.Model):
    """One mask for all layers, with the sliding window if the config has one."""

    returns_cache = False

    def masks(self, inputs: Inputs, dtype: str) -> dict[bool, Tensor | None]:
        windowed = self.c.runs[0].windowed
        return {windowed: attention.causal_mask(inputs, dtype, windowed)}


class CausalLM(llama.CausalLM):
    """``MistralForCausalLM``."""

    model_class = Model
