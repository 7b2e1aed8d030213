"""Losses."""

from __future__ import annotations

from ..ledger import Call, Tensor, record
from .casts import widened
from .layout import Grads
from .norms import log_softmax


def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``F.cross_entropy(logits, target, reduction=reduction)`` of [N, V]: log-softmax, then ``nll_loss``."""
    log_probabilities = log_softmax(logits)
    return nll_loss(log_probabilities, target, reduction)


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
