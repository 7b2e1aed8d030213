"""BEFT as PEFT runs it: a bias beside a linear layer (``peft/tuners/beft/layer.py``; arXiv 2509.15974)."""

from __future__ import annotations

from typing import ClassVar, Literal

from .. import operators as ops
from ..ledger import Tensor
from ..programs import Builder, Linear, Module
from .layered import Absent, AdapterOptions, Adapters


class BeftLinear(Module):
    """y = W x + beft_bias [1, n_out]."""

    def __init__(self, build: Builder, base: Linear, beft: Adapters[BeftMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        shape = 1, base.weight.shape[0]
        self.beft_bias = build.adapter(f"{self.path}.beft_bias", shape, beft.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        beft_bias = ops.reshape(self.beft_bias, (self.beft_bias.numel,))
        result: Tensor = self.base_layer(x)
        orig_dtype = result.dtype
        result = ops.to(ops.add(result, beft_bias), orig_dtype)
        return result


class BeftMethod(AdapterOptions):
    """BEFT (peft.BeftConfig)."""

    title: ClassVar[str] = "BEFT"
    linear = BeftLinear
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    name: Literal["beft"] = "beft"
    exclude_modules: Absent = None
