"""BOFT as PEFT runs it without its CUDA extension (``peft/tuners/boft/layer.py``; arXiv 2311.06243)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Number, Whole
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Linear, Method, Module
from .layered import Adapters, integer_shape
from .orthogonal import Blocks, OrthogonalOptions, bmm, exact_cayley


class BoftLinear(Module):
    """y = (W R x) * s + b, where R is block diagonal and written out as a matrix [n_in, n_in].

    boft_R [1, blocks, size, size] has the blocks before the Cayley transform; boft_s is s [n_out, 1].
    PEFT makes a permutation [1, n_in, n_in] on the host and leaves it there when the base is on a GPU. Every forward
    copies it to the GPU, where it is freed again: in PEFT's published runs it takes no memory after a step
    (``docs/measured/published``).
    """

    def __init__(self, build: Builder, base: Linear, boft: Adapters[BoftMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.dropout = boft.options.boft_dropout
        self.n_out, self.n_in = integer_shape(base)
        given = boft.options.boft_block_size or boft.options.boft_block_num
        if self.n_in % given:
            key = "boft_block_size" if boft.options.boft_block_size else "boft_block_num"
            raise InputError(f"{key} {given} does not divide the {self.n_in} inputs of {self.path}; choose a divisor")
        other = self.n_in // given
        count, size = (other, given) if boft.options.boft_block_size else (given, other)
        self.boft_R = build.adapter(f"{self.path}.boft_R", (1, count, size, size), boft.adapter_dtype)
        self.boft_s = build.adapter(f"{self.path}.boft_s", (self.n_out, 1), boft.adapter_dtype)
        self.boft_P = self.ledger.buffer((1, self.n_in, self.n_in), "float32", host=True)

    def cayley(self, data: Tensor) -> Tensor:
        """The orthogonal blocks [blocks, size, size] of R."""
        skew_mat = ops.mul(ops.sub(data, ops.transpose(data, 1, 2)), ops.SCALAR)
        q = exact_cayley(skew_mat)
        return ops.to(q, data.dtype)

    def dropped(self, x: Tensor) -> Tensor:
        """The blocks [1, blocks, size, size], some replaced by the identity (``MultiplicativeDropoutLayer``)."""
        if not self.dropout:
            return x
        mask = self.ledger.empty((1, x.shape[1], 1, 1), "float32")
        full_mask = self.ledger.empty(mask.shape, "float32")
        eye_matrix = self.ledger.empty(x.shape, "float32")
        x = ops.add(ops.mul(ops.add(full_mask, ops.SCALAR), x), ops.mul(full_mask, eye_matrix))
        return x

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype, ledger = x.dtype, self.ledger
        boft_rotation = ledger.empty((self.n_in, self.n_in), previous_dtype)
        boft_scale = ledger.empty((self.n_out, 1), previous_dtype)

        blocks = self.boft_R.shape
        boft_r = ops.view(self.boft_R, blocks[1:])
        orth_rotate_butterfly = ops.view(self.cayley(boft_r), blocks)
        orth_rotate_butterfly = self.dropped(orth_rotate_butterfly)
        orth_rotate_butterfly = ops.select(orth_rotate_butterfly, 0)
        block_diagonal_butterfly = ops.block_diag_of(orth_rotate_butterfly)
        block_diagonal_butterfly = ops.unsqueeze(block_diagonal_butterfly, 0)

        boft_p = ops.from_host(self.boft_P, x.dtype)
        block_diagonal_butterfly = ops.to(block_diagonal_butterfly, x.dtype)
        butterfly_oft_mat_batch = bmm(block_diagonal_butterfly, ops.transpose(boft_p, 1, 2))
        butterfly_oft_mat_batch = bmm(boft_p, butterfly_oft_mat_batch)
        butterfly_oft_mat = ops.select(butterfly_oft_mat_batch, 0)

        boft_rotation = ops.matmul(butterfly_oft_mat, boft_rotation)
        boft_scale = ops.mul(self.boft_s, boft_scale)

        boft_rotation = ops.to(boft_rotation, previous_dtype)
        x_rotated = ops.matmul(x, boft_rotation)
        result: Tensor = self.base_layer(x_rotated)
        bias = self.base_layer.bias
        if bias is not None:
            result = ops.sub(result, bias)
        result = ops.mul(result, ops.view(boft_scale, (self.n_out,)))
        if bias is not None:
            result = ops.add(result, bias)
        result = ops.to(result, previous_dtype)
        return result


class BoftMethod(OrthogonalOptions):
    """BOFT (peft.BOFTConfig)."""

    title: ClassVar[str] = "BOFT"
    linear = BoftLinear
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["boft"] = "boft"
    boft_block_size: Blocks = Field(4, description="rows of a block; 0: from boft_block_num")
    boft_block_num: Blocks = Field(0, description="blocks per module; 0: from boft_block_size")
    boft_n_butterfly_factor: Annotated[Whole, Field(ge=1, le=64)] = Field(
        1, description="butterfly factors (PEFT takes 1 where its CUDA extension is missing, as on a CPU)"
    )
    boft_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(0.0, description="dropout of blocks")
    bias: Literal["none", "all", "boft_only"] = Field("none", description="biases to train")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        self._check_blocks("boft_block_size", "boft_block_num")
        return super().build(config, dtype, rank)
