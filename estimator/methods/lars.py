"""LARS, the low-rank subspace of activations (arXiv 2604.22783), as its published script builds it.

No released library has the method. The rules here follow the module in ``witnesses/reference/lars.py``, rebuilt
from the steps in the paper. Its parameter count gives the two shares that the paper reports for Llama-3.2-1B.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..io.fields import Number, Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Linear, Module
from .layered import AdapterOptions, Adapters
from .options import Names


class LarsLinear(Module):
    """y = W x + one update per sequence, the same at every position.

    It adds 2 n_in r + r n_out + 10 r^2 + 7 r + 3 parameters.
    """

    def __init__(self, build: Builder, base: Linear, lars: Adapters[LarsMethod]) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, lars.options.lars_dropout
        n_out, n_in = base.weight.shape
        r, path, dtype = lars.size, base.path, lars.adapter_dtype

        def linear(name: str, inputs: Size, outputs: Size, bias: bool = False) -> Linear:
            return build.adapter_linear(f"{path}.{name}", inputs, outputs, bias, dtype)

        self.lars_A = linear("lars_A", n_in, r)
        self.norm_weight = build.adapter(f"{path}.norm.weight", (r,), dtype)
        self.norm_bias = build.adapter(f"{path}.norm.bias", (r,), dtype)
        self.gate_x, self.gate_h, self.memory = (
            linear("gate_x", n_in, r),
            linear("gate_h", r, r),
            linear("memory", r, r),
        )
        self.up, self.down = linear("up", r, 4 * r, bias=True), linear("down", 4 * r, r, bias=True)
        self.lars_B = linear("lars_B", r, n_out)
        self.t_x, self.t_h, self.alpha = (
            build.adapter(f"{path}.{name}", (), dtype) for name in ("t_x", "t_h", "alpha")
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x)
        pooled = ops.to(ops.add(ops.mean(x, 1), ops.select(x, 1)), self.lars_A.weight.dtype)
        h = self.lars_A(pooled)
        h = ops.layer_norm(h, self.norm_weight, self.norm_bias)
        gate = ops.sigmoid(ops.add(ops.mul(self.t_x, self.gate_x(pooled)), ops.mul(self.t_h, self.gate_h(h))))
        h = ops.add(h, self.memory(gate))
        h = ops.dropout(h, self.p)
        h = ops.add(h, self.down(ops.gelu(self.up(h))))
        update = ops.mul(self.alpha, self.lars_B(h))
        return ops.add(result, ops.unsqueeze(ops.to(update, result.dtype), 1))


class LarsMethod(AdapterOptions):
    """LARS: one update per sequence, computed from its pooled input."""

    title: ClassVar[str] = "LARS"
    linear = LarsLinear
    opens_rank = True
    peft: ClassVar[bool] = False
    by_token: ClassVar[bool] = False
    name: Literal["lars"] = "lars"
    r: Rank = Field(8, description="rank")
    lars_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.1, description="dropout on the pooled rank vector")

    def default_targets(self, model_type: str) -> Names | None:
        return "all-linear"
