"""Bases whose linear layers are held in fewer bits: what is resident, saved and dequantised.

One file per library. As transformers does, every linear layer but the output embedding is quantised
(``quantizers/base.py: get_keys_to_not_convert``). Packed weights count as parameters; the constants
that dequantise them (scales, zero points, code tables) are neither parameters nor buffers to PyTorch,
or one of them by chance: here they all count as buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from ..ledger.sizes import Size
from .bitsandbytes import Linear4bit, Linear8bitLt
from .linear import QuantLinear
from .packed import AwqLinear, GptqLinear
from .torchao import Float8Linear, Int8Linear

if TYPE_CHECKING:
    from ..programs.modules import Builder

Format = Literal["nf4", "fp4", "int8", "gptq", "awq", "int8-weight-only", "float8"]
FORMATS: tuple[str, ...] = get_args(Format)
FOUR_BIT = ("nf4", "fp4")
BITSANDBYTES = (*FOUR_BIT, "int8")
TORCHAO = ("int8-weight-only", "float8")
UPCAST = (*BITSANDBYTES, "awq")
"""Formats beside which ``prepare_model_for_kbit_training`` casts 16-bit parameters to float32."""
OPEN_SIZES = ("int8", *TORCHAO)
"""Formats whose bytes are polynomials of the sizes: those without blocks."""


@dataclass(frozen=True)
class Base:
    """How a model's linear layers are held."""

    format: str
    dtype: str
    """Of the weights before they were quantised."""
    compute_dtype: str = "float32"
    """Of the products of 4-bit layers (``bnb_4bit_compute_dtype``)."""
    double_quant: bool = False
    """Block scales of 4-bit layers are quantised too (``bnb_4bit_use_double_quant``)."""
    bitsandbytes: str = "0.50"
    """The last release of those whose 4-bit layers run alike: 0.43.1, 0.49 or 0.50."""

    def linear(self, build: Builder, path: str, n_in: Size, n_out: Size, bias: bool) -> QuantLinear:
        """The linear layer that stands for ``nn.Linear`` at ``path``."""
        return _LINEAR[self.format](build, self, path, n_in, n_out, bias)


_LINEAR: dict[str, type[QuantLinear]] = {
    "nf4": Linear4bit,
    "fp4": Linear4bit,
    "int8": Linear8bitLt,
    "gptq": GptqLinear,
    "awq": AwqLinear,
    "int8-weight-only": Int8Linear,
    "float8": Float8Linear,
}
