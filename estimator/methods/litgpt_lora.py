"""LoRA as litgpt runs it (``litgpt/lora.py`` of 0.5.13): on parts of its own fused layers, in the base's dtype."""

from __future__ import annotations

from collections.abc import Callable, Collection

from .. import operators as ops
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Embedding, Linear, Method, Module

PARTS = ("query", "key", "value", "projection", "mlp", "head")
"""The parts of a model that litgpt's options ``lora_query``, ``lora_key`` and so on adapt."""


class LitLora(Method):
    """y = W x + B(A(dropout(x))) * scale, in the parts that litgpt's config switches on.

    ``stable``: the input embedding is replaced, as beside a quantised base.
    """

    def __init__(self, parts: Collection[str], r: Size, dropout: float, config: Config, stable: bool) -> None:
        self.r, self.dropout, self.parts, self.modules, self.stable = r, dropout, parts, config.modules, stable
        kv_size = config.num_key_value_heads * config.head_dim
        self.qkv_sizes = (config.num_attention_heads * config.head_dim, kv_size, kv_size)
        self.enabled = [size for name, size in zip(PARTS, self.qkv_sizes, strict=False) if name in parts]

    def trains(self, path: str) -> bool:
        return False

    def adapts(self, path: str) -> bool:
        if path.endswith(".attn.qkv"):
            return bool(self.enabled)
        module = self.modules[path]
        part = "head" if module.role else "projection" if path.endswith(".attn.proj") else "mlp"
        return module.kind == "linear" and part in self.parts

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        if self.stable and isinstance(base, Embedding):
            return StableEmbedding(build, base)
        if not self.adapts(base.path):
            return base
        assert isinstance(base, Linear)
        made = (LoRAQKVLinear if base.path.endswith(".attn.qkv") else LoRALinear)(build, base, self)
        parameters = base.ledger.parameters  # a module's own come before those of the modules in it
        first = next(i for i, p in enumerate(parameters) if p is base.weight)
        parameters[first:] = [*parameters[-2:], *parameters[first:-2]]
        return made


class LoRALinear(Module):
    """A linear layer with lora_A [r, n_in] and lora_B [n_out, r]."""

    def __init__(self, build: Builder, base: Linear, lora: LitLora) -> None:
        self.path, self.ledger, self.linear, self.p = base.path, base.ledger, base, lora.dropout
        n_out, n_in = base.weight.shape
        self.lora_A = build.adapter(f"{self.path}.lora_A", (lora.r, n_in), build.dtype)
        self.lora_B = build.adapter(f"{self.path}.lora_B", (n_out, lora.r), build.dtype)

    def forward(self, x: Tensor) -> Tensor:
        pretrained = self.linear(x)
        after_A = ops.matmul(ops.dropout(x, self.p), ops.transpose(self.lora_A, 0, 1))
        lora = ops.mul(ops.matmul(after_A, ops.transpose(self.lora_B, 0, 1)), ops.SCALAR)
        return ops.add(pretrained, lora)


class LoRAQKVLinear(Module):
    """The fused layer of query, key and value, of which n are adapted: zeros are added to the others.

    lora_A is [n r, n_in]. lora_B [rows of the adapted ones, r] is applied as a grouped convolution over the tokens.
    """

    def __init__(self, build: Builder, base: Linear, lora: LitLora) -> None:
        self.path, self.ledger, self.linear, self.p = base.path, base.ledger, base, lora.dropout
        self.enabled, self.grouped = lora.enabled, lora.qkv_sizes[0] != lora.qkv_sizes[1]
        n_out, n_in = base.weight.shape
        self.n_out, self.r = n_out, lora.r
        self.lora_A = build.adapter(f"{self.path}.lora_A", (lora.r * len(lora.enabled), n_in), build.dtype)
        self.adapted: Size = sum(lora.enabled, 0)
        self.lora_B = build.adapter(f"{self.path}.lora_B", (self.adapted, lora.r), build.dtype)
        if self.pads:
            self.ledger.buffer((self.adapted,), "int64")  # _lora_ind

    @property
    def pads(self) -> bool:
        """Whether one of query, key and value is not adapted."""
        return len(self.enabled) < 3

    def forward(self, x: Tensor) -> Tensor:
        pretrained = self.linear(x)
        after_A = ops.linear(ops.dropout(x, self.p), self.lora_A)
        after_B = ops.transpose(self.conv1d(ops.transpose(after_A, -2, -1), ops.unsqueeze(self.lora_B, 2)), -2, -1)
        lora = ops.mul(self.zero_pad(after_B), ops.SCALAR)
        return ops.add(pretrained, lora)

    def conv1d(self, x: Tensor, weight: Tensor) -> Tensor:
        """X [B, n r, S] -> [B, adapted, S]: a convolution for each part, or one where all sizes are equal."""
        if not self.grouped:
            return ops.conv1d(x, weight)
        batch, _, seq = x.shape
        parts = zip(ops.split(x, self.r, 1), ops.split_with_sizes(weight, self.enabled, dim=0), strict=True)
        return ops.cat(tuple(ops.conv1d(a, b) for a, b in parts), (batch, self.adapted, seq))

    def zero_pad(self, x: Tensor) -> Tensor:
        """X [B, S, adapted] -> [B, S, n_out]."""
        if not self.pads:
            return x
        result = self.ledger.empty((*x.shape[:-1], self.n_out), x.dtype)
        index = self.ledger.empty((self.adapted,), "int64")  # a clone of _lora_ind
        return ops.index_copy_(result, index, x)


class StableEmbedding(Module):
    """The embedding and layer norm that replace the embedding of a quantised base (``finetune/lora.py: main``).

    They are made after the model is frozen and the optimizer has its parameters. So nothing ever clears the gradients
    of their three parameters. The old embedding stays too, since ``main`` has a name for it.
    """

    def __init__(self, build: Builder, old: Embedding) -> None:
        self.path, self.ledger = old.path, old.ledger
        weight = self.ledger.parameters.pop()
        self.ledger.buffers.append(weight)
        self.ledger.buffer_bytes = self.ledger.buffer_bytes + weight.nbytes
        self.weight = self._parameter("weight", weight)
        self.norm_weight, self.norm_bias = (self._parameter(f"norm.{name}", weight, 1) for name in ("weight", "bias"))

    def _parameter(self, name: str, old: Tensor, first: int = 0) -> Tensor:
        shape = old.shape[first:]
        parameter = self.ledger.parameter(f"{self.path}.{name}", shape, old.dtype, requires_grad=True)
        parameter.grad = self.ledger.buffer(shape, old.dtype)
        return parameter

    def forward(self, ids: Tensor) -> Tensor:
        return ops.layer_norm(ops.embedding(ids, self.weight), self.norm_weight, self.norm_bias)
