"""torchao's weight-only linear layers (``quantization/quantize_/workflows`` of 0.18).

They dequantise and multiply in Python with autograd's operators. So autograd saves the whole dequantised weight for
the gradient of the input.
"""

from __future__ import annotations

from .. import operators as ops
from ..ledger import Size, Tensor
from .linear import QuantLinear


class Int8Linear(QuantLinear):
    """``Int8WeightOnlyConfig``: a byte per weight, a float32 scale and an int8 zero point per row.

    The weight is cast to the input's dtype, and the product is scaled (``int8/int8_tensor.py``).
    """

    def pack(self, n_out: Size, n_in: Size) -> Size:
        self.scale = self.ledger.constant((n_out,), "float32")
        self.ledger.constant((n_out,), "int8")  # zero point
        return n_out * n_in

    def forward(self, x: Tensor) -> Tensor:
        output_dtype = x.dtype
        m = ops.linear(x, self.ledger.empty(self.weight.shape, output_dtype))
        y = ops.mul(m, ops.to(self.scale, m.dtype))
        if self.bias is not None:
            y = ops.add_(ops.view(y, y.shape), self.bias)  # y.reshape(...)
        return ops.to(y, output_dtype)


class Float8Linear(QuantLinear):
    """``Float8WeightOnlyConfig``: a float8 per weight and a float32 scale per row.

    The weight is dequantised in float32 (``float8/float8_tensor.py``).
    """

    def pack(self, n_out: Size, n_in: Size) -> Size:
        self.scale = self.ledger.constant((n_out, 1), "float32")
        return n_out * n_in

    def dequantize(self) -> Tensor:
        """The weight in its dtype before it was quantised."""
        fp8_tensor = self.ledger.empty(self.weight.shape, "float32")
        hp_tensor = ops.mul(fp8_tensor, self.scale)
        return ops.to(hp_tensor, self.base.dtype)

    def forward(self, x: Tensor) -> Tensor:
        out = ops.linear(x, self.dequantize())
        return out if self.bias is None else ops.add(out, self.bias)
