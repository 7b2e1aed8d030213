"""FourierFT as PEFT runs it (``peft/tuners/fourierft/layer.py``; arXiv 2405.03003)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Number, Rank, Whole
from ..ledger import Size, Tensor, whole
from ..programs import Builder, Linear, Module
from . import patterns
from .layered import Adapters, Bias, LayerOptions, name_of
from .options import Pattern


class FourierFTLinear(Module):
    """y = W x + F x, where F [n_out, n_in] is the inverse Fourier transform of a spectrum with n trained entries.

    fourierft_spectrum [n] has the entries; their indices in the spectrum are int64 [2, n], on the host.
    """

    def __init__(self, build: Builder, base: Linear, fourierft: Adapters[FourierFTMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        count = fourierft.size_at(base.path)
        self.spectrum = build.adapter(f"{self.path}.fourierft_spectrum", (count,), fourierft.adapter_dtype)
        self.indices = self.ledger.attribute((2, count), "int64", host=True)

    def delta_weight(self) -> Tensor:
        """F [n_out, n_in], computed in float32, in the adapter's dtype."""
        indices = ops.from_host(self.indices, "int64")
        dense_spectrum = self.ledger.empty(self.base_layer.weight.shape, "float32")
        dense_spectrum = ops.index_put_(dense_spectrum, (indices,), ops.to(self.spectrum, "float32"))
        delta_weight = ops.mul(ops.real(ops.fft_ifft2(dense_spectrum)), ops.SCALAR)
        return ops.to(delta_weight, self.spectrum.dtype)

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        result: Tensor = self.base_layer(x)
        delta_w = self.delta_weight()
        x = ops.to(x, delta_w.dtype)
        result = ops.add(result, ops.linear(x, delta_w))
        result = ops.to(result, previous_dtype)
        return result


class FourierFTMethod(LayerOptions):
    """FourierFT (peft.FourierFTConfig)."""

    title: ClassVar[str] = "FourierFT"
    linear = FourierFTLinear
    size_key = "n_frequency"
    pattern_key = "n_frequency_pattern"
    pattern_form = patterns.BELOW
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    name: Literal["fourierft"] = "fourierft"
    n_frequency: Rank = Field(1000, description="trained entries of each weight's spectrum")
    scaling: Number = Field(150.0, description="scale of the weight change (no effect on memory)")
    random_loc_seed: Whole | None = Field(777, description="seed of the entries' indices (no effect on memory)")
    n_frequency_pattern: dict[Pattern, Rank] | None = Field(None, description="n_frequency for modules by name")
    bias: Bias = Field("none", description="biases to train: none, all or fourier_only")

    def check_target(self, path: str, n_out: int, n_in: int, size: Size) -> None:
        if whole(size) > n_out * n_in:
            raise InputError(
                f"n_frequency {size} is above the {n_out * n_in} entries of {name_of(path)}'s weight "
                "(PEFT's rule); lower it"
            )
