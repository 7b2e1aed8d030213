"""What quantised linear layers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ledger import Tensor
from ..ledger.sizes import Size
from ..programs.modules import Linear

if TYPE_CHECKING:
    from ..programs.modules import Builder
    from .formats import Base


class QuantLinear(Linear):
    """A frozen linear layer: weight [n_out, n_in] as it reads, packed as it is held."""

    def __init__(self, build: Builder, base: Base, path: str, n_in: Size, n_out: Size, bias: bool) -> None:
        self.path, self.ledger, self.base = path, build.ledger, base
        self.weight = self.ledger.parameter(
            f"{path}.weight", (n_out, n_in), "uint8", requires_grad=False, nbytes=self.pack(n_out, n_in)
        )
        self.bias = self.make_bias(build, f"{path}.bias", n_out) if bias else None

    def pack(self, n_out: Size, n_in: Size) -> Size:
        """Make the resident constants; the bytes of the packed weight."""
        raise NotImplementedError

    def make_bias(self, build: Builder, path: str, n_out: Size) -> Tensor:
        """The bias [n_out]."""
        return build.parameter(path, n_out)
