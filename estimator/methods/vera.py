"""VeRA as PEFT runs it (``peft/tuners/vera/``; arXiv 2310.11454)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Number, Rank, Whole
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Linear, Method, Module
from .base import Targets
from .layered import Adapters, LayerOptions, largest_shape


class VeraLinear(Module):
    """A linear layer with vera_lambda_b [n_out] and vera_lambda_d [r]; it uses slices of vera_A and vera_B."""

    def __init__(self, build: Builder, base: Linear, vera: Vera) -> None:
        self.path, self.ledger, self.base_layer, self.p = base.path, base.ledger, base, vera.options.vera_dropout
        self.vera_A, self.vera_B = build.shared["vera_A"], build.shared["vera_B"]
        self.n_out, self.n_in = base.weight.shape
        self.lambda_b = build.adapter(f"{self.path}.vera_lambda_b", (self.n_out,), vera.adapter_dtype)
        self.lambda_d = build.adapter(f"{self.path}.vera_lambda_d", (vera.options.r,), vera.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        result = self.base_layer(x)
        orig_dtype = result.dtype
        sliced_A = ops.narrow(self.vera_A, 1, self.n_in)
        sliced_B = ops.narrow(self.vera_B, 0, self.n_out)
        x = ops.to(x, self.lambda_d.dtype)
        result = ops.add(
            result,
            ops.mul(
                self.lambda_b,
                ops.linear(ops.mul(self.lambda_d, ops.linear(ops.dropout(x, self.p), sliced_A)), sliced_B),
            ),
        )
        result = ops.to(result, orig_dtype)
        result = ops.to(result, previous_dtype)
        return result


class VeraMethod(LayerOptions):
    """VeRA (peft.VeraConfig)."""

    title: ClassVar[str] = "VeRA"
    linear = VeraLinear
    open_sizes: ClassVar[bool] = False
    """Off, since the shared projections have the largest target's size."""
    name: Literal["vera"] = "vera"
    r: Rank = Field(256, description="rank")
    vera_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before vera_A")
    bias: Literal["none", "all", "vera_only"] = Field("none", description="biases to train")
    projection_prng_key: Whole = Field(0, description="seed of the projections (no effect on memory)")
    save_projection: StrictBool = Field(True, description="save the projections (no effect on memory)")
    d_initial: Number = Field(0.1, description="initial lambda_d (no effect on memory)")
    init_weights: StrictBool = Field(True, description="initialisation (no effect on memory)")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return Vera(self, self._targets(config), dtype, config)


class Vera(Adapters[VeraMethod]):
    """y = W x + b * B (d * A x), where * is elementwise.

    A and B are random, frozen and shared by all targets, so they have the largest target's size. b and d are trained.
    """

    def __init__(self, options: VeraMethod, targets: Targets, dtype: str, config: Config) -> None:
        super().__init__(options, targets, dtype)
        self.n_out, self.n_in = largest_shape(config, targets)

    def adapt(self, build: Builder, base: Module) -> Module:
        if not build.shared:
            r = self.options.r
            build.shared["vera_A"] = build.ledger.buffer((r, self.n_in), self.adapter_dtype)
            build.shared["vera_B"] = build.ledger.buffer((self.n_out, r), self.adapter_dtype)
        return super().adapt(build, base)
