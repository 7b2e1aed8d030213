"""How linear layers are quantised, and the base class of such layers."""

from __future__ import annotations

from dataclasses import dataclass

from ..ledger import Size, Tensor
from ..programs import Builder, Linear


@dataclass(frozen=True)
class Quantisation:
    """How a model's linear layers are quantised."""

    format: str
    dtype: str
    """The dtype of the weights before quantisation."""
    compute_dtype: str = "float32"
    """The dtype in which 4-bit layers multiply (``bnb_4bit_compute_dtype``)."""
    double_quant: bool = False
    """Whether the block scales of 4-bit layers are quantised too (``bnb_4bit_use_double_quant``)."""
    bitsandbytes: str = "0.50"
    """0.43.1, 0.49 or 0.50: each is the last of the releases whose 4-bit layers run alike."""
    group_size: int = 128
    """Inputs of GPTQ's and AWQ's layers that share a scale and a zero point; -1: all of them."""
    quant_storage: str = "uint8"
    """The dtype of the packed weights (``bnb_4bit_quant_storage``)."""
    quantises_head: bool = False
    """The output embedding is quantised, too."""
    kept: tuple[str, ...] = ()
    """Names of linear layers that are left as they are."""


class QuantLinear(Linear):
    """A frozen linear layer whose weight [n_out, n_in] is stored packed."""

    def __init__(self, build: Builder, base: Quantisation, path: str, n_in: Size, n_out: Size, bias: bool) -> None:
        self.path, self.ledger, self.base = path, build.ledger, base
        self.weight = self.ledger.parameter(
            *(f"{path}.weight", (n_out, n_in), base.quant_storage),
            requires_grad=False,
            nbytes=self.pack(n_out, n_in),
        )
        self.bias = self.make_bias(build, f"{path}.bias", n_out) if bias else None

    def pack(self, n_out: Size, n_in: Size) -> Size:
        """Make the buffers with the constants of quantisation. Returns the bytes of the packed weight."""
        raise NotImplementedError

    def make_bias(self, build: Builder, path: str, n_out: Size) -> Tensor:
        """The bias [n_out]."""
        return build.parameter(path, n_out)
