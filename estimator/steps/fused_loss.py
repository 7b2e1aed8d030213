"""Losses fused with the head, which never make the logits of more than a chunk or a tile.

``liger``: Liger's fused linear cross entropy (arXiv 2410.10989; ``liger_kernel/ops/fused_linear_cross_entropy.py`` of
0.8.5) computes the gradients in the forward pass, chunk by chunk, and saves them. ``cce``: Cut Cross Entropy (arXiv
2411.09009; ``cut_cross_entropy/cce.py``) saves a log-sum-exp per token, and recomputes logits in tiles.

Both are Triton kernels. ``witnesses/reference/savings.py`` has the same steps in plain PyTorch, for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .. import operators as ops
from ..errors import InputError
from ..ledger import ITEMSIZE, Call, Size, Tensor, record, whole
from ..operators.table import Kept, saves
from ..programs import Module, Step
from . import torchtune_loss
from .chunks import ceil_div
from .loss import check_shifted, chunked_loss, flat, head_weight, labelled, shifted
from .trl_loss import chunked_nll, fused_lm_head
from .unsloth import unsloth_loss

TILE = (128, 256)
"""Tokens and vocabulary entries of a tile of logits on a CPU. Triton's tiles take no memory outside the chip."""


def fused_loss(step: Step) -> Callable[[Module, Tensor, Tensor], Tensor] | None:
    """The step's fused loss of the head, the hidden states and the labels; ``None`` if its loss takes logits."""
    if step.loss == "chunked":
        return partial(chunked_loss, size=step.loss_chunk)
    if step.loss == "ce-chunked-output":
        return partial(torchtune_loss.ce_chunked_output, number=step.num_output_chunks)
    if step.loss == "linear-cross-entropy":
        return partial(torchtune_loss.linear_cross_entropy, number=step.num_output_chunks, share=step.label_share)
    if step.loss == "unsloth":
        return partial(unsloth_loss, target=step.loss_target)
    of_trl = {"chunked-nll": chunked_nll, "fused-lm-head": fused_lm_head}
    if step.loss == "liger":
        return liger_loss
    if step.loss in of_trl:
        return partial(of_trl[step.loss], share=step.label_share)
    return partial(cce_loss, share=step.label_share) if step.loss == "cce" else None


SOFT_CAP = ("div", "tanh", "mul")
"""What a model with a soft cap on its logits calls."""


def fused_loss_after(step: Step) -> dict[tuple[str, ...], Callable[[Module, Tensor, Tensor], Tensor]]:
    """TRL's losses of models that change their logits, by the functions that these call.

    Both cap logits as the model does. ``fused-lm-head`` multiplies by a scale in any case; ``chunked-nll`` does not
    know Granite's, by which logits are divided, and other scales have no rule with it.
    """
    if step.loss == "chunked-nll":
        plain = partial(chunked_nll, share=step.label_share)
        return {("div",): plain, SOFT_CAP: partial(plain, capped=True)}
    if step.loss == "fused-lm-head":
        plain = partial(fused_lm_head, share=step.label_share)
        return {("div",): plain, ("mul",): plain, SOFT_CAP: partial(plain, capped=True)}
    if step.loss == "unsloth":
        return dict.fromkeys((("div",), ("mul",), SOFT_CAP), partial(unsloth_loss, target=step.loss_target))
    return {}


def liger_chunk(tokens: int, hidden: int, vocab: int) -> int:
    """Tokens per chunk, a power of two: a chunk has about as many logits as there are hidden states in all."""
    size = ceil_div(tokens, ceil_div(vocab, hidden))
    return min(1 << (size - 1).bit_length(), tokens)


def liger_loss(head: Module, hidden_states: Tensor, labels: Tensor) -> Tensor:
    """``LigerForCausalLMLoss`` on a GPU of compute capability 8.0 or higher."""
    weight = head_weight(head, "liger")
    labels = shifted(labels)
    return fused_linear_cross_entropy(flat(hidden_states), weight, labels)


@saves(
    "LigerFusedLinearCrossEntropyFunctionBackward",
    Kept("the gradient of the hidden states", because="Liger computes it in the forward pass"),
    Kept("the gradient of the head's weight", because="Liger computes it in the forward pass"),
    inputs=("hidden states", "weight"),
)
def fused_linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor, one_buffer: bool = True) -> Tensor:
    """``LigerFusedLinearCrossEntropyFunction``: x [T, H], weight [V, H], target [T].

    Saves the gradient of x and, if it is trained, of the weight. ``one_buffer``: all chunks' logits use the same
    buffer, unless autocast casts. Before Liger 0.8 each chunk had its own, and up to 0.4.2 a float32 copy too. Raises
    ``InputError`` if the weight is trained and x needs no gradient.
    """
    if weight.requires_grad and not x.requires_grad:
        raise InputError(
            "loss liger computes no gradient for the head if nothing below it is trained (Liger computes gradients "
            "only if the hidden states need one); use loss: chunked"
        )
    ledger = x.ledger
    tokens, hidden, vocab = (whole(n) for n in (*x.shape, weight.shape[0]))
    for _ in range(1 + x.requires_grad + weight.requires_grad):  # logits, and the gradients that are needed
        ledger.multiply(tokens, hidden, vocab)
    grad_input = ledger.empty(x.shape, x.dtype)
    grad_weight = ledger.empty(weight.shape, weight.dtype) if weight.requires_grad else None
    losses = ledger.empty((tokens,), "float32")
    mask = ledger.empty((tokens,), "bool")
    ledger.empty((), "int64")  # its sum
    chunk = liger_chunk(tokens, hidden, vocab)
    if one_buffer:
        with ledger.no_grad():
            _liger_chunks(x, weight, tokens, chunk)
    else:  # a chunk's logits, their float32 copy, and the gradient of the chunk before
        logits = chunk * vocab * ITEMSIZE[x.dtype]
        ledger.transient(logits + chunk * vocab * ITEMSIZE["float32"] + (logits if tokens > chunk else 0))
    out = record(
        "LigerFusedLinearCrossEntropyFunctionBackward",
        lambda: ledger.empty((), "float32"),
        (x, weight),
        (grad_input, grad_weight),
        _liger_backward,
    )
    del losses, mask
    return out


def _liger_chunks(x: Tensor, weight: Tensor, tokens: int, chunk: int) -> None:
    """The chunks of ``fused_linear_cross_entropy_forward``. Its kernel replaces logits by their gradient in place.

    If autocast casts an operand, each chunk has logits of its own (``_can_use_mm_out``). For the logits autocast casts
    the weight anew in each chunk, since a transposed view is no leaf. For the input's gradient it casts a trained
    weight once. The gradient of the weight is added up in place if its dtype is the logits' or float32, and a GPU's
    compute capability is 8.0 or higher. If not, each chunk makes a product and a float32 copy of it.
    """
    ledger, (vocab, hidden) = x.ledger, weight.shape
    dtype = ledger.autocast or x.dtype
    casts = {x.dtype, weight.dtype} != {dtype}
    in_place = ledger.device.adds_products_in_place and weight.dtype in (dtype, "float32")
    sizes = [min(chunk, tokens - start) for start in range(0, tokens, chunk)]
    logits = None if casts else ledger.empty((chunk, vocab), dtype)
    for rows in sizes if ledger.unrolled else sizes[:2]:  # all chunks but the first are equal: the cached cast is there
        part = ops.narrow(x, 0, rows)
        if casts:
            factors = ops.to(ops.transpose(weight, 0, 1), dtype), ops.to(part, dtype)
            logits = ledger.empty((rows, vocab), dtype)
            del factors
            factor = ops.autocast(weight)
            ledger.empty((rows, hidden), dtype)  # the input's gradient, then copied into grad_input
            del factor
        if weight.requires_grad:
            factor = ops.to(part, dtype)
            product = None if in_place else ledger.empty(weight.shape, dtype)
            del factor
            product = product and ops.to(product, "float32")
            del product
        logits = None if casts else logits


def _liger_backward(call: Call) -> ops.Grads:
    call.ledger.empty((), "float32")  # the number one, which the incoming gradient is compared with
    return tuple(call.saved)


def cce_loss(head: Module, hidden_states: Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
    """``cut_cross_entropy.linear_cross_entropy(..., shift=True)``: each position's label is the next token."""
    weight = head_weight(head, "cce")
    ledger = hidden_states.ledger
    batch, seq = (whole(n) for n in labels.shape)
    check_shifted("cce", labels)
    valid = labelled(batch * (seq - 1), share)
    ledger.empty((batch, seq - 1), "bool")  # targets[..., 1:] != -100
    positions: Any = ledger.empty((valid, 2), "int64")  # nonzero()
    positions = ops.to(positions, "int32")
    valids = ledger.empty((valid,), "int64")  # the sum of both columns
    del positions
    return linear_cross_entropy(flat(hidden_states), weight, labels, valids)


@saves(
    "LinearCrossEntropyFunctionBackward",
    Kept("the hidden states", because="backward computes the logits again, tile by tile"),
    Kept("the head's weight", because="backward computes the logits again, tile by tile"),
    Kept("each token's log-sum-exp", because="backward computes the probabilities again"),
    Kept("the labels", because="they say which logit of each token gets the gradient"),
    Kept("the tokens that have a label", because="backward takes them alone"),
    Kept("the mean logit of each word", because="backward sorts the vocabulary by it"),
    inputs=("hidden states", "weight"),
)
def linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor, valids: Tensor | None, sort: bool = True) -> Tensor:
    """``LinearCrossEntropyFunction``: x [T, H], weight [V, H], target [T], ``valids`` the positions that have a label.

    Saves x and the weight, one log-sum-exp per position and, if backward is to ``sort`` the vocabulary, its mean
    logits. Autocast casts x and the weight first (commit a16b7b4; 25.1.1, on PyPI, refuses float32 in backward).
    """
    ledger = x.ledger
    inputs = x, weight
    if ledger.autocast:
        with ledger.no_grad():
            x, weight = ops.to(x, ledger.autocast), ops.to(weight, ledger.autocast)
    count = (x if valids is None else valids).shape[0]
    logsumexp = ledger.empty((count,), "float32")
    locks = ledger.empty((ceil_div(whole(count), 128),), "int32")
    trained = any(tensor.requires_grad for tensor in inputs)
    mean_logits = ledger.empty((weight.shape[0],), "float32") if sort and trained else None
    loss_per_token = ledger.empty((count,), "float32")
    _tile(x, count, weight.shape[0], tensors=1)
    ledger.multiply(count, *weight.shape)
    del locks
    out = record(
        "LinearCrossEntropyFunctionBackward",
        lambda: ledger.empty((), "float32"),
        inputs,
        (x, weight, logsumexp, target, valids, mean_logits),
        _cce_backward,
        *(tensor.dtype for tensor in inputs),
    )
    del loss_per_token
    return out


def _cce_backward(call: Call) -> ops.Grads:
    x, weight, logsumexp, _, _, mean_logits = call.saved
    ledger, vocab = call.ledger, weight.shape[0]
    ordering = None
    if mean_logits is not None:
        values, indices = ledger.empty((vocab,), "float32"), ledger.empty((vocab,), "int64")
        del values  # argsort
        ordering = ledger.empty((vocab,), "int32")
        del indices
    for _ in range(1 + sum(call.needs)):  # the logits again, and the gradients
        ledger.multiply(logsumexp.shape[0], *weight.shape)
    grads = [ledger.empty(t.shape, t.dtype) if need else None for t, need in zip((x, weight), call.needs, strict=True)]
    columns = ceil_div(whole(x.shape[1]), 64)
    locks = [
        None if grad is None else ledger.empty((ceil_div(whole(rows), 128), columns), "int32")
        for grad, rows in zip(grads, (logsumexp.shape[0], vocab), strict=True)
    ]
    _tile(x, logsumexp.shape[0], vocab, tensors=2)
    for i in (1, 0):
        grad, grads[i] = grads[i], None
        grads[i] = None if grad is None else ops.to(grad, call.args[i])
        del grad
    del ordering, locks
    return tuple(grads)


def _tile(x: Tensor, count: Size, vocab: Size, tensors: int) -> None:
    """A CPU's workspace for one tile. On a GPU all of it stays on the chip.

    It is the tile's hidden states (with ``tensors`` 2 their gradient too), its logits in the tensors' dtype and in
    float32, and sums by row and by column.
    """
    if x.ledger.device.tiles_on_chip:
        return
    rows, columns = min(TILE[0], whole(count)), min(TILE[1], whole(vocab))
    width = tensors * rows * whole(x.shape[1]) + rows * columns
    x.ledger.transient(width * ITEMSIZE[x.dtype] + (rows * columns + rows + columns) * ITEMSIZE["float32"])
