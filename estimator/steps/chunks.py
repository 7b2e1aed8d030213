"""Self-attention in a checkpoint, and the MLP in chunks of tokens, each in a checkpoint.

``witnesses/reference/savings.py`` changes the real model in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .. import operators as ops
from ..errors import InputError, TooLong
from ..ledger import Counted, Size, Tensor, product, whole
from ..programs import Module, Step
from ..programs.module_table import Kind
from .checkpointing import checkpoint

MOST_UNROLLED = 2_000
"""The most chunks that are run one by one: about two seconds of work."""


def chunks(total: Size, size: int, unrolled: bool = False) -> list[tuple[int, int]]:
    """(length, copies) of consecutive chunks of ``size``, of which the last may be shorter.

    If there are more than six, one is counted, unless they are ``unrolled``. The counted chunk has two full chunks on
    either side: the first chunk makes a gradient that all chunks add to, the second replaces it, and the others add in
    place. Raises ``TooLong`` if too many are unrolled.
    """
    full, rest = divmod(whole(total), size)
    number = full + (rest > 0)
    if unrolled and number > MOST_UNROLLED:
        raise TooLong(
            f"a GPU's allocator is replayed over each of {number:,} chunks, and {MOST_UNROLLED:,} are the most; "
            "take fewer mlp_chunks, or a larger loss_chunk"
        )
    if number <= 6 or unrolled:
        return [(size, 1)] * full + [(rest, 1)] * (rest > 0)
    last = rest or size
    return [(size, 1), (size, 1), (size, number - 5), (size, 1), (size, 1), (last, 1)]


def ceil_div(a: int, b: int) -> int:
    """The quotient, rounded up."""
    return -(-a // b)


class ChunkedMLP(Module):
    """An MLP over chunks of tokens, each in a checkpoint (MsT, arXiv 2407.15892; ALST's TiledMLP, arXiv 2506.13996)."""

    def __init__(self, mlp: Module, count: int) -> None:
        self.path, self.ledger, self.mlp, self.count = mlp.path, mlp.ledger, mlp, count

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """[B, S, hidden] -> [B, S, hidden]. Raises ``InputError`` where the MLP takes more than that."""
        if others:
            raise InputError(f"mlp_chunks has no rule for {self.path}, which takes more than one tensor; leave it out")
        shape = x.shape
        tokens = whole(product(shape[:-1]))
        x = ops.view(x, (1, tokens, shape[-1]))
        done, parts = Counted(self.ledger), []
        for part, copies in ops.split_counted(x, 1, chunks(tokens, ceil_div(tokens, self.count), self.ledger.unrolled)):
            with self.ledger.counted(copies):
                parts.append(done.add(checkpoint(self.mlp, part)))
        out = ops.cat(tuple(parts), x.shape)
        parts.clear()
        done.clear()
        return ops.view(out, shape)


class CheckpointedAttention(Module):
    """Self-attention that is recomputed in backward (selective recomputation, arXiv 2205.05198)."""

    def __init__(self, attention: Module) -> None:
        self.path, self.ledger, self.attention = attention.path, attention.ledger, attention

    def forward(self, hidden_states: Tensor, *args: Any) -> Any:
        """The arguments and the result of the attention that is wrapped."""
        return checkpoint(self.attention, hidden_states, args)


def checkpoints(step: Step) -> dict[Kind, Callable[[Module], Module]]:
    """For each kind of module, the class that the step wraps its modules in."""
    found: dict[Kind, Callable[[Module], Module]] = {}
    if step.checkpointing == "attention":
        found["attention"] = CheckpointedAttention
    if step.mlp_chunks > 1:
        found["mlp"] = partial(ChunkedMLP, count=step.mlp_chunks)
    return found
