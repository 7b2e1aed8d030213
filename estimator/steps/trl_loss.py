"""TRL's own losses of ``SFTTrainer``, which make no whole logits.

``chunked-nll`` is the default of TRL 1.4 to 1.14 (``trl/trainer/sft_trainer.py: _chunked_cross_entropy_loss`` of
1.14): tokens with a label come first, and chunks of 256 of them run in checkpoints. ``fused-lm-head`` is that of 1.15
on (``trl/trainer/utils.py: add_fused_lm_head``, ``trl/kernels/chunked_logprob.py`` of 1.16): an
``autograd.Function`` over tiles of 4,096 tokens and 32,768 entries of the vocabulary, recomputed in backward. Its tiles
are folded by a Triton kernel on a GPU, and by PyTorch's operators on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from .. import operators as ops
from ..ledger import ITEMSIZE, Call, Ledger, Size, Tensor, product, record, whole
from ..ledger.sizes import least
from ..operators.table import Kept, saves
from ..programs import Module
from .checkpointing import checkpoint
from .chunks import ceil_div, chunks
from .loss import CHUNK_TOKENS, check_shifted, head_weight, labelled

OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""What ``ChunkedLogProbFunction`` gives beside log-probabilities, where it is asked, in this order."""
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""Tokens of a tile (``TOKEN_CHUNK_SIZE``), and the width of its buffer (``_CHUNKED_LOGPROB_CHUNK_SIZE``)."""
ENTROPY_TOKENS = 128
"""Those of which ``entropy_from_logits`` takes the logits at a time, by default."""


def _shifted(hidden_states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Views of all hidden states but the last, [B, S - 1, H], and of all labels but the first, [B, S - 1]."""
    seq = labels.shape[1] - 1
    return ops.narrow(hidden_states, 1, seq, keeps_strides=True), ops.narrow(labels, 1, seq, keeps_strides=True)


def _rows_of(hidden: Tensor) -> Tensor:
    """[B, S, H] -> [B * S, H]: a copy, unless the batch is one sequence."""
    return ops.reshape(hidden, (product(hidden.shape[:-1]), hidden.shape[-1]))


def chunked_nll(head: Module, hidden_states: Tensor, labels: Tensor, share: float, capped: bool = False) -> Tensor:
    """``_chunked_cross_entropy_loss``: the head's weight times chunks of hidden states, each in a checkpoint."""
    weight, bias = head_weight(head, "chunked-nll"), getattr(head, "bias", None)
    check_shifted("chunked-nll", labels)
    ledger = hidden_states.ledger
    hidden, labels = _shifted(hidden_states, labels)
    hidden, labels = _rows_of(hidden), ops.reshape(labels, (labels.numel,))
    tokens = whole(labels.numel)
    valid = ops.without_gradient((labels,), "bool", ops.INTEGER)
    n_valid = ops.sum(valid)
    order = ops.sort(ops.to(valid, "int8"), 0)[1]
    hidden, labels = ops.index(hidden, [order]), ops.index(labels, [order])
    loss, correct, entropy_sum = (ledger.empty((), "float32") for _ in range(3))
    count = min(tokens, ceil_div(labelled(tokens, share), CHUNK_TOKENS) * CHUNK_TOKENS)
    for size, copies in chunks(count, CHUNK_TOKENS, ledger.unrolled):
        with ledger.counted(copies):
            h_chunk, lbl_chunk = ops.narrow(hidden, 0, size), ops.narrow(labels, 0, size)
            of_chunk = checkpoint(_chunk, (h_chunk, weight, lbl_chunk), (bias, capped))
            loss, correct = ops.add(loss, of_chunk[0]), ops.add(correct, of_chunk[1])
            entropy_sum = ops.add(entropy_sum, of_chunk[2])
    loss = ops.div(loss, n_valid)
    del correct, entropy_sum
    return loss


def _chunk(h: Tensor, w: Tensor, lbl: Tensor, b: Tensor | None, capped: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``_chunk``: the summed loss of [tokens, H], the number of right tokens, and the summed entropy."""
    logits = ops.to(ops.matmul(h, ops.transpose(ops.to(w, h.dtype), 0, 1)), "float32")
    if b is not None:
        logits = ops.add(logits, ops.to(b, "float32"))
    if capped:
        logits = ops.mul(ops.tanh(ops.div(logits, ops.SCALAR)), ops.SCALAR)
    log_p = ops.log_softmax(logits)
    chunk_loss = ops.nll_loss(log_p, lbl, "sum")
    valid = ops.without_gradient((lbl,), "bool", ops.INTEGER)
    chunk_correct = ops.to(ops.sum(ops.without_gradient((_is_largest(lbl), valid), "bool")), "float32")
    chunk_entropy = ops.sum(ops.mul(ops.neg(ops.sum(ops.mul(ops.exp(log_p), log_p), -1)), valid))
    return chunk_loss, chunk_correct, chunk_entropy


def _is_largest(lbl: Tensor) -> Tensor:
    """``logits.argmax(dim=-1) == lbl``."""
    return ops.without_gradient((lbl.ledger.empty(lbl.shape, "int64"), lbl), "bool")


def fused_lm_head(head: Module, hidden_states: Tensor, labels: Tensor, share: float, capped: bool = False) -> Tensor:
    """``_fused_forward`` and what ``SFTTrainer.compute_loss`` makes of its log-probabilities.

    A GPU scores the positions that have a label. A CPU scores all.
    """
    check_shifted("fused-lm-head", labels)
    ledger = hidden_states.ledger
    hidden, labels = _shifted(hidden_states, labels)
    mask = ops.without_gradient((labels,), "bool", ops.INTEGER)
    weight, bias = whole_head(head)
    x: Any
    if ledger.device.tiles_on_chip:
        count = labelled(whole(labels.numel), share)
        x = ops.index_by_mask(hidden, [mask], (count, hidden.shape[-1]))
        targets = ops.index_by_mask(labels, [mask], (count,))
    else:
        x = _rows_of(hidden)
        targets = ops.reshape(ops.clamp(labels), (labels.numel,))
    logprobs, entropy, is_top1 = log_probabilities(x, weight, bias, targets, capped, ("entropy", "is_top1"))
    del x, targets
    log_probs = _on_all_positions(logprobs, mask)
    entropy, is_top1 = _on_all_positions(entropy, mask), _on_all_positions(is_top1, mask)
    del logprobs
    n_valid = ops.sum(mask)
    ops.div(ops.neg(ops.sum(log_probs)), n_valid)  # the model's own loss
    per_token_loss = ops.neg(log_probs)
    loss = ops.div(ops.sum(per_token_loss), n_valid)
    del entropy, is_top1
    return loss


def whole_head(head: Any) -> tuple[Tensor, Tensor | None]:
    """The head's weight and its bias, gathered where its module alone is a group of FSDP2, as no hook does it."""
    bias: Tensor | None = getattr(head, "bias", None)
    own: Tensor | None = getattr(head, "weight", None)  # none where it has an adapter
    full_tensor = None if own is None else own.ledger.full_tensor
    if bias is not None and full_tensor is not None and not bias.storage.nbytes:
        bias = full_tensor(bias)
    return head_weight(head, "fused-lm-head", full_tensor), bias


def _on_all_positions(x: Tensor, mask: Tensor) -> Tensor:
    """One number for each position, [B, S - 1], zero where there is no label."""
    if x.ledger.device.tiles_on_chip:
        return ops.masked_scatter(x.ledger.empty(mask.shape, x.dtype), mask, x)
    return ops.masked_fill(ops.view(x, mask.shape), ops.without_gradient((mask,), "bool"))


def tiles(tokens: Size, vocab: int) -> Iterator[tuple[Size, Size, list[int]]]:
    """The tokens of each row of tiles, for how many it stands, and the entries of the vocabulary of each tile in it.

    Of a number of tokens that is a symbol the first row stands for all. No later one is larger.
    """
    widths = [min(TILE_VOCABULARY, vocab - start) for start in range(0, vocab, TILE_VOCABULARY)]
    if not isinstance(tokens, int):
        yield least(tokens, TILE_TOKENS), tokens, widths
        return
    for start in range(0, tokens, TILE_TOKENS):
        rows = min(TILE_TOKENS, tokens - start)
        yield rows, rows, widths


def buffer(ledger: Ledger, tokens: Size, dtype: str) -> Tensor:
    """What a tile of logits is made in, [tokens of a tile, its widest]."""
    return ledger.empty((least(tokens, TILE_TOKENS), TILE_VOCABULARY), dtype)


def first_rows(x: Tensor, rows: Size, dtype: str) -> Tensor:
    """The first rows in a dtype: a view, or a copy."""
    return ops.to(ops.narrow(x, 0, rows), dtype)


@saves(
    "ChunkedLogProbFunctionBackward",
    Kept("the hidden states", because="backward computes the logits again, tile by tile"),
    Kept("the head's weight", because="backward computes the logits again, tile by tile"),
    Kept("the head's bias", because="backward computes the logits again, tile by tile"),
    Kept("the labels", because="they say which logit of each token gets the gradient"),
    Kept("each token's log-sum-exp", because="backward computes the probabilities again"),
    Kept("each token's entropy", because="the function marks it for backward"),
    inputs=("hidden states", "weight", "bias"),
)
def log_probabilities(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, capped: bool, outputs: Sequence[str]
) -> list[Tensor]:
    """``ChunkedLogProbFunction`` of x [N, H]: log-probabilities [N], and of ``OUTPUTS`` those that are asked for.

    Saves x, the weight, the targets, the log-sum-exps and the entropies, where they are asked for.
    """
    ledger = x.ledger
    tokens, vocab = x.shape[0], whole(weight.shape[0])
    dtype = ledger.autocast or x.dtype
    with ledger.no_grad():
        running = [ledger.empty((tokens,), "float32") for _ in range(7)]
        tile = buffer(ledger, tokens, dtype)
        for rows, of, widths in tiles(tokens, vocab):
            hidden_chunk = first_rows(x, rows, dtype)
            for width in widths:
                w_chunk = first_rows(weight, width, dtype)
                ledger.multiply(of, x.shape[1], width)
                del w_chunk
                if bias is not None:
                    first_rows(bias, width, dtype)
                if not ledger.device.tiles_on_chip:
                    _forward_tile(ledger, rows, width, dtype, outputs)
        log_z = ledger.empty((tokens,), "float32")

    def made(name: str) -> Tensor:
        if name == "entropy":
            return record(
                "ChunkedLogProbFunctionBackward", lambda: ledger.empty((tokens,), "float32"), (x,), (), _nothing
            )
        return ledger.empty((tokens,), "bool" if name == "is_top1" else "float32")

    asked = {name: made(name) for name in OUTPUTS if name in outputs}
    saved = x, weight, bias, targets, log_z, asked.get("entropy", log_z)
    logprobs = record(
        "ChunkedLogProbFunctionBackward",
        lambda: ledger.empty((tokens,), "float32"),
        (x, weight, bias),
        saved,
        _log_probabilities_backward,
        dtype,
        capped,
    )
    del running, tile, hidden_chunk
    return [logprobs, *asked.values()]


def _nothing(call: Call) -> ops.Grads:
    """The entropies are let go before backward."""
    return (None,)


def _forward_tile(ledger: Ledger, rows: Size, width: int, dtype: str, outputs: Sequence[str]) -> None:
    """``_forward_tile`` of [rows, width], in PyTorch's operators."""

    def numbers(*names: str) -> list[Tensor]:
        return [ledger.empty((rows, width), name) for name in names]

    given = [] if dtype == "float32" else numbers("float32")
    scaled = numbers("float32")
    given.clear()
    z = numbers("float32")
    scaled.clear()
    local = ledger.empty((rows,), "int64")
    before_target = numbers("bool") if "is_top1" in outputs else []
    largest = numbers("bool", "float32") if before_target else []  # masked_fill(~before_target)
    largest.clear()
    new_m, rescale = (ledger.empty((rows,), "float32") for _ in range(2))
    e = numbers("float32", "float32")  # z - new_m, and its exponential
    e.pop()
    multiplied = "entropy" in outputs or "log_sum_sq_probs" in outputs
    products = [*numbers("float32"), ledger.empty((rows,), "float32")] if multiplied else []  # and its sum
    del z, local, before_target, new_m, rescale, e, products


def _log_probabilities_backward(call: Call) -> ops.Grads:
    x, weight, bias = call.saved[:3]
    ledger, (dtype, capped) = call.ledger, call.args
    tokens, vocab = x.shape[0], whole(weight.shape[0])
    operands = x, weight, bias
    grads: list[Any] = [
        ledger.empty(operand.shape, "float32") if need else None
        for operand, need in zip(operands, call.needs, strict=True)
    ]
    tile = buffer(ledger, tokens, dtype)
    w_chunk: Any = None
    for rows, of, widths in tiles(tokens, vocab):
        hidden_chunk = first_rows(x, rows, dtype)
        for width in widths:
            w_chunk = first_rows(weight, width, dtype)
            for _ in range(1 + call.needs[0] + call.needs[1]):
                ledger.multiply(of, x.shape[1], width)
            if bias is not None:
                first_rows(bias, width, dtype)
            if not ledger.device.tiles_on_chip:
                _backward_tile(ledger, rows, width, capped)
            accumulate(ledger, call.needs, (rows, width, x.shape[1]), dtype)
    # The tile, its factors and the sums in float32 are names until backward returns.
    found = [None if x is None else ops.to(x, operand.dtype) for x, operand in zip(grads, operands, strict=True)]
    del tile, hidden_chunk, w_chunk
    return tuple(found)


def _backward_tile(ledger: Ledger, rows: Size, width: int, capped: bool) -> None:
    """``_backward_tile`` of [rows, width], in PyTorch's operators, at its largest.

    y, z, the log-probabilities, the probabilities and the gradient are there, and of the difference from the target the
    mask, its float copy and the result. With a soft cap there is its hyperbolic tangent, too.
    """
    numbers = rows * width
    ledger.transient(*(numbers * ITEMSIZE["float32"] for _ in range(7 + capped)), numbers * ITEMSIZE["bool"])


def accumulate(ledger: Ledger, needs: Sequence[bool], sizes: tuple[Size, int, Size], dtype: str) -> None:
    """``_addmm_fp32`` of the tile with the weight and with the hidden states: float32 copies of 16-bit factors."""
    rows, width, hidden = sizes
    if dtype != "float32" and not ledger.device.tiles_on_chip:
        for need, other in zip(needs, (width, rows), strict=False):
            if need:
                ledger.transient(rows * width * ITEMSIZE["float32"], other * hidden * ITEMSIZE["float32"])


def entropy_from_logits(logits: Tensor, chunk_size: int) -> tuple[Tensor]:
    """``entropy_from_logits`` (``trl/trainer/utils.py``) of [.., V]: so many tokens at a time, or a kernel's."""
    if logits.ledger.device.tiles_on_chip:
        index = logits.ledger.empty(logits.shape[:-1], "int64")
        return (_logprob_entropy(logits, index, None)[1],)
    shape, tokens = logits.shape[:-1], whole(product(logits.shape[:-1]))
    flat = ops.reshape(logits, (tokens, logits.shape[-1]))
    entropies = []
    for start in range(0, tokens, chunk_size):
        logps = ops.log_softmax(ops.narrow(flat, 0, min(chunk_size, tokens - start)))
        entropies.append(ops.neg(ops.sum(ops.mul(ops.exp(logps), logps), -1)))
    return (ops.reshape(ops.cat(tuple(entropies), (tokens,)), shape),)


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> tuple[Tensor]:
    """``selective_log_softmax`` (``trl/trainer/utils.py``) of [B, T, V] and [B, T]: a row at a time, or a kernel's."""
    if logits.ledger.device.tiles_on_chip:
        return (_logprob_entropy(logits, index, row_mask)[0],)
    if temperature != 1:
        logits = ops.div(logits, ops.SCALAR)
    index = ops.unsqueeze(index, -1)
    if logits.dtype == "float32":
        selected = ops.gather(logits, -1, index)
        logsumexp = ops.stack(tuple([ops.logsumexp(row, -1) for row in ops.unbind(logits)]))
        made = ops.sub(selected, ops.unsqueeze(logsumexp, -1))
    else:
        rows = []
        for row, labels in zip(ops.unbind(logits), ops.unbind(index), strict=True):
            logps = ops.log_softmax(row)
            rows.append(ops.gather(logps, -1, labels))
        made = ops.stack(tuple(rows))
        del rows
    made = ops.squeeze(made, made.shape[:-1])
    return (_masked(made, row_mask),)


def selective_log_softmax_and_entropy(
    logits: Tensor, index: Tensor, entropy_requires_grad: bool, temperature: float, row_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``selective_log_softmax_and_entropy`` (``trl/trainer/utils.py``): both, one after the other, or by a kernel."""
    ledger = logits.ledger
    if ledger.device.tiles_on_chip:
        return _logprob_entropy(logits, index, row_mask)
    if temperature != 1:
        logits = ops.div(logits, ops.SCALAR)
    (logprobs,) = selective_log_softmax(logits, index, 1.0, row_mask)
    with nullcontext() if entropy_requires_grad else ledger.no_grad():
        (entropy,) = entropy_from_logits(logits, ENTROPY_TOKENS)
    return logprobs, _masked(entropy, row_mask)


def _masked(x: Tensor, row_mask: Tensor | None) -> Tensor:
    """``x.masked_fill(row_mask == 0, 0.0)``, where there is a mask."""
    return x if row_mask is None else ops.masked_fill(x, ops.without_gradient((row_mask,), "bool", ops.INTEGER))


@saves(
    "_LogProbEntropyFunctionBackward",
    Kept("the logits", because="backward computes the probabilities again"),
    Kept("the labels", because="they say which logit of each token gets the gradient"),
    Kept("each token's log-sum-exp", because="backward computes the probabilities again"),
    Kept("each token's expected logit", because="the entropy's gradient needs it"),
    Kept("the mask", because="tokens without a label get no gradient"),
    inputs=("logits",),
)
def _logprob_entropy(logits: Tensor, index: Tensor, row_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``_LogProbEntropyFunction`` (``trl/kernels/logprob_entropy.py``), a kernel in Triton: float32 of each token."""
    ledger, shape = logits.ledger, logits.shape[:-1]
    entropy, log_z, expected_logit = (ledger.empty(shape, "float32") for _ in range(3))
    logprobs = record(
        "_LogProbEntropyFunctionBackward",
        lambda: ledger.empty(shape, "float32"),
        (logits,),
        (logits, index, log_z, expected_logit, row_mask),
        _logprob_entropy_backward,
    )
    return logprobs, entropy


def _logprob_entropy_backward(call: Call) -> ops.Grads:
    logits = call.saved[0]
    grad_logits = call.ledger.empty(logits.shape, logits.dtype)
    return (grad_logits,)
