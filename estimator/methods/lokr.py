"""LoKr as PEFT runs it (``peft/tuners/lokr/layer.py``; arXiv 2309.14859)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, StrictBool

from .. import operators as ops
from ..io.fields import Whole
from ..ledger import Tensor, whole
from ..programs import Builder, Linear
from .layered import Adapters, integer_shape
from .lycoris import LycorisLinear, LycorisOptions


class LokrLinear(LycorisLinear):
    """D is the Kronecker product of lokr_w1 [a, b] and lokr_w2 [n_out / a, n_in / b].

    Each of them is trained whole, or as two factors of rank r.
    """

    def __init__(self, build: Builder, base: Linear, lokr: Adapters[LokrMethod]) -> None:
        super().__init__(base, lokr)
        rank, (n_out, n_in) = whole(lokr.size_at(base.path)), integer_shape(base)
        rows, columns = (factorization(size, lokr.options.decompose_factor) for size in (n_out, n_in))

        def factors(name: str, shape: tuple[int, int], whole: bool) -> tuple[Tensor, ...]:
            shapes = {name: shape} if whole else {f"{name}_a": (shape[0], rank), f"{name}_b": (rank, shape[1])}
            return tuple(build.adapter(f"{self.path}.{key}", s, lokr.adapter_dtype) for key, s in shapes.items())

        (left, right) = zip(rows, columns, strict=True)
        self.w1 = factors("lokr_w1", left, whole=not lokr.options.decompose_both or rank >= max(left) / 2)
        self.w2 = factors("lokr_w2", right, whole=rank >= max(right) / 2)

    def delta_weight(self) -> Tensor:
        w1 = self.w1[0] if len(self.w1) == 1 else ops.matmul(*self.w1)
        w2 = self.w2[0] if len(self.w2) == 1 else ops.matmul(*self.w2)
        weight = make_kron(w1, w2)
        weight = ops.view(weight, weight.shape)
        return self.dropped(weight, "float32")


def make_kron(w1: Tensor, w2: Tensor) -> Tensor:
    """The Kronecker product of two matrices, times the scale."""
    rebuild = ops.kron(w1, w2)
    return ops.mul(rebuild, ops.SCALAR)


def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """PEFT's two factors of a dimension, the first one near ``factor`` (-1: near the square root)."""
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    if factor == -1:
        factor = dimension
    m, n = 1, dimension
    length = m + n
    while m < n:
        new_m = m + 1
        while dimension % new_m != 0:
            new_m += 1
        new_n = dimension // new_m
        if new_m + new_n > length or new_m > factor:
            break
        m, n = new_m, new_n
    return min(m, n), max(m, n)


class LokrMethod(LycorisOptions):
    """LoKr (peft.LoKrConfig)."""

    title: ClassVar[str] = "LoKr"
    linear = LokrLinear
    open_sizes: ClassVar[bool] = False
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["lokr"] = "lokr"
    decompose_both: StrictBool = Field(False, description="also factor the left matrix of the Kronecker product")
    decompose_factor: Whole = Field(-1, description="size of the left matrix; -1: near the square root")
    rank_dropout_scale: StrictBool = Field(False, description="divide dropped rows by their mean")
