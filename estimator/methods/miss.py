"""MiSS as PEFT runs it (``peft/tuners/miss/layer.py``; arXiv 2409.15371)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Number, Rank
from ..ledger import Size, Tensor
from ..programs import Builder, Linear, Module
from .layered import Adapters, Bias, Layer, LayerOptions, integer_shape, name_of


class MissLinear(Module):
    """y = W x + s M: x is cut into pieces of r features, whose sum is s [r]; M [r, n_out] is miss_block.

    The variant mini trains miss_block [r, mini_r] and repeats it along the outputs.
    """

    def __init__(self, build: Builder, base: Linear, miss: Adapters[MissMethod]) -> None:
        self.path, self.ledger, self.base_layer, options = base.path, base.ledger, base, miss.options
        n_out, self.n_in = integer_shape(base)
        self.p, mini = options.miss_dropout, options.init_weights == "mini"
        columns = options.mini_r if mini else n_out
        self.repeats = n_out // columns if mini else 0
        self.miss_block = build.adapter(f"{self.path}.miss_block", (options.r, columns), miss.adapter_dtype)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        result: Tensor = self.base_layer(x)
        miss = self.miss_block
        if self.repeats:
            miss = ops.repeat(miss, 1, self.repeats)
        r = int(miss.shape[0])  # type: ignore[arg-type]
        padding_size = -self.n_in % r
        if padding_size:
            x = ops.pad(x, (*x.shape[:-1], x.shape[-1] + padding_size))
        x = ops.to(x, miss.dtype)
        shards = (*x.shape[:-1], (self.n_in + padding_size) // r, r)
        result = ops.add(result, ops.matmul(ops.sum(ops.reshape(ops.dropout(x, self.p), shards), -2), miss))
        result = ops.to(result, previous_dtype)
        return result


class BatLinear(Module):
    """The variant Bat: every forward computes a new weight from W's blocks [r, r] and miss_block [n_out / r, r, r]."""

    def __init__(self, build: Builder, base: Linear, miss: Adapters[MissMethod]) -> None:
        self.path, self.ledger, self.base_layer, self.r = base.path, base.ledger, base, miss.options.r
        self.n_out, self.n_in = integer_shape(base)
        shape = (self.n_out // self.r, self.r, self.r)
        self.miss_block = build.adapter(f"{self.path}.miss_block", shape, miss.adapter_dtype)

    def delta_weight(self, orig_weight: Tensor) -> Tensor:
        """What is added to W: [n_out, n_in], computed in float32, in the adapter's dtype."""
        r, dtype = self.r, self.miss_block.dtype
        miss_B = ops.to(self.miss_block, "float32")
        orig_weight = ops.to(orig_weight, miss_B.dtype)
        W = ops.reshape(orig_weight, (self.n_out // r, r, self.n_in // r, r))
        W = ops.permute(W, (2, 0, 1, 3))
        result = ops.add(ops.matmul(W, miss_B), miss_B)
        output_tensor = ops.reshape(ops.permute(result, (1, 2, 0, 3)), orig_weight.shape)
        if dtype != "float32":
            output_tensor = ops.to(output_tensor, dtype)
            self.ledger.transient(self.miss_block.nbytes)  # the parameter's data is replaced by a copy
        return output_tensor

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        orig_weight = ops.clone(self.base_layer.weight)
        delta_weight = self.delta_weight(orig_weight)
        orig_weight = ops.add(orig_weight, delta_weight)
        x = ops.to(x, orig_weight.dtype)
        bias = self.base_layer.bias
        if bias is not None:
            bias = ops.to(bias, orig_weight.dtype)
        result = ops.linear(x, orig_weight, bias)
        result = ops.to(result, previous_dtype)
        return result


class MissMethod(LayerOptions):
    """MiSS, with its variants Bat and mini (peft.MissConfig)."""

    title: ClassVar[str] = "MiSS"
    open_sizes: ClassVar[bool] = False
    pattern_alone: ClassVar[bool] = True
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["miss"] = "miss"
    r: Rank = Field(64, description="rank along the input features")
    miss_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the input is summed")
    mini_r: Rank = Field(1, description="rank along the output features, for init_weights mini")
    init_weights: StrictBool | Literal["bat", "mini"] = Field(True, description="the variant: true, bat or mini")
    bias: Bias = Field("none", description="biases to train: none, all or MiSS_only")

    def layer(self, base: Module) -> Layer:
        return BatLinear if self.init_weights == "bat" else MissLinear

    def check_target(self, path: str, n_out: int, n_in: int, size: Size) -> None:
        name = name_of(path)
        if self.r > n_in:
            raise InputError(f"r {self.r} is above the {n_in} input features of {name} (PEFT's rule); lower it")
        if self.init_weights == "bat" and (n_in % self.r or n_out % self.r):
            raise InputError(
                f"init_weights bat divides weights into r x r blocks, but {name} is {n_out} x {n_in} and "
                f"r is {self.r} (PEFT's rule); take an r that divides both"
            )
        if self.init_weights == "mini" and n_out % self.mini_r:
            raise InputError(
                f"mini_r {self.mini_r} does not divide the {n_out} output features of {name} (PEFT's rule)"
            )
