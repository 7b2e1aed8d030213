"""FourierFT as PEFT runs it (``peft/tuners/fourierft/layer.py``; arXiv 2405.03003)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..fields import Number, Rank, Whole
from ..ledger import Size, Tensor
from ..programs import Builder, Config, Linear, Method, Module
from .layered import Bias, SizedAdapter, name_of, target_shapes
from .options import LayerOptions, Pattern


class FourierFTMethod(LayerOptions):
    """FourierFT (peft.FourierFTConfig)."""

    title: ClassVar[str] = "FourierFT"
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    name: Literal["fourierft"] = "fourierft"
    n_frequency: Rank = Field(1000, description="trained entries of each weight's spectrum")
    scaling: Number = Field(150.0, description="scale of the weight change (no effect on memory)")
    random_loc_seed: Whole | None = Field(777, description="seed of the entries' places (no effect on memory)")
    n_frequency_pattern: dict[Pattern, Rank] | None = Field(None, description="n_frequency for modules by name")
    bias: Bias = Field("none", description="biases to train: none, all or fourier_only")

    def build(self, config: Config, dtype: str, rank: Size | None = None) -> Method:
        method = FourierFT(
            self._targets(config),
            self.n_frequency,
            self.n_frequency_pattern,
            self.bias,
            self.modules_to_save or (),
            self._dtype(dtype),
        )
        for path, (n_out, n_in) in target_shapes(config, method.targets).items():
            if method.size(path) > n_out * n_in:
                raise InputError(
                    f"n_frequency {method.size(path)} is above the {n_out * n_in} entries of "
                    f"{name_of(path)}'s weight (PEFT's rule); lower it"
                )
        return method


class FourierFT(SizedAdapter):
    """y = W x + F x, F the inverse Fourier transform of a spectrum of which a few entries are trained."""

    def adapt(self, build: Builder, base: Module) -> Module:
        assert isinstance(base, Linear)
        return FourierFTLinear(build, base, self)


class FourierFTLinear(Module):
    """A linear layer with fourierft_spectrum [n] and the entries' places, int64 [2, n]."""

    def __init__(self, build: Builder, base: Linear, fourierft: FourierFT) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        count = fourierft.size(base.path)
        self.spectrum = build.adapter(f"{self.path}.fourierft_spectrum", (count,), fourierft.adapter_dtype)
        self.indices = self.ledger.attribute((2, count), "int64", host=True)

    def delta_weight(self) -> Tensor:
        """[n_out, n_in], in the adapter's dtype, computed in float32."""
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
