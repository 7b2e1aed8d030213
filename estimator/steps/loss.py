"""The chunked loss: the head and the cross entropy over chunks of tokens."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from .. import operators as ops
from ..errors import InputError
from ..ledger import Tensor, product
from ..programs import Linear, Module
from .checkpointing import checkpoint
from .chunks import chunks

CHUNK_TOKENS = 256
"""Tokens per chunk in TRL's chunked negative log-likelihood."""


def shifted(labels: Tensor) -> Tensor:
    """The next token of each position, [B * S]: labels are padded by one, sliced and made contiguous."""
    batch, seq = labels.shape
    labels = labels.ledger.empty((batch, seq + 1), "int64")
    return ops.view(ops.contiguous(ops.narrow(labels, -1, seq)), (batch * seq,))


def flat(hidden_states: Tensor) -> Tensor:
    """[B, S, H] -> [B * S, H]."""
    return ops.view(hidden_states, (product(hidden_states.shape[:-1]), hidden_states.shape[-1]))


def head_weight(head: Module, loss: str, full_tensor: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The head's weight, which a fused loss multiplies by.

    Raises ``InputError`` if the head has an adapter, or the process has a part of the weight alone, as no hook gathers
    what no module uses, and neither does the loss, by ``full_tensor``.
    """
    if not isinstance(head, Linear):
        raise InputError(
            f"loss {loss} multiplies by {head.path}'s weight itself, past the adapter on it; "
            f"take {head.path} out of the method's targets, or use loss: chunked"
        )
    if head.weight.storage.nbytes:
        return head.weight
    if full_tensor is None:
        raise InputError(
            f"loss {loss} multiplies by {head.path}'s weight itself, of which the process has a part: PyTorch stops "
            "(got mixed torch.Tensor and DTensor); use sharding.groups: layers"
        )
    return full_tensor(head.weight)


SHIFTING = ("cce", "chunked-nll", "fused-lm-head", "linear-cross-entropy")
"""Losses that leave out the last token of each sequence, and those without a label."""


def check_shifted(loss: str, labels: Tensor) -> None:
    """Raise ``InputError`` where nothing is left of labels [B, S] without the first of each sequence."""
    if labels.shape[1] == 1:
        raise InputError(
            f"loss {loss} shifts the labels by one, which leaves none of a sequence of 1; use a longer seq"
        )


def labelled(tokens: int, share: float) -> int:
    """How many of the shifted ``tokens`` have a label: a ``share`` of them, and one at least."""
    return max(ceil(tokens * share), 1)


def chunked_loss(head: Module, hidden_states: Tensor, labels: Tensor, size: int | None) -> Tensor:
    """The loss over chunks of ``size`` tokens, each in a checkpoint (MsT, ALST, TRL).

    Raises ``InputError`` for a head that each chunk would have to gather.
    """
    ledger = hidden_states.ledger
    weight = getattr(getattr(head, "base_layer", head), "weight", None)
    if weight is not None and not weight.storage.nbytes:
        raise InputError(
            f"loss chunked calls {head.path} for each chunk, and how that gathers what others have has no rule; "
            "use sharding.groups: layers"
        )
    labels = shifted(labels)
    ledger.empty(labels.shape, "bool")  # labels != -100, summed
    hidden_states = flat(hidden_states)
    sizes = chunks(hidden_states.shape[0], size or CHUNK_TOKENS, ledger.unrolled)
    total: Any = None
    for (part, copies), (part_labels, _) in zip(
        ops.split_counted(hidden_states, 0, sizes), ops.split_counted(labels, 0, sizes), strict=True
    ):
        with ledger.counted(copies):
            loss = checkpoint(_chunk_loss, (part, part_labels), (head,))
            total = loss if total is None else ops.add(total, loss)
    return ops.div(total, ops.SCALAR)


def _chunk_loss(hidden_states: Tensor, labels: Tensor, head: Module) -> Tensor:
    """The summed cross entropy of a chunk of hidden states [tokens, H]."""
    logits = ops.to(head(hidden_states), "float32")
    return ops.cross_entropy(logits, labels)
