"""The base class of quantised linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ledger import Size, Tensor
from ..programs import Builder, Linear

if TYPE_CHECKING:
    from .formats import Base


class QuantLinear(Linear):
    """A frozen linear layer whose weight [n_out, n_in] is stored packed."""

    def __init__(self, build: Builder, base: Base, path: str, n_in: Size, n_out: Size, bias: bool) -> None:
        self.path, self.ledger, self.base = path, build.ledger, base
        self.weight = self.ledger.parameter(
            f"{path}.weight", (n_out, n_in), "uint8", requires_grad=False, nbytes=self.pack(n_out, n_in)
        )
        self.bias = self.make_bias(build, f"{path}.bias", n_out) if bias else None

    def pack(self, n_out: Size, n_in: Size) -> Size:
        """Make the buffers with the constants of quantisation. Returns the bytes of the packed weight."""
        raise NotImplementedError

    def make_bias(self, build: Builder, path: str, n_out: Size) -> Tensor:
        """The bias [n_out]."""
        return build.parameter(path, n_out)
