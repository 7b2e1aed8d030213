"""Losses."""

from __future__ import annotations

from ..ledger import Call, Tensor, record
from .casts import widened
from .layout import Grads
from .norms import log_softmax
from .table import SHAPE, Kept, operator, saves


@operator(
    "cross_entropy_loss",
    args=lambda out, x, target, *_, **__: (x, target, "mean" if out.shape == () else "none"),
)
def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``F.cross_entropy(logits, target, reduction=reduction)`` of [N, V]: log-softmax, then ``nll_loss``."""
    log_probabilities = log_softmax(logits)
    return nll_loss(log_probabilities, target, reduction)


@operator(
    "nll_loss", "nll_loss_nd",
    args=lambda out, x, target, *_, **__: (x, target, "mean" if out.shape == () else "none"),
)  # fmt: skip
@saves(
    "NllLossBackward0",
    Kept("its log-probabilities", because=SHAPE),
    Kept("the labels", because="they say which entry of each row gets the gradient"),
    Kept("the number of labels", because="the mean divides by it"),
    inputs=("log-probabilities",),
)
def nll_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``F.nll_loss(x, target)``: saves the input [N, V], the target [N] and the total weight (one number)."""
    x = widened(x)
    total_weight = x.ledger.empty((), x.dtype)
    shape = target.shape if reduction == "none" else ()
    return record(
        "NllLossBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (x, target, total_weight), _nll_backward
    )


def _nll_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.saved[0].shape, call.grad.dtype),)
