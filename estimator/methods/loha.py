"""LoHa as PEFT runs it (``peft/tuners/loha/layer.py``; arXiv 2108.06098)."""

from __future__ import annotations

from typing import ClassVar, Literal

from .. import operators as ops
from ..ledger import Call, Tensor, record
from ..operators.table import Kept, saves
from ..programs import Builder, Linear
from .layered import Adapters
from .lycoris import LycorisLinear, LycorisOptions


class LohaLinear(LycorisLinear):
    """D = (w1_a w1_b) * (w2_a w2_b), elementwise: w1_a, w2_a [n_out, r] and w1_b, w2_b [r, n_in]."""

    def __init__(self, build: Builder, base: Linear, loha: Adapters[LohaMethod]) -> None:
        super().__init__(base, loha)
        rank = loha.size_at(base.path)
        n_out, n_in = base.weight.shape
        shapes = {"w1_a": (n_out, rank), "w1_b": (rank, n_in), "w2_a": (n_out, rank), "w2_b": (rank, n_in)}
        self.w1a, self.w1b, self.w2a, self.w2b = (
            build.adapter(f"{self.path}.hada_{name}", shape, loha.adapter_dtype) for name, shape in shapes.items()
        )

    def delta_weight(self) -> Tensor:
        weight = hada_weight(self.w1a, self.w1b, self.w2a, self.w2b)
        weight = ops.view(weight, weight.shape)
        return self.dropped(weight, weight.dtype)


_FACTORS = ("w1_a", "w1_b", "w2_a", "w2_b")


@saves(
    "HadaWeightBackward",
    *(Kept(f"its {name}", because="backward multiplies the factors again") for name in _FACTORS),
    Kept("the scale", because="the gradients are multiplied by it"),
    inputs=_FACTORS,
)
def hada_weight(w1a: Tensor, w1b: Tensor, w2a: Tensor, w2b: Tensor) -> Tensor:
    """PEFT's autograd function ``HadaWeight``. It saves its inputs and the scale, and multiplies again in backward."""
    inputs = (w1a, w1b, w2a, w2b)
    scale = w1a.ledger.empty((), "float32")
    return record("HadaWeightBackward", lambda: _hada_weight(*inputs), inputs, (*inputs, scale), _hada_weight_backward)


def _hada_weight(w1a: Tensor, w1b: Tensor, w2a: Tensor, w2b: Tensor) -> Tensor:
    with w1a.ledger.no_grad():
        return ops.mul(ops.mul(ops.matmul(w1a, w1b), ops.matmul(w2a, w2b)), ops.SCALAR)


def _hada_weight_backward(call: Call) -> tuple[Tensor, ...]:
    w1a, w1b, w2a, w2b, _ = call.saved
    grad_out = ops.mul(call.grad, ops.SCALAR)
    temp = ops.mul(grad_out, ops.mm(w2a, w2b))
    grad_w1a = ops.mm(temp, ops.transpose(w1b, 0, 1))
    grad_w1b = ops.mm(ops.transpose(w1a, 0, 1), temp)

    temp = ops.mul(grad_out, ops.mm(w1a, w1b))
    grad_w2a = ops.mm(temp, ops.transpose(w2b, 0, 1))
    grad_w2b = ops.mm(ops.transpose(w2a, 0, 1), temp)
    return grad_w1a, grad_w1b, grad_w2a, grad_w2b


class LohaMethod(LycorisOptions):
    """LoHa (peft.LoHaConfig)."""

    title: ClassVar[str] = "LoHa"
    linear = LohaLinear
    opens_rank = True
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["loha"] = "loha"
