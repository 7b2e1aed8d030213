"""DeLoRA as PEFT runs it (``peft/tuners/delora/layer.py``; arXiv 2503.18225)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Number, Rank
from ..ledger import Tensor
from ..programs import Builder, Linear, Module
from .layered import Adapters, LayerOptions
from .options import Pattern


class DeloraLinear(Module):
    """y = W x + B D A (w * x), with delora_A [r, n_in], delora_B [n_out, r] and delora_lambda [1].

    The buffer w [n_in] has the norms of W's columns. D [r] bounds the norm of the update.
    """

    def __init__(self, build: Builder, base: Linear, delora: Adapters[DeloraMethod]) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, delora.options.module_dropout
        n_out, n_in = base.weight.shape
        rank, dtype = delora.size_at(base.path), delora.adapter_dtype
        self.delora_A = build.adapter(f"{self.path}.delora_A", (rank, n_in), dtype)
        self.delora_B = build.adapter(f"{self.path}.delora_B", (n_out, rank), dtype)
        self.delora_lambda = build.adapter(f"{self.path}.delora_lambda", (1,), dtype)
        self.w_norm = build.ledger.buffer((n_in,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        base_out = self.base_layer(x)
        add_out = self.ledger.empty(base_out.shape, base_out.dtype)
        x_d = ops.dropout(x, self.p)
        h = ops.linear(ops.mul(x_d, self.w_norm), self.delora_A)
        An = ops.clamp(ops.linalg_vector_norm(self.delora_A, 1))
        Bn = ops.clamp(ops.linalg_vector_norm(self.delora_B, 0))
        scaling = ops.div(ops.div(self.delora_lambda, ops.SCALAR), ops.mul(An, Bn))
        h = ops.mul(h, scaling)
        h = ops.linear(h, self.delora_B)
        add_out = ops.add_(add_out, h)
        result = ops.add(base_out, ops.to(add_out, base_out.dtype))
        result = ops.to(result, previous_dtype)
        return result


class DeloraMethod(LayerOptions):
    """DeLoRA (peft.DeloraConfig)."""

    title: ClassVar[str] = "DeLoRA"
    linear = DeloraLinear
    opens_rank = True
    harmless: ClassVar[frozenset[str]] = frozenset({"lambda_pattern"})
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["delora"] = "delora"
    r: Rank = Field(8, description="rank")
    delora_lambda: Number = Field(15, description="bound of the update's norm (no effect on memory)")
    module_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before delora_A")
    bias: Literal["none", "all", "delora_only"] = Field("none", description="biases to train")
    init_weights: StrictBool = Field(True, description="initialisation (no effect on memory)")
    rank_pattern: dict[Pattern, Rank] | None = Field(None, description="ranks for modules by regular expression")
