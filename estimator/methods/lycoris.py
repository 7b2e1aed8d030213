"""What LoHa and LoKr have in common in PEFT (``peft/tuners/lycoris_utils.py``): a weight is added to the base's."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from .. import operators as ops
from ..io.fields import Number, Rank
from ..ledger import Tensor
from ..programs import Linear, Module
from .layered import Adapters, LayerOptions
from .options import Pattern

Chance = Annotated[Number, Field(ge=0, lt=1)]


class LycorisOptions(LayerOptions):
    """Options of the LyCORIS methods."""

    harmless: ClassVar[frozenset[str]] = frozenset({"alpha_pattern", "init_weights", "use_effective_conv2d"})
    r: Rank = Field(8, description="rank")
    alpha: Number = Field(8, description="scale numerator (no effect on memory)")
    rank_dropout: Chance = Field(0.0, description="dropout of the added weight's rows")
    module_dropout: Chance = Field(0.0, description="chance to skip a module in a step; the estimate skips none")
    rank_pattern: dict[Pattern, Rank] | None = Field(None, description="ranks for modules by regular expression")


class LycorisLinear(Module):
    """y = W x + D x, with a weight D [n_out, n_in] that every forward computes."""

    def __init__(self, base: Linear, method: Adapters[Any]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.rank_dropout: float = method.options.rank_dropout

    def delta_weight(self) -> Tensor:
        """D [n_out, n_in]."""
        raise NotImplementedError

    def dropped(self, weight: Tensor, dtype: str) -> Tensor:
        """``weight`` with rows set to zero in place by a random mask of ``dtype``, where ``rank_dropout`` is set."""
        if not self.rank_dropout:
            return weight
        drop = _row_mask(weight, dtype)
        return ops.mul_(ops.view(weight, weight.shape), drop)

    def delta_activations(self, x: Tensor) -> Tensor:
        """D x, which is added to the base layer's output."""
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
    # (torch.rand(n_out) > p).to(dtype).view(-1, 1)
    rows = weight.shape[:1]
    noise = weight.ledger.empty(rows, "float32")
    kept = weight.ledger.empty(rows, "bool")
    del noise
    return ops.unsqueeze(ops.to(kept, dtype), 1)
