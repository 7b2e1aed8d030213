"""GPTQ and AWQ linear layers: eight 4-bit weights in an int32, a zero point and a scale per group of inputs.

The tensors are those of the published formats: GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel write it, and
AWQ (arXiv 2306.00978) in AutoAWQ's GEMM layout. The arithmetic is that of the kernels that can train, GPTQModel's
``TorchLinear`` and ``AwqTorchLinear``, uncompiled: unpack, subtract the zero point, scale, multiply. Autograd saves
the dequantised weight for the product.
"""

from __future__ import annotations

from .. import operators as ops
from ..errors import InputError
from ..ledger import Shape, Size, Tensor, whole
from ..programs import Builder
from .linear import Quantisation, QuantLinear

PER_INT32 = 8


class PackedLinear(QuantLinear):
    """Buffers of both formats: qzeros [groups, n_out / 8], scales [groups, n_out] and qweight, which is the weight."""

    def __init__(self, build: Builder, base: Quantisation, path: str, n_in: Size, n_out: Size, bias: bool) -> None:
        super().__init__(build, base, path, n_in, n_out, bias)
        self.ledger.buffers.append(self.weight)  # as the libraries register it

    def pack(self, n_out: Size, n_in: Size) -> Size:
        n_in, n_out = whole(n_in), whole(n_out)
        group = n_in if self.base.group_size == -1 else self.base.group_size
        if n_in % group or n_in % PER_INT32 or n_out % PER_INT32:
            raise InputError(
                f"{self.path} is {n_in} -> {n_out}: {self.base.format} packs inputs in groups of {group} "
                f"and outputs by {PER_INT32}; choose another dtype"
            )
        self.groups: Shape = (n_in // group, n_out)
        self.ledger.buffer((n_in // group, n_out // PER_INT32), "int32")  # qzeros
        self.scales = self.ledger.buffer(self.groups, self.scales_dtype())
        return n_in * n_out // 2

    def make_bias(self, build: Builder, path: str, n_out: Size) -> Tensor:
        return self.ledger.buffer((n_out,), self.scales_dtype())

    def scales_dtype(self) -> str:
        """The dtype of scales, biases and dequantised weights."""
        return self.base.dtype

    def unpack(self, shape: Shape) -> Tensor:
        """``(packed >> shifts).to(int8)``: a byte per value."""
        return ops.to(self.ledger.empty(shape, "int32"), "int8")


class GptqLinear(PackedLinear):
    """Has two more buffers: ``g_idx``, the group of each input, and the shifts that unpack an int32."""

    def pack(self, n_out: Size, n_in: Size) -> Size:
        self.ledger.buffer((n_in,), "int32")
        self.ledger.buffer((PER_INT32,), "int32")
        return super().pack(n_out, n_in)

    def dequantize(self) -> Tensor:
        """The weight, [n_in, n_out]."""
        n_out, n_in = self.weight.shape
        index = self.ledger.empty((n_in,), "int64")
        zeros = self.masked(self.groups)
        weight = self.masked((n_in, n_out))
        scales = self.ledger.empty((n_in, n_out), self.scales.dtype)
        spread = self.ledger.empty((n_in, n_out), "int8")  # zeros[index]
        shifted = self.ledger.empty((n_in, n_out), "int8")  # weight - spread
        del spread
        out = ops.mul(scales, shifted)
        del index, zeros, weight
        return out

    def masked(self, shape: Shape) -> Tensor:
        """``unpacked & 15``."""
        byte = self.unpack(shape)
        masked = self.ledger.empty(shape, "int8")
        del byte
        return masked

    def forward(self, x: Tensor) -> Tensor:
        weights = ops.to(self.dequantize(), x.dtype)
        out = ops.linear(x, ops.transpose(weights, 0, 1))
        if self.bias is not None:
            out = ops.add_(ops.view(out, out.shape), self.bias)  # torch.matmul(...).reshape(...)
        return out


class AwqLinear(PackedLinear):
    """Has its 4-bit weights interleaved. Computes in 16 bits: in float16 where the input is float32."""

    def scales_dtype(self) -> str:
        return "float16" if self.base.dtype == "float32" else self.base.dtype

    def dequantize(self, dtype: str) -> Tensor:
        """The weight, [n_in, n_out]."""
        n_out, n_in = self.weight.shape
        weight = self.ordered((n_in, n_out))
        zeros = self.ordered(self.groups)
        scales = self.ledger.empty((n_in, n_out), dtype)  # repeat_interleave
        zeros = self.ledger.empty((n_in, n_out), "int8")
        shifted = self.ledger.empty((n_in, n_out), "int8")  # weight - zeros
        out = ops.mul(shifted, scales)
        del weight, zeros
        return out

    def ordered(self, shape: Shape) -> Tensor:
        """``unpacked[..., order] & 15``."""
        byte = self.unpack(shape)
        ordered = self.ledger.empty(shape, "int8")
        del byte
        masked = self.ledger.empty(shape, "int8")
        del ordered
        return masked

    def forward(self, x: Tensor) -> Tensor:
        input_dtype = x.dtype
        x = ops.to(x, "float16" if input_dtype == "float32" else input_dtype)
        weight = self.dequantize(x.dtype)
        out = ops.linear(x, ops.transpose(weight, 0, 1))
        if self.bias is not None:
            out = ops.add(out, self.bias)
        out = ops.to(out, input_dtype)
        return out
