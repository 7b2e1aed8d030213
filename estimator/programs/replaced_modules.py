"""Modules that run recorded calls with weights of their own, so that a method or a base may act on them."""

from __future__ import annotations

from collections.abc import Sequence

from .. import operators as ops
from ..ledger import Shape, Size, Tensor
from .event_loop import EventLoop
from .modules import Builder, Embedding, Linear, Module
from .program import Stored


class RecordedEmbedding(Embedding):
    """An embedding with calls of its own around the lookup."""

    def __init__(self, build: Builder, path: str, count: Size, size: Size, recorded: EventLoop) -> None:
        super().__init__(build, path, build.parameter(f"{path}.weight", count, size))
        self.recorded = recorded

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.recorded.run_region(self.path, {f"{self.path}.weight": self.weight}, ids)
        return out


class RecordedLinear(Linear):
    """A linear layer that calls other functions than ``nn.Linear``.

    Its weight is stored as [n_out, n_in], or ``transposed``: GPT-2's ``Conv1D``.
    """

    def __init__(
        self, build: Builder, path: str, shape: Shape, bias: bool, transposed: bool, recorded: EventLoop
    ) -> None:
        stored = build.parameter(f"{path}.weight", *(shape[::-1] if transposed else shape))
        made = build.parameter(f"{path}.bias", shape[0]) if bias else None
        with build.ledger.no_grad():
            weight = ops.transpose(stored, 0, 1) if transposed else stored
        super().__init__(build, path, weight, made)
        self.recorded, self.transposed = recorded, transposed
        self.own = {f"{path}.weight": stored, **({} if made is None else {f"{path}.bias": made})}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.recorded.run_region(self.path, self.own, x)
        return out


class RecordedModule(Module):
    """A module by its recorded calls: a norm, or one of whose parameters a method adapts some."""

    def __init__(self, build: Builder, path: str, weights: Sequence[Stored], recorded: EventLoop) -> None:
        self.path, self.ledger, self.recorded = path, build.ledger, recorded
        self.own = {w.name: build.parameter(w.name, *w.shape) for w in weights}

    def forward(self, *args: Tensor) -> Tensor:
        out: Tensor = self.recorded.run_region(self.path, self.own, *args)
        return out
