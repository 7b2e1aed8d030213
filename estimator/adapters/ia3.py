"""IA3 as PEFT runs it (``peft/tuners/ia3/layer.py``; arXiv 2205.05638)."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from .. import ops
from ..ledger import Tensor
from ..modules import Linear, Module
from .base import Targets, by_layer
from .lora import AdapterMethod

if TYPE_CHECKING:
    from ..modules import Builder


class Ia3(AdapterMethod):
    """A learned vector scales the output of the targets, or the input of the feedforward ones."""

    def __init__(
        self,
        targets: Targets,
        feedforward_modules: str | Sequence[str],
        modules_to_save: Sequence[str] = (),
        adapter_dtype: str = "float32",
    ) -> None:
        super().__init__(targets, modules_to_save, adapter_dtype)
        self.feedforward_modules = feedforward_modules
        self.by_layer = self.by_layer or by_layer(feedforward_modules)

    def feedforward(self, path: str) -> bool:
        """Whether the module's input is scaled (``IA3Model._check_target_module_feedforward``)."""
        if isinstance(self.feedforward_modules, str):
            return re.fullmatch(self.feedforward_modules, path) is not None
        return any(path.endswith(name) for name in self.feedforward_modules)

    def signature(self, path: str) -> Hashable:
        return super().signature(path), self.feedforward(path)

    def adapt(self, build: Builder, base: Module) -> Module:
        assert isinstance(base, Linear)
        return Ia3Linear(build, base, self)


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
        ia3_scaling = ops.mul_scalar(ops.reshape(self.ia3_l, (self.ia3_l.numel,)))
        if self.is_feedforward:
            x = ops.to(x, self.ia3_l.dtype)
            interm = ops.to(ops.mul(x, ia3_scaling), previous_dtype)
            result: Tensor = self.base_layer(interm)
        else:
            result = self.base_layer(x)
            result_dtype = result.dtype
            result = ops.to(ops.mul(result, ia3_scaling), result_dtype)
        return result
