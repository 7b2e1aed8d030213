"""HRA as PEFT runs it: reflections of a linear layer's input (``peft/tuners/hra/layer.py``; arXiv 2405.17484)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Rank
from ..ledger import Tensor
from ..programs import Builder, Linear, Module
from .layered import Adapters, LayerOptions


class HraLinear(Module):
    """y = W H_1 ... H_r x, with hra_u [n_in, r]: one column for each of the reflections H.

    PEFT multiplies the identity by one reflection after the other. Each product saves tensors of [n_in, n_in].
    """

    def __init__(self, build: Builder, base: Linear, hra: Adapters[HraMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.r, self.apply_GS = hra.options.r, hra.options.apply_GS
        self.n_in = base.weight.shape[1]
        self.hra_u = build.adapter(f"{self.path}.hra_u", (self.n_in, self.r), hra.adapter_dtype)

    def eye(self, dtype: str) -> Tensor:
        """The identity [n_in, n_in]."""
        return self.ledger.empty((self.n_in, self.n_in), dtype)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        new_weight = self.eye("float32")
        delta_weight = self.orthogonalised() if self.apply_GS else self.reflections()
        new_weight = ops.matmul(ops.to(new_weight, delta_weight.dtype), delta_weight)
        orig_weight = self.base_layer.weight.alias()
        orig_weight = ops.to(orig_weight, new_weight.dtype)
        new_weight = ops.matmul(orig_weight, new_weight)
        bias = None if self.base_layer.bias is None else ops.to(self.base_layer.bias, new_weight.dtype)
        x = ops.to(x, new_weight.dtype)
        result = ops.linear(x, new_weight, bias)
        result = ops.to(result, previous_dtype)
        return result

    def reflections(self) -> Tensor:
        """The product of I - 2 u u' over the columns u of hra_u, each divided by its norm."""
        opt_u = ops.div(self.hra_u, ops.linalg_vector_norm(self.hra_u, 0))
        weight = self.eye(opt_u.dtype)
        for _ in range(self.r):
            ui = self.column(opt_u)
            product = ops.matmul(ops.matmul(ops.mul(weight, ops.SCALAR), ui), ops.transpose(ui, 0, 1))
            weight = ops.sub(weight, product)
            del product
        return weight

    def column(self, u: Tensor) -> Tensor:
        """A column as [n_in, 1]."""
        return ops.view(ops.select(u, 1), (self.n_in, 1))

    def orthogonalised(self) -> Tensor:
        """I - 2 Q Q', where Q [n_in, r] has hra_u's columns made orthonormal by Gram-Schmidt."""
        first = ops.select(self.hra_u, 1)
        columns = [ops.view(ops.div(first, ops.linalg_vector_norm(ops.select(self.hra_u, 1))), (self.n_in, 1))]
        del first
        for i in range(1, self.r):
            ui = self.column(self.hra_u)
            for j in range(i):
                ui = ops.sub(ui, ops.mul(ops.matmul(ops.transpose(columns[j], 0, 1), ui), columns[j]))
            columns.append(ops.view(ops.div(ui, ops.linalg_vector_norm(ui)), (self.n_in, 1)))
        weight = ops.cat(tuple(columns), (self.n_in, self.r))
        doubled = ops.matmul(ops.mul(weight, ops.SCALAR), ops.transpose(weight, 0, 1))
        return ops.sub(self.eye(weight.dtype), doubled)


class HraMethod(LayerOptions):
    """HRA (peft.HRAConfig)."""

    title: ClassVar[str] = "HRA"
    linear = HraLinear
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["hra"] = "hra"
    r: Rank = Field(8, description="number of reflections")
    apply_GS: StrictBool = Field(False, description="orthogonalise the reflections (Gram-Schmidt)")  # noqa: N815
    bias: Literal["none", "all", "hra_only"] = Field("none", description="biases to train")
    init_weights: StrictBool = Field(True, description="initialisation (no effect on memory)")
