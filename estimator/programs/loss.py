"""The loss of transformers' causal language models (``transformers/loss/loss_utils.py``)."""

from __future__ import annotations

from .. import operators as ops
from ..ledger import Size, Tensor


def causal_lm_loss(logits: Tensor, labels: Tensor, vocab: Size) -> Tensor:
    """``ForCausalLMLoss``: logits [B, S, V] in float32, labels shifted by one, mean cross entropy."""
    ledger = logits.ledger
    logits = ops.to(logits, "float32")
    batch, seq = labels.shape
    labels = ledger.empty((batch, seq + 1), "int64")
    shift_labels = ops.contiguous(ops.narrow(labels, -1, seq))
    logits = ops.view(logits, (batch * seq, vocab))
    shift_labels = ops.view(shift_labels, (batch * seq,))
    loss = ops.cross_entropy(logits, shift_labels)
    return loss
