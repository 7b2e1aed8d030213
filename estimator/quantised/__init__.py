"""Bases whose linear layers are held in fewer bits: what is resident, saved and dequantised.

One file per library. As transformers does, every linear layer but the output embedding is quantised
(``quantizers/base.py: get_keys_to_not_convert``). Packed weights count as parameters; the constants
that dequantise them (scales, zero points, code tables) are neither parameters nor buffers to PyTorch,
or one of them by chance: here they all count as buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from ..ledger.sizes import Size
from .base import Base, QuantLinear
from .bitsandbytes import Linear4bit, Linear8bitLt
from .packed import AwqLinear, GptqLinear
from .torchao import Float8Linear, Int8Linear

if TYPE_CHECKING:
    from ..modules import Builder

Format = Literal["nf4", "fp4", "int8", "gptq", "awq", "int8-weight-only", "float8"]
FORMATS: tuple[str, ...] = get_args(Format)
FOUR_BIT = ("nf4", "fp4")
BITSANDBYTES = (*FOUR_BIT, "int8")
TORCHAO = ("int8-weight-only", "float8")
UPCAST = (*BITSANDBYTES, "awq")
"""Formats beside which ``prepare_model_for_kbit_training`` casts 16-bit parameters to float32."""
OPEN_SIZES = ("int8", *TORCHAO)
"""Formats whose bytes are polynomials of the sizes: those without blocks."""

_LINEAR: dict[str, type[QuantLinear]] = {
    "nf4": Linear4bit,
    "fp4": Linear4bit,
    "int8": Linear8bitLt,
    "gptq": GptqLinear,
    "awq": AwqLinear,
    "int8-weight-only": Int8Linear,
    "float8": Float8Linear,
}

__all__ = [
    "BITSANDBYTES",
    "FORMATS",
    "FOUR_BIT",
    "OPEN_SIZES",
    "TORCHAO",
    "UPCAST",
    "Base",
    "Format",
    "QuantLinear",
    "quant_linear",
]


def quant_linear(build: Builder, base: Base, path: str, n_in: Size, n_out: Size, bias: bool) -> QuantLinear:
    """The linear layer that stands for ``nn.Linear`` at ``path``."""
    return _LINEAR[base.format](build, base, path, n_in, n_out, bias)
