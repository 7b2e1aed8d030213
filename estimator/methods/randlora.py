"""RandLoRA as PEFT runs it (``peft/tuners/randlora/layer.py``; arXiv 2502.00987)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Number, Rank
from ..ledger import Call, Size, Tensor, record
from ..operators.table import Kept, saves
from ..programs import Builder, Config, Linear, Method, Module
from .base import Targets
from .layered import Absent, Adapters, Bias, LayerOptions, integer_shape, largest_shape


class RandLoraLinear(Module):
    """A linear layer with randlora_lambda [r, bases] and randlora_gamma [bases, smaller side]."""

    def __init__(self, build: Builder, base: Linear, randlora: RandLora) -> None:
        self.path, self.ledger, self.base_layer, self.p = (
            base.path,
            base.ledger,
            base,
            randlora.options.randlora_dropout,
        )
        self.n_out, self.n_in = integer_shape(base)
        r, dtype = randlora.options.r, randlora.adapter_dtype
        if "randlora_A" not in build.shared:
            size = min(randlora.largest)
            build.shared["randlora_A"] = self.ledger.buffer((r, 1, size), dtype)
            build.shared["randlora_B"] = self.ledger.buffer(
                (max(randlora.largest), bases(*randlora.largest, r), r), dtype
            )
        self.randlora_A, self.randlora_B = build.shared["randlora_A"], build.shared["randlora_B"]
        self.r, self.num_bases = r, bases(self.n_out, self.n_in, r)
        shape = (self.num_bases, min(self.n_out, self.n_in))
        self.randlora_lambda = build.adapter(f"{self.path}.randlora_lambda", (r, self.num_bases), dtype)
        self.randlora_gamma = build.adapter(f"{self.path}.randlora_gamma", shape, dtype)

    def scaled_bases(self) -> tuple[Tensor, Tensor]:
        """The two factors of the update, the one that multiplies the input first; float32."""
        randlora_A = ops.to(self.randlora_A, "float32")
        randlora_B = ops.to(self.randlora_B, "float32")
        randlora_lambda = ops.to(self.randlora_lambda, "float32")
        randlora_gamma = ops.to(self.randlora_gamma, "float32")
        min_dim, max_dim = min(self.n_out, self.n_in), max(self.n_out, self.n_in)
        columns = self.num_bases * self.r
        sliced_A = ops.narrow(randlora_A, -1, min_dim)
        sliced_B = ops.narrow(ops.narrow(randlora_B, 0, max_dim), 1, self.num_bases)
        update_B = ops.reshape(sliced_B, (max_dim, columns))
        update_A = ops.reshape(unique_base(sliced_A, randlora_lambda, randlora_gamma), (columns, min_dim))
        if min_dim == self.n_in:
            return update_A, update_B
        return ops.transpose(update_B, 0, 1), ops.transpose(update_A, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        result: Tensor = self.base_layer(x)
        update_B, update_A = self.scaled_bases()
        x = ops.to(x, update_A.dtype)
        inner = ops.matmul(ops.dropout(x, self.p), ops.transpose(update_B, 0, 1))
        outer = ops.matmul(inner, ops.transpose(update_A, 0, 1))
        del inner
        scaled = ops.mul(outer, ops.SCALAR)
        del outer
        result = ops.add(result, scaled)
        del scaled
        result = ops.to(result, previous_dtype)
        return result


class RandLoraMethod(LayerOptions):
    """RandLoRA (peft.RandLoraConfig)."""

    title: ClassVar[str] = "RandLoRA"
    linear = RandLoraLinear
    open_sizes: ClassVar[bool] = False
    pattern_alone: ClassVar[bool] = True
    text_with_layers: ClassVar[bool] = True
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights", "projection_prng_key", "save_projection"})
    name: Literal["randlora"] = "randlora"
    r: Rank = Field(32, description="rank of the random bases; fewer trainable parameters with a higher one")
    randlora_alpha: Number = Field(640, description="scale numerator (no effect on memory)")
    randlora_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the bases")
    sparse: StrictBool = Field(False, description="sparse random bases, stored densely (no effect on memory)")
    very_sparse: StrictBool = Field(False, description="sparser random bases, stored densely (no effect on memory)")
    bias: Bias = Field("none", description="biases to train: none, all or randlora_only")
    exclude_modules: Absent = None

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        return RandLora(self, self._targets(config), dtype, config)


class RandLora(Adapters[RandLoraMethod]):
    """y = W x + B (lambda A gamma) dropout(x) * scale.

    The bases A and B are random, frozen and shared by all targets, so they have the largest target's size. lambda and
    gamma, which scale the rows and columns of A, are trained.
    """

    def __init__(self, options: RandLoraMethod, targets: Targets, dtype: str, config: Config) -> None:
        super().__init__(options, targets, dtype)
        self.largest = largest_shape(config, targets)


def bases(n_out: int, n_in: int, r: int) -> int:
    """How many bases of rank ``r`` it takes for the full rank of a weight [n_out, n_in]."""
    return -(-min(n_out, n_in) // r)


@saves(
    "UniqueBaseGradBackward",
    Kept("its base", (-2, -1)),
    Kept("lambda", (-1,)),
    Kept("gamma", (-2,)),
    inputs=("base", "lambda", "gamma"),
)
def unique_base(base: Tensor, row_scale: Tensor, column_scale: Tensor) -> Tensor:
    """PEFT's ``UniqueBaseGrad``: base [r, 1, n], lambda [r, bases], gamma [bases, n] -> [r, bases, n]."""

    def make() -> Tensor:
        with base.ledger.no_grad():
            return ops.mul(ops.mul(ops.unsqueeze(row_scale, 2), base), ops.unsqueeze(column_scale, 0))

    tensors = (base, row_scale, column_scale)
    return record("UniqueBaseGradBackward", make, tensors, tensors, _unique_base_backward)


def _unique_base_backward(call: Call) -> ops.Grads:
    # Two einsums of three factors. Without opt_einsum PyTorch evaluates each from the left: an elementwise product
    # of the gradient's size, then a batched matrix product.
    ledger, (base, _, column_scale) = call.ledger, call.saved
    r, (count, size) = base.shape[0], column_scale.shape
    product = ledger.empty((r, count, size), "float32")
    grad_lambda = ledger.empty((r, count), "float32", (1, r))
    del product
    product = ledger.empty((r, count, size), "float32")
    grad_gamma = ledger.empty((count, size), "float32")
    del product
    return None, grad_lambda, grad_gamma
