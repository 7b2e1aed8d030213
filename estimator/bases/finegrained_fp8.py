"""transformers' linear layers and experts of blocks of fp8 weights (``integrations/finegrained_fp8.py``).

Checkpoints are published so, and a GPU of compute capability 8.9 and above runs them as they are. One kernel of Triton
rounds the input and multiplies, so that a product makes its output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ledger import Shape, Size, Tensor, whole
from ..programs import Builder
from .linear import QuantLinear

if TYPE_CHECKING:
    from .linear import Quantisation

BLOCK = 128
"""Inputs, and outputs, of a block that shares a scale (``weight_block_size``)."""
_FP4_GROUP = 32
"""Inputs of an expert's row that share a scale where two fp4 weights are packed into a byte."""
_BYTE_SCALES = ("fp8-blocks-ue8m0", "fp8-blocks-fp4-experts")
"""Formats whose scales are powers of two, in a byte each (``float8_e8m0fnu``). Others are float32."""


class Fp8Linear(QuantLinear):
    """``FP8Linear``: a byte per weight, and a scale per block."""

    def pack(self, n_out: Size, n_in: Size) -> Size:
        n_out, n_in = whole(n_out), whole(n_in)
        self.ledger.constant((-(-n_out // BLOCK), -(-n_in // BLOCK)), _scale(self.base))
        return n_out * n_in

    def forward(self, x: Tensor) -> Tensor:
        return self.ledger.empty((*x.shape[:-1], self.weight.shape[0]), x.dtype)  # the bias is added in place


def experts(build: Builder, base: Quantisation, path: str, shape: Shape) -> Tensor:
    """A parameter [experts, n_out, n_in] of ``FP8Experts`` in the place of one of the same shape, and its scales."""
    count, n_out, n_in = map(whole, shape)
    if base.format == "fp8-blocks-fp4-experts":
        build.ledger.constant((count, n_out, -(-n_in // _FP4_GROUP)), _scale(base))
        nbytes = count * n_out * -(-n_in // 2)
    else:
        build.ledger.constant((count, -(-n_out // BLOCK), -(-n_in // BLOCK)), _scale(base))
        nbytes = count * n_out * n_in
    return build.ledger.parameter(path, shape, base.dtype, requires_grad=False, nbytes=nbytes)


def _scale(base: Quantisation) -> str:
    return "uint8" if base.format in _BYTE_SCALES else "float32"
