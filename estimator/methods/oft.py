"""OFT as PEFT runs it (``peft/tuners/oft/layer.py``; arXiv 2306.07280)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Number, Whole
from ..ledger import Size, Tensor, whole
from ..programs import Builder, Config, Embedding, Linear, Method, Module
from ..programs.module_table import Kind
from .layered import Adapters
from .orthogonal import Blocks, OrthogonalOptions, bmm, exact_cayley


def divisor(features: int, wanted: int) -> int:
    """PEFT's replacement for a number that does not divide ``features`` (``adjust_oft_parameters``)."""
    if wanted >= features:
        return features
    higher = next(n for n in range(wanted, features + 1) if features % n == 0)
    lower = next(n for n in range(wanted, 0, -1) if features % n == 0)
    return lower if wanted - lower <= higher - wanted else higher


class Rotation(Module):
    """R x (``OFTRotationModule``): R is block diagonal, each block the Cayley transform of a skew-symmetric matrix.

    weight [blocks, n] has the n numbers above the diagonal of each of these matrices.
    """

    def __init__(self, build: Builder, path: str, features: Size, oft: Adapters[OftMethod]) -> None:
        self.path, self.ledger, self.options = path, build.ledger, oft.options
        features = whole(features)
        if self.options.r:
            self.size = features // divisor(features, self.options.r)
        else:
            self.size = divisor(features, self.options.oft_block_size)
        self.count = features // self.size
        elements = self.size * (self.size - 1) // 2
        blocks = 1 if self.options.block_share else self.count
        self.weight = build.adapter(f"{path}.weight", (blocks, elements), oft.adapter_dtype)
        # A series of one term is the identity, so no gradient reaches the weight.
        self.weight.unreached = self.options.use_cayley_neumann and self.options.num_cayley_neumann_terms == 1
        self.rows_and_cols = self.ledger.buffer((2, elements), "int64")

    def skew_symmetric(self, vec: Tensor) -> Tensor:
        """The skew-symmetric matrices [blocks, size, size] of the numbers above their diagonals."""
        matrix = self.ledger.empty((vec.shape[0], self.size, self.size), vec.dtype)
        row = ops.view_of(self.rows_and_cols, self.rows_and_cols.shape[1:], (1,))
        matrix = ops.index_put_(matrix, (row, row), vec)
        matrix = ops.sub(matrix, ops.transpose(matrix, -2, -1))
        return matrix

    def cayley(self, q: Tensor) -> Tensor:
        """The blocks of R, [blocks, size, size]."""
        previous_dtype = q.dtype
        q_skew = self.skew_symmetric(q)
        r = self.neumann(q_skew) if self.options.use_cayley_neumann else exact_cayley(q_skew)
        return ops.to(r, previous_dtype)

    def neumann(self, q_skew: Tensor) -> Tensor:
        """The Cayley transform as a series, summed in place."""
        terms = self.options.num_cayley_neumann_terms
        r = ops.repeat(self.ledger.empty((self.size, self.size), q_skew.dtype), q_skew.shape[0], 1, 1)
        if terms > 1:
            r = ops.add_(r, q_skew, scaled=True)
        if terms > 2:
            q_squared = bmm(q_skew, q_skew)
            r = ops.add_(r, q_squared, scaled=True)
            q_power = q_squared
            for _ in range(3, terms - 1):
                q_power = bmm(q_power, q_skew)
                r = ops.add_(r, q_power, scaled=True)
            q_power = bmm(q_power, q_skew)
            r = ops.add_(r, q_power)
        return r

    def project(self, q: Tensor) -> Tensor:
        """COFT's projection of the weight, outside the graph (``_project_batch``)."""
        oft_r = self.skew_symmetric(q)
        zeros = ops.expand(self.ledger.empty((1, self.size, self.size), oft_r.dtype), oft_r.shape)
        diff = ops.sub(oft_r, zeros)
        ops.sub(oft_r, zeros)  # for the norm
        norm_diff = self.ledger.empty((q.shape[0], 1, 1), oft_r.dtype)
        mask = self.ledger.empty(norm_diff.shape, "bool")
        projected = ops.add(zeros, ops.mul(ops.div(diff, norm_diff), ops.SCALAR))
        out = self.ledger.empty(oft_r.shape, oft_r.dtype)  # torch.where
        del projected, mask
        return self.ledger.empty(q.shape, out.dtype)

    def forward(self, x: Tensor) -> Tensor:
        required_dtype = x.dtype
        x = ops.to(x, self.weight.dtype)
        if self.options.coft:
            with self.ledger.no_grad():
                self.project(self.weight)
        orth_rotate = self.cayley(self.weight)
        folded_shape = x.shape
        x_reshaped = ops.reshape(x, (*x.shape[:-1], self.count, self.size))
        if self.options.block_share:
            orth_rotate = ops.repeat(orth_rotate, self.count, 1, 1)
        x_rotated_reshaped = ops.einsum("...rk,rkc->...rc", x_reshaped, orth_rotate)
        x_rotated = ops.reshape(x_rotated_reshaped, folded_shape)
        return ops.to(x_rotated, required_dtype)


class OftLinear(Module):
    """y = W (R x)."""

    def __init__(self, build: Builder, base: Linear, oft: Adapters[OftMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.oft_R = Rotation(build, f"{self.path}.oft_R", base.weight.shape[1], oft)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        x = ops.to(x, self.oft_R.weight.dtype)
        x = self.oft_R(x)
        result: Tensor = self.base_layer(ops.to(x, previous_dtype))
        result = ops.to(result, previous_dtype)
        return result


class OftEmbedding(Module):
    """y = R (the embedding of x)."""

    def __init__(self, build: Builder, base: Embedding, oft: Adapters[OftMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        self.weight = base.weight
        self.oft_embedding_R = Rotation(build, f"{self.path}.oft_embedding_R", base.weight.shape[1], oft)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.base_layer(ids)
        out_dtype = result.dtype
        result = ops.to(result, self.oft_embedding_R.weight.dtype)
        result = self.oft_embedding_R(result)
        return ops.to(result, out_dtype)


class OftMethod(OrthogonalOptions):
    """OFT (peft.OFTConfig)."""

    title: ClassVar[str] = "OFT"
    linear = OftLinear
    embedding = OftEmbedding
    adapted: ClassVar[tuple[Kind, ...]] = ("linear", "embedding")
    rank_key: ClassVar[str] = "oft_block_size"
    harmless: ClassVar[frozenset[str]] = frozenset({"eps", "init_weights"})
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["oft"] = "oft"
    r: Blocks = Field(0, description="blocks per module; 0: from oft_block_size")
    oft_block_size: Blocks = Field(32, description="rows of a block; 0: from r")
    module_dropout: Annotated[Number, Field(ge=0, lt=1)] = Field(
        0.0, description="dropout of blocks (PEFT's forward does not apply it: no effect on memory)"
    )
    bias: Literal["none", "all", "oft_only"] = Field("none", description="biases to train")
    coft: StrictBool = Field(False, description="constrained OFT: project the blocks in every forward")
    block_share: StrictBool = Field(False, description="all blocks of a module are the same trained block")
    use_cayley_neumann: StrictBool = Field(True, description="approximate the Cayley transform by a Neumann series")
    num_cayley_neumann_terms: Annotated[Whole, Field(ge=1, le=1000)] = Field(5, description="terms of the series")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        self._check_blocks("r", "oft_block_size")
        return super().build(config, dtype, rank)
