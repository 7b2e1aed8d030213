"""What OFT and BOFT have in common in PEFT: block sizes, biases, the exact Cayley transform."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..fields import Whole
from ..ledger import Tensor
from .base import AdapterMethod
from .options import LayerOptions

Blocks = Annotated[Whole, Field(ge=0, le=10**6)]


class OrthogonalOptions(LayerOptions):
    """Options of the orthogonal methods."""

    open_sizes: ClassVar[bool] = False


class Orthogonal(AdapterMethod):
    """y = W (R x) with an orthogonal R; may train biases."""

    def __init__(self, biases: Literal["none", "all", "targets"], **common: Any) -> None:
        super().__init__(**common)
        self.biases = biases

    def trains(self, path: str) -> bool:
        module, _, name = path.rpartition(".")
        return name == "bias" and (self.biases == "all" or (self.biases == "targets" and module in self.targets))


def exact_cayley(skew: Tensor) -> Tensor:
    """(I + Q)^-1 (I - Q) of matrices [n, m, m], in float32."""
    id_mat = skew.ledger.empty(skew.shape[1:], "float32")
    id_mat = ops.expand(ops.unsqueeze(id_mat, 0), skew.shape)
    return ops.linalg_solve(ops.add(id_mat, skew), ops.sub(id_mat, skew))
