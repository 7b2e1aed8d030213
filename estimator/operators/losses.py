"""Losses."""

from __future__ import annotations

from typing import Any

from ..ledger import RESULT, Beside, Call, Size, Tensor, record
from .casts import in_loss, promote
from .elementwise import SCALAR, add, div, mul, sub, where
from .layout import Grads, gradients
from .norms import log_softmax
from .reductions import linalg_vector_norm, mean
from .reductions import sum as total
from .table import SHAPE, Kept, Result, operator, saves
from .views import clone


def _reduced(out: Result, x: Tensor, target: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, str]:
    """The ``args`` of a loss: its reduction is told by the result."""
    return x, target, "mean" if out.shape == () else "none"


@operator(
    "cross_entropy_loss",
    args=_reduced,
)
def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``F.cross_entropy(logits, target, reduction=reduction)`` of [N, V]: log-softmax, then ``nll_loss``."""
    log_probabilities = log_softmax(in_loss(logits))
    return nll_loss(log_probabilities, target, reduction)


@operator(
    "nll_loss", "nll_loss_nd",
    args=_reduced,
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
    x = in_loss(x)
    total_weight = x.ledger.empty((), x.dtype)
    shape = target.shape if reduction == "none" else ()
    return record(
        "NllLossBackward0", lambda: x.ledger.empty(shape, x.dtype), (x,), (x, target, total_weight), _nll_backward
    )


@operator("cosine_similarity", args=lambda out, x, y, dim=1, eps=1e-8: (x, y, dim))
def cosine_similarity(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """``F.cosine_similarity(x, y, dim)``: each over its norm, of which a copy has no zeros (``Distance.cpp``)."""
    norms = [clone(linalg_vector_norm(one, dim, keepdim=True)) for one in (x, y)]
    second = div(y, norms[1])  # C++ makes a call's last argument first
    return total(mul(div(x, norms[0]), second), dim)


@operator("pairwise_distance", args=lambda out, x, y, p=2.0, eps=1e-6, keepdim=False: (x, y, keepdim))
def pairwise_distance(x: Tensor, y: Tensor, keepdim: bool) -> Tensor:
    """``F.pairwise_distance(x, y)`` with p = 2: the norm of the difference, which is shifted by a small number."""
    shifted = add(sub(x, y), SCALAR)
    return linalg_vector_norm(shifted, -1, keepdim)


@operator("mse_loss", args=_reduced)
@saves(
    "MseLossBackward0",
    Kept("its input", because="the gradient is a multiple of the difference"),
    Kept("the targets", because="the gradient is a multiple of the difference"),
    inputs=("input", "target"),
)
def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """``F.mse_loss(x, target)`` of equal shapes (``aten/src/ATen/native/Loss.cpp``).

    A mean is made in a storage of the input's size, beside the squares, which die with the kernel.
    """
    x, target = in_loss(x), in_loss(target)
    ledger, dtype = x.ledger, promote(x, target)

    def allocate() -> Tensor:
        out = ledger.empty(x.shape, dtype)
        if reduction == "none":
            return out
        squares = ledger.empty(x.shape, dtype)
        ledger.transient(*ledger.device.workspace_of_mean(squares, [True] * len(x.shape)))
        return Tensor(out.storage, (), dtype)

    return record("MseLossBackward0", allocate, (x, target), (x, target), _mse_backward)


def _mse_backward(call: Call) -> Grads:
    return gradients(call, *call.saved)


def _nll_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.saved[0].shape, call.grad.dtype),)


@operator("ctc_loss")
@saves(
    "CtcLossBackward0",
    Kept("its log-probabilities", because="the gradient is made of them"),
    Kept("the labels", because="the gradient is made of them"),
    Kept("its result", because="the gradient is made of it"),
    Kept("the log-probabilities of each prefix", because="the gradient is made of them"),
    inputs=("log-probabilities",),
)
def ctc_loss(x: Tensor, target: Tensor, longest: Size, reduction: str, zero_infinity: bool = False) -> Tensor:
    """``F.ctc_loss(x, target, ...)`` of x [T, B, V], with lengths on the CPU, the ``longest`` of the labels among them.

    Saves both, the loss of each row, and the alphas [B, T, 2 n + 1] (``LossCTC.cpp: ctc_loss_allocate_outputs``).
    """
    ledger = x.ledger
    frames, rows = x.shape[:2]
    alphas = ledger.empty((rows, frames, 2 * longest + 1), x.dtype)
    saved = (x, target, RESULT, Beside(alphas))
    losses = record("CtcLossBackward0", lambda: ledger.empty((rows,), x.dtype), (x,), saved, _ctc_backward)
    if zero_infinity:
        losses = where(ledger.empty((rows,), "bool"), ledger.empty((), x.dtype), losses)
    if reduction == "mean":
        return mean(div(losses, ledger.empty((rows,), x.dtype)))
    return total(losses) if reduction == "sum" else losses


def _ctc_backward(call: Call) -> Grads:
    # _ctc_loss_backward: grad = full_like(log_probs), log_beta = empty_like(log_alpha)
    x, _, _, alphas = call.saved
    grad, betas = call.ledger.empty(x.shape, x.dtype), call.ledger.empty(alphas.shape, alphas.dtype)
    del betas
    return (grad,)
