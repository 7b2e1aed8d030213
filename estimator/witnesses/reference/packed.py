"""GPTQ and AWQ layers in plain PyTorch, for machines without their libraries.

They have the tensors of the published formats, with random values, and the arithmetic of ``bases/packed.py``.
"""

from __future__ import annotations

from typing import Any

import torch

from ...bases.packed import PER_INT32

ORDER = [0, 4, 1, 5, 2, 6, 3, 7]
"""The order that undoes AWQ's interleaving."""


class PackedLinear(torch.nn.Module):  # type: ignore[misc]
    """Takes the place of a linear layer. All its tensors are buffers."""

    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: Any, qweight_shape: tuple[int, int], dtype: torch.dtype, group_size: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.group_size = self.in_features if group_size == -1 else group_size
        groups = self.in_features // self.group_size

        def packed(*shape: int) -> torch.Tensor:
            return torch.randint(0, 2**31, shape, dtype=torch.int32)

        self.register_buffer("qweight", packed(*qweight_shape))
        self.register_buffer("qzeros", packed(groups, self.out_features // PER_INT32))
        self.register_buffer("scales", torch.rand(groups, self.out_features).to(dtype) * 0.01)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().to(dtype))

    @property
    def shifts(self) -> torch.Tensor:
        """The shift in bits of each value in an int32."""
        return torch.arange(0, 32, 4, dtype=torch.int32)


class GptqLinear(PackedLinear):
    """Packs along the inputs. ``g_idx`` is the group of each input."""

    def __init__(self, linear: Any, dtype: torch.dtype, group_size: int) -> None:
        super().__init__(linear, (linear.in_features // PER_INT32, linear.out_features), dtype, group_size)
        self.register_buffer("g_idx", torch.arange(self.in_features, dtype=torch.int32) // self.group_size)
        self.register_buffer("table", super().shifts)

    def dequantize(self) -> torch.Tensor:
        """The weight, [n_in, n_out]."""
        index = self.g_idx.long()
        zeros = ((self.qzeros.unsqueeze(2) >> self.table).to(torch.int8) & 15).reshape(self.scales.shape)
        weight = (self.qweight.unsqueeze(1) >> self.table.unsqueeze(1)).to(torch.int8) & 15
        return self.scales[index] * (weight.reshape(self.in_features, -1) - zeros[index])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out_shape = (*x.shape[:-1], self.out_features)
        weights = self.dequantize().to(x.dtype)
        out = torch.matmul(x.reshape(-1, x.shape[-1]), weights).reshape(out_shape)
        if self.bias is not None:
            out += self.bias
        return out


class AwqLinear(PackedLinear):
    """Packs along the outputs, in AWQ's order."""

    def __init__(self, linear: Any, dtype: torch.dtype, group_size: int) -> None:
        half = torch.float16 if dtype == torch.float32 else dtype
        super().__init__(linear, (linear.in_features, linear.out_features // PER_INT32), half, group_size)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """A byte per value, [rows, n_out]."""
        byte = (packed.unsqueeze(2) >> self.shifts).to(torch.int8)
        byte = byte[:, :, ORDER]
        return byte.view(packed.shape[0], -1) & 15

    def dequantize(self) -> torch.Tensor:
        """The weight, [n_in, n_out]."""
        weight, zeros = self.unpack(self.qweight), self.unpack(self.qzeros)
        scales = self.scales.repeat_interleave(self.group_size, dim=0)
        zeros = zeros.repeat_interleave(self.group_size, dim=0)
        return (weight - zeros) * scales

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        input_dtype, out_shape = x.dtype, (*x.shape[:-1], self.out_features)
        x = x.reshape(-1, x.shape[-1])
        x = x if x.dtype in (torch.float16, torch.bfloat16) else x.half()
        if self.scales.dtype != x.dtype:
            self.scales = self.scales.to(x.dtype)
            self.bias = None if self.bias is None else self.bias.to(x.dtype)
        weight = self.dequantize()
        out = torch.matmul(x, weight)
        if self.bias is not None:
            out = out + self.bias
        return out.to(input_dtype).reshape(out_shape)
