"""The quantised formats of a base model, and the linear layer of each.

Every linear layer but the output embedding and the last parameter is quantised, as transformers does
(``quantizers/base.py: get_keys_to_not_convert``). Lightning quantises these, too. Packed weights count as parameters.
The constants that dequantise them (scales, zero points, code tables) count as buffers here, whatever the library makes
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..ledger import Shape, Size, Tensor
from ..programs import Builder
from .bitsandbytes import Linear4bit, Linear8bitLt
from .finegrained_fp8 import Fp8Linear, experts
from .linear import Quantisation, QuantLinear
from .packed import AwqLinear, GptqLinear
from .torchao import Float8Linear, Int8Linear

Format = Literal[
    "nf4",
    "fp4",
    "int8",
    "gptq",
    "awq",
    "int8-weight-only",
    "float8",
    "fp8-blocks",
    "fp8-blocks-ue8m0",
    "fp8-blocks-fp4-experts",
]
FORMATS: tuple[str, ...] = get_args(Format)
FOUR_BIT = ("nf4", "fp4")
BITSANDBYTES = (*FOUR_BIT, "int8")
TORCHAO = ("int8-weight-only", "float8")
PACKED = ("gptq", "awq")
FP8_BLOCKS = ("fp8-blocks", "fp8-blocks-ue8m0", "fp8-blocks-fp4-experts")
"""Formats of which a GPU runs a published checkpoint as it is: its experts are quantised, too."""
UPCAST = (*BITSANDBYTES, "awq")
"""Formats with which ``prepare_model_for_kbit_training`` casts the 16-bit parameters to float32."""
OPEN_SIZES = ("int8", *TORCHAO)
"""Formats whose bytes are polynomials of the layer's sizes: they have no blocks."""
KEPT: dict[str, tuple[str, ...]] = dict.fromkeys(("t5", "mt5", "umt5", "udop", "pop2piano"), ("wo",))
"""Linear layers that classes of transformers leave as they are (``_keep_in_fp32_modules``), by model types."""


@dataclass(frozen=True)
class Base(Quantisation):
    """A quantised base: its format decides which layers it has."""

    def linear(self, build: Builder, path: str, n_in: Size, n_out: Size, bias: bool) -> QuantLinear:
        """The layer that takes the place of ``nn.Linear`` at ``path``."""
        return _LINEAR[self.format](build, self, path, n_in, n_out, bias)

    def expert(self, build: Builder, path: str, shape: Shape) -> Tensor:
        """A parameter at ``path`` that holds a weight of all experts of a layer."""
        if self.format in FP8_BLOCKS:
            return experts(build, self, path, shape)
        return build.parameter(path, *shape)


_LINEAR: dict[str, type[QuantLinear]] = {
    "nf4": Linear4bit,
    "fp4": Linear4bit,
    "int8": Linear8bitLt,
    "gptq": GptqLinear,
    "awq": AwqLinear,
    "int8-weight-only": Int8Linear,
    "float8": Float8Linear,
    **dict.fromkeys(FP8_BLOCKS, Fp8Linear),
}
