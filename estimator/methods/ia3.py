"""IA3 as PEFT runs it (``peft/tuners/ia3/layer.py``; arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..bases.bitsandbytes import Linear4bit
from ..bases.formats import BITSANDBYTES
from ..bases.linear import QuantLinear
from ..errors import InputError
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Linear, Method, Module
from . import patterns
from .base import Targets, by_layer
from .default_targets import FEEDFORWARD_MODULES
from .layered import AdapterOptions, Adapters, Layer
from .options import Names


class Ia3Method(AdapterOptions):
    """IA3 (peft.IA3Config)."""

    title: ClassVar[str] = "IA3"
    harmless: ClassVar[frozenset[str]] = frozenset({"init_ia3_weights"})
    name: Literal["ia3"] = "ia3"
    feedforward_modules: Names | None = Field(None, description="targets whose input is scaled, not the output")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        feedforward = self.feedforward_modules
        if feedforward is None:
            feedforward = FEEDFORWARD_MODULES.get(config.family, []) if self.target_modules is None else []
        if isinstance(feedforward, list) and isinstance(self.target_modules, list):
            for name in feedforward:
                if name not in self.target_modules:
                    raise InputError(f"feedforward_modules '{name}' is not in target_modules; add it there too")
        return Ia3(self, self._targets(config), dtype, feedforward)

    def layer(self, base: Module) -> Layer:
        return Ia3BnbLinear if isinstance(base, QuantLinear) and base.base.format in BITSANDBYTES else Ia3Linear


class Ia3(Adapters[Ia3Method]):
    """A trained vector scales the output of each target, or its input where it is a feedforward module."""

    def __init__(
        self, options: Ia3Method, targets: Targets, dtype: str, feedforward_modules: str | Sequence[str]
    ) -> None:
        super().__init__(options, targets, dtype)
        self.feedforward_modules = feedforward_modules
        self.by_layer = self.by_layer or by_layer(feedforward_modules)

    def feedforward(self, path: str) -> bool:
        """Whether the module's input is scaled (``IA3Model._check_target_module_feedforward``)."""
        if isinstance(self.feedforward_modules, str):
            return patterns.groups(self.feedforward_modules, patterns.WHOLE, path) is not None
        return any(path.endswith(name) for name in self.feedforward_modules)

    def signature(self, path: str) -> Hashable:
        return super().signature(path), self.feedforward(path)


class Ia3Linear(Module):
    """A linear layer with ia3_l, [n_out, 1] or, for feedforward modules, [1, n_in]."""

    def __init__(self, build: Builder, base: Linear, ia3: Ia3) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        n_out, n_in = base.weight.shape
        self.is_feedforward = ia3.feedforward(base.path)
        shape = (1, n_in) if self.is_feedforward else (n_out, 1)
        self.ia3_l = build.adapter(f"{self.path}.ia3_l", shape, ia3.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        ia3_scaling = ops.mul(ops.reshape(self.ia3_l, (self.ia3_l.numel,)), ops.SCALAR)
        if self.is_feedforward:
            x = ops.to(x, self.ia3_l.dtype)
            interm = ops.to(ops.mul(x, ia3_scaling), previous_dtype)
            result: Tensor = self.base_layer(interm)
        else:
            result = self.base_layer(x)
            result_dtype = result.dtype
            result = ops.to(ops.mul(result, ia3_scaling), result_dtype)
        return result


class Ia3BnbLinear(Ia3Linear):
    """IA3 around a linear layer of bitsandbytes, in float32 (``peft/tuners/ia3/bnb.py``)."""

    def forward(self, x: Tensor) -> Tensor:
        ia3_scaling = ops.mul(ops.reshape(self.ia3_l, (self.ia3_l.numel,)), ops.SCALAR)
        x = ops.to(x, "float32")
        result: Tensor
        if self.is_feedforward:
            result = self.base_layer(ops.mul(x, ia3_scaling))
            expected_dtype = result.dtype
        else:
            result = self.base_layer(x)
            expected_dtype = result.dtype
            result = ops.mul(result, ia3_scaling)
        if isinstance(self.base_layer, Linear4bit):
            result = ops.clone(result)
        return ops.to(result, expected_dtype)
