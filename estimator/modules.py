"""Modules: the building blocks a family's forward pass is written with.

``Module.__call__`` holds its arguments for as long as ``torch.nn.Module._call_impl`` does, so
names of temporaries live as long as they do in the original.
"""

from __future__ import annotations

from typing import Any

from . import ops
from .adapters.base import Method
from .ledger import Ledger, Tensor
from .symbols import Size


class Module:
    """A named part of a model. Subclasses define ``forward``."""

    path: str = ""
    ledger: Ledger

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.ledger.module = self.path
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError


class Builder:
    """Makes parameters and modules in the original's order; knows the method and the dtype."""

    def __init__(self, ledger: Ledger, method: Method, dtype: str) -> None:
        self.ledger, self.method, self.dtype = ledger, method, dtype

    def parameter(self, path: str, *shape: Size) -> Tensor:
        """A base parameter, trainable if the method trains it."""
        return self.ledger.parameter(path, shape, self.dtype, self.method.trains(path))

    def linear(self, path: str, n_in: Size, n_out: Size, bias: bool = False) -> Module:
        """``nn.Linear``, wrapped by the method where it adapts this module."""
        base = Linear(self, path, n_in, n_out, bias)
        return self.method.wrap(self, base)

    def tied_linear(self, path: str, weight: Tensor) -> Module:
        """A linear layer that shares another module's weight."""
        base = Linear.__new__(Linear)
        base.path, base.ledger, base.weight, base.bias = path, self.ledger, weight, None
        return self.method.wrap(self, base)


class Linear(Module):
    """``nn.Linear``: weight [n_out, n_in], bias [n_out]."""

    def __init__(self, build: Builder, path: str, n_in: Size, n_out: Size, bias: bool = False) -> None:
        self.path, self.ledger = path, build.ledger
        self.weight = build.parameter(f"{path}.weight", n_out, n_in)
        self.bias = build.parameter(f"{path}.bias", n_out) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., n_in] -> [..., n_out]."""
        return ops.linear(x, self.weight, self.bias)


class Embedding(Module):
    """``nn.Embedding``: weight [vocabulary, hidden]."""

    def __init__(self, build: Builder, path: str, count: Size, size: Size) -> None:
        self.path, self.ledger = path, build.ledger
        self.weight = build.parameter(f"{path}.weight", count, size)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [B, S] -> [B, S, hidden]."""
        return ops.embedding(ids, self.weight)


class RMSNorm(Module):
    """Root-mean-square norm as transformers writes it: statistics in float32, scale afterwards."""

    def __init__(self, build: Builder, path: str, size: Size) -> None:
        self.path, self.ledger = path, build.ledger
        self.weight = build.parameter(f"{path}.weight", size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        input_dtype = hidden_states.dtype
        hidden_states = ops.to(hidden_states, "float32")
        variance = ops.mean_last(ops.pow2(hidden_states))
        hidden_states = ops.mul(hidden_states, ops.rsqrt(ops.add_scalar(variance)))
        return ops.mul(self.weight, ops.to(hidden_states, input_dtype))
