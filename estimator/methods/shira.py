"""SHiRA as PEFT runs it (``peft/tuners/shira/layer.py``; arXiv 2406.13175)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Rank, Whole
from ..ledger import Size, Tensor
from ..programs import Builder, Linear, Module
from .layered import Absent, AdapterOptions, Adapters, name_of


class ShiraLinear(Module):
    """y = (W + S) x, where S is sparse; every forward computes a new weight W + S.

    shira_weight [r * (n_in + n_out)] has the trained entries of S. Their indices, int32 [2, r * (n_in + n_out)], are
    an attribute that no operator saves. The first forward moves it to the weight's device (``get_delta_weight``).
    """

    def __init__(self, build: Builder, base: Linear, shira: Adapters[ShiraMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        n_out, n_in = base.weight.shape
        count = shira.size * (n_in + n_out)
        self.shira_weight = build.adapter(f"{self.path}.shira_weight", (count,), shira.adapter_dtype)
        self.shira_indices = self.ledger.attribute((2, count), "int32")

    def forward(self, x: Tensor) -> Tensor:
        new_weight = ops.clone(self.base_layer.weight)
        new_weight = ops.add_sparse_(new_weight, ops.mul(self.shira_weight, ops.SCALAR))
        result: Tensor = ops.linear(x, new_weight, self.base_layer.bias)
        return result


class ShiraMethod(AdapterOptions):
    """SHiRA (peft.ShiraConfig)."""

    plain_saved: ClassVar[bool] = False
    title: ClassVar[str] = "SHiRA"
    linear = ShiraLinear
    opens_rank = True
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["shira"] = "shira"
    r: Rank = Field(32, description="rank of the LoRA that has as many trainable parameters")
    mask_type: Literal["random"] = Field("random", description="which entries of the weight train")
    random_seed: Whole | None = Field(None, description="seed of the random mask (no effect on memory)")
    exclude_modules: Absent = None

    def check_target(self, path: str, n_out: int, n_in: int, size: Size) -> None:
        if self.r * (n_out + n_in) > n_out * n_in:
            raise InputError(
                f"r {self.r} trains {self.r * (n_out + n_in)} entries, but {name_of(path)}'s weight has "
                f"{n_out * n_in} (PEFT's rule); lower r"
            )
