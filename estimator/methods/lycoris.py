"""What LoHa and LoKr have in common in PEFT (``peft/tuners/lycoris_utils.py``): a weight added to the base's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from .. import operators as ops
from ..fields import Number, Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Linear, Module
from . import patterns
from .base import AdapterMethod
from .options import LayerOptions, Pattern

Chance = Annotated[Number, Field(ge=0, lt=1)]


class LycorisOptions(LayerOptions):
    """Options of the LyCORIS methods."""

    harmless: ClassVar[frozenset[str]] = frozenset({"alpha_pattern", "init_weights", "use_effective_conv2d"})
    r: Rank = Field(8, description="rank")
    alpha: Number = Field(8, description="scale numerator (no effect on memory)")
    rank_dropout: Chance = Field(0.0, description="dropout of the added weight's rows")
    module_dropout: Chance = Field(0.0, description="chance to skip a module in a step; counted as if none were")
    rank_pattern: dict[Pattern, Rank] | None = Field(None, description="ranks for modules by regular expression")


class Lycoris(AdapterMethod):
    """y = W x + D x with a weight D [n_out, n_in] computed in every forward."""

    def __init__(
        self, r: Size, rank_dropout: float = 0.0, rank_pattern: Mapping[str, int] | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.r, self.rank_dropout = r, rank_dropout
        self.ranks: patterns.Lookup[Size] = patterns.Lookup(rank_pattern, patterns.SUFFIX)
        self.by_layer = self.by_layer or bool(self.ranks)

    def rank(self, path: str) -> Size:
        """The rank at a module (``peft/utils/other.py: get_pattern_key``)."""
        return self.ranks.at(path, self.r)

    def signature(self, path: str) -> Hashable:
        return super().signature(path), path in self.targets and self.rank(path)


class LycorisLinear(Module):
    """A linear layer and the weight added to its own."""

    def __init__(self, build: Builder, base: Linear, method: Lycoris) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.rank_dropout = method.rank_dropout

    def delta_weight(self) -> Tensor:
        """The added weight, [n_out, n_in]."""
        raise NotImplementedError

    def dropped(self, weight: Tensor, dtype: str) -> Tensor:
        """Rows of ``weight`` set to zero in place, by a mask drawn in ``dtype``."""
        if not self.rank_dropout:
            return weight
        drop = _row_mask(weight, dtype)
        return ops.mul_view_(weight, drop)

    def delta_activations(self, x: Tensor) -> Tensor:
        """What is added to the base's output."""
        delta_weight = self.delta_weight()
        x = ops.to(x, delta_weight.dtype)
        return ops.linear(x, delta_weight)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        result: Tensor = self.base_layer(x)
        result = ops.add(result, self.delta_activations(x))
        result = ops.to(result, previous_dtype)
        return result


def _row_mask(weight: Tensor, dtype: str) -> Tensor:
    # (torch.rand(n_out) > p).to(dtype), as a column
    rows = weight.shape[:1]
    noise = weight.ledger.empty(rows, "float32")
    kept = weight.ledger.empty(rows, "bool")
    del noise
    return ops.unsqueeze(ops.to(kept, dtype), 1)
