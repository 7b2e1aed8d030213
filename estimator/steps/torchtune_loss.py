"""torchtune's losses over chunks of tokens. Nothing is recomputed: each chunk's log-probabilities wait for backward.

``ce-chunked-output`` is ``CEWithChunkedOutputLoss``, with ``TransformerDecoder.chunked_output`` (torchtune 0.6.1). The
model makes the logits of all chunks; each chunk's are cast to float32 and reduced. ``linear-cross-entropy`` is
``LinearCrossEntropyLoss`` (torchtune at bd2a0fc). It multiplies by the head itself, chunk by chunk, and leaves out
tokens without a label.

Both save four bytes for each token and entry of the vocabulary. In 16 bits the first holds the logits of all chunks
through its forward pass, too, the second those of one chunk.
"""

from __future__ import annotations

from typing import Any

from .. import operators as ops
from ..ledger import Size, Tensor, whole
from ..programs import Module
from .chunks import ceil_div, chunks
from .loss import check_shifted, flat, labelled


def ce_chunked_output(head: Module, hidden_states: Tensor, labels: Tensor, number: int) -> Tensor:
    """The mean cross entropy of hidden states [B, S, H], whose logits are made in ``number`` chunks of S."""
    ledger, (batch, seq) = hidden_states.ledger, labels.shape
    sizes = chunks(seq, ceil_div(whole(seq), number), unrolled=True)
    logits = [head(part) for part, _ in ops.split_counted(hidden_states, 1, sizes)]
    labels = ledger.empty((batch, seq), "int64")  # hstack of the labels but the first, and a column without a label
    count = ops.sum(ops.without_gradient((labels,), "bool", ops.INTEGER))
    targets = [ops.reshape(part, (part.numel,)) for part, _ in ops.split_counted(labels, 1, sizes)]
    rows = [flat(part) for part in logits]
    total: Any = None
    for part, target in zip(rows, targets, strict=True):
        loss = ops.cross_entropy(ops.to(part, "float32"), target, "sum")
        total = ops.add(loss, ops.SCALAR) if total is None else ops.add_(total, loss)
    return ops.div(total, count)


def linear_cross_entropy(head: Module, hidden_states: Tensor, labels: Tensor, number: int, share: float) -> Tensor:
    """The mean cross entropy of the tokens of [B, S, H] with a label, a ``share`` of them, in ``number`` chunks."""
    check_shifted("linear-cross-entropy", labels)
    ledger, (batch, seq) = hidden_states.ledger, labels.shape
    labels = ledger.empty((whole(batch * seq),), "int64")  # hstack, as above
    tokens = labelled(whole(batch * (seq - 1)), share)
    hidden, targets = _with_a_label(flat(hidden_states), labels, tokens)
    del labels
    total = ledger.empty((), "float32")
    parts = [[ops.narrow(x, 0, size) for size in _sizes(tokens, number)] for x in (hidden, targets)]
    for part, target in zip(*parts, strict=True):
        loss = _chunk_loss(head, part, target)
        total = ops.add_(total, loss)
    return ops.div(total, ops.SCALAR)


def _with_a_label(hidden: Tensor, labels: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """``mask_inputs``: copies of the rows of hidden states and labels that have a label."""
    mask = ops.without_gradient((labels,), "bool", ops.INTEGER)
    indices = mask.ledger.empty((tokens,), "int64")
    del mask
    return ops.index_select(hidden, 0, indices), ops.index_select(labels, 0, indices)


def _sizes(tokens: Size, number: int) -> list[int]:
    """``tensor_split``: ``number`` chunks, whose sizes differ by one at most."""
    size, longer = divmod(whole(tokens), number)
    return [size + 1] * longer + [size] * (number - longer)


def _chunk_loss(head: Module, hidden_states: Tensor, labels: Tensor) -> Tensor:
    logits = head(hidden_states)
    return ops.cross_entropy(ops.to(logits, "float32"), labels, "sum")
