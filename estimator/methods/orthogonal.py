"""What OFT and BOFT have in common in PEFT: block sizes and the exact Cayley transform."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Whole
from ..ledger import Tensor
from .layered import LayerOptions

Blocks = Annotated[Whole, Field(ge=0, le=10**6)]


class OrthogonalOptions(LayerOptions):
    """Options of methods whose adapter is an orthogonal matrix of blocks on the diagonal."""

    open_sizes: ClassVar[bool] = False

    def _check_blocks(self, first: str, second: str) -> None:
        """Raise ``InputError`` unless one of two keys is 0: the number of blocks and their size exclude each other."""
        values = getattr(self, first), getattr(self, second)
        if not any(values):
            raise InputError(f"{first} and {second} are both 0; give one of them (PEFT's rule)")
        if all(values):
            fields = type(self).model_fields
            default = next(key for key in (first, second) if fields[key].default)
            raise InputError(
                f"{first} {values[0]} and {second} {values[1]} exclude each other; set one of them to 0 "
                f"(PEFT's rule; {default} is {fields[default].default} where it is left out)"
            )


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """``torch.bmm`` [n, m, m], which autocast runs in its own dtype."""
    return ops.bmm(ops.autocast(a), ops.autocast(b))


def exact_cayley(skew: Tensor) -> Tensor:
    """The Cayley transform (I + Q)^-1 (I - Q) of skew-symmetric matrices Q [n, m, m], in float32."""
    id_mat = skew.ledger.empty(skew.shape[1:], "float32")
    id_mat = ops.expand(ops.unsqueeze(id_mat, 0), skew.shape)
    return ops.linalg_solve(ops.add(id_mat, skew), ops.sub(id_mat, skew))
