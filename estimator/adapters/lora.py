"""LoRA as PEFT runs it (``peft/tuners/lora/layer.py``; arXiv 2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from .. import ops
from ..ledger import Tensor
from ..modules import Embedding, Linear, Module
from ..symbols import Size
from .base import Method, Targets, by_layer

if TYPE_CHECKING:
    from ..modules import Builder


class AdapterMethod(Method):
    """A frozen base with adapters on the targets and trainable copies of ``modules_to_save``."""

    def __init__(self, targets: Targets, modules_to_save: Sequence[str], adapter_dtype: str) -> None:
        self.targets, self.modules_to_save, self.adapter_dtype = targets, tuple(modules_to_save), adapter_dtype
        self.by_layer = targets.by_layer or by_layer(self.modules_to_save)

    def trains(self, path: str) -> bool:
        return False

    def saves(self, path: str) -> bool:
        """Whether PEFT replaces the module by a trainable copy (``ModulesToSaveWrapper``)."""
        return any(path.endswith(name) for name in self.modules_to_save)

    def adapt(self, build: Builder, base: Module) -> Module:
        """The adapted module."""
        raise NotImplementedError

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        if self.saves(base.path):
            return copy()
        return self.adapt(build, base) if base.path in self.targets else base

    def signature(self, path: str) -> Hashable:
        return self.saves(path) or path in self.targets


class Lora(AdapterMethod):
    """y = W x + B(A(dropout(x))) * scale. rsLoRA only changes the scale."""

    def __init__(
        self,
        targets: Targets,
        r: Size,
        lora_dropout: float = 0.0,
        bias: str = "none",
        lora_bias: bool = False,
        rank_pattern: Mapping[str, int] | None = None,
        modules_to_save: Sequence[str] = (),
        adapter_dtype: str = "float32",
    ) -> None:
        super().__init__(targets, modules_to_save, adapter_dtype)
        self.r, self.dropout, self.bias, self.lora_bias = r, lora_dropout, bias, lora_bias
        self.rank_pattern = dict(rank_pattern or {})
        self.by_layer = self.by_layer or bool(self.rank_pattern)

    def trains(self, path: str) -> bool:
        if self.bias == "all":
            return "bias" in path
        return self.bias == "lora_only" and path.endswith(".bias") and path.removesuffix(".bias") in self.targets

    def rank(self, path: str) -> Size:
        """The rank at a module (``peft/utils/other.py: get_pattern_key``)."""
        for pattern, rank in self.rank_pattern.items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                return rank
        return self.r

    def signature(self, path: str) -> Hashable:
        return super().signature(path), path in self.targets and self.rank(path)

    def adapt(self, build: Builder, base: Module) -> Module:
        if isinstance(base, Embedding):
            return LoraEmbedding(build, base, self)
        assert isinstance(base, Linear)
        return LoraLinear(build, base, self)


class LoraLinear(Module):
    """A linear layer with lora_A [r, n_in] and lora_B [n_out, r]."""

    def __init__(self, build: Builder, base: Linear, lora: Lora) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, lora.dropout
        rank = lora.rank(base.path)
        n_out, n_in = base.weight.shape
        self.lora_A = build.adapter_linear(f"{self.path}.lora_A", n_in, rank, False, lora.adapter_dtype)
        self.lora_B = build.adapter_linear(f"{self.path}.lora_B", rank, n_out, lora.lora_bias, lora.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        result_dtype = result.dtype
        x = ops.to(x, self.lora_A.weight.dtype)
        result = ops.add(result, ops.mul_scalar(self.lora_B(self.lora_A(ops.dropout(x, self.p)))))
        result = ops.to(result, result_dtype)
        return result


class LoraEmbedding(Module):
    """An embedding with lora_embedding_A [r, vocabulary] and lora_embedding_B [hidden, r]."""

    def __init__(self, build: Builder, base: Embedding, lora: Lora) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        rank = lora.rank(base.path)
        count, size = base.weight.shape
        self.weight = base.weight
        self.lora_A = build.adapter(f"{self.path}.lora_embedding_A", (rank, count), lora.adapter_dtype)
        self.lora_B = build.adapter(f"{self.path}.lora_embedding_B", (size, rank), lora.adapter_dtype)

    def forward(self, ids: Tensor) -> Tensor:
        result = self.base_layer(ids)
        result_dtype = result.dtype
        after_a = ops.embedding(ids, ops.transpose(self.lora_A, 0, 1))
        result = ops.add(result, ops.mul_scalar(ops.linear(after_a, self.lora_B)))
        result = ops.to(result, result_dtype)
        return result
