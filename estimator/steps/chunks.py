"""Work done in chunks, each recomputed in backward: self-attention and MLP behind a checkpoint of their own.

``checkpoints`` changes the program as ``reference/savings.py`` changes the real model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .. import operators as ops
from ..errors import TooLong
from ..ledger import Counted, Size, Tensor, product, whole
from ..programs import Module, Step
from ..programs.module_table import Kind
from .checkpointing import checkpoint

MOST_UNROLLED = 2_000
"""Chunks that are gone through one by one: some two seconds' work."""


def chunks(total: Size, size: int, unrolled: bool = False) -> list[tuple[int, int]]:
    """(length, how often to count it) of consecutive chunks of ``size``; the last may be shorter.

    From the seventh on one chunk is counted for others, unless all are asked for. Two inner chunks stay
    on either side of it: a gradient that the chunks add up is made by the first and replaced by the second
    before it stays put. Raises ``TooLong`` where too many are asked for.
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
    """An MLP run over chunks of the tokens, each checkpointed (MsT, arXiv 2407.15892; ALST's TiledMLP, 2506.13996)."""

    def __init__(self, mlp: Module, count: int) -> None:
        self.path, self.ledger, self.mlp, self.count = mlp.path, mlp.ledger, mlp, count

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, hidden] -> [B, S, hidden]."""
        shape = x.shape
        tokens = whole(product(shape[:-1]))
        x = ops.view(x, (1, tokens, shape[-1]))
        done, parts = Counted(self.ledger), []
        for part, copies in ops.split_counted(x, 1, chunks(tokens, ceil_div(tokens, self.count), self.ledger.unrolled)):
            with self.ledger.repeated(copies):
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
        """As the attention in it."""
        return checkpoint(self.attention, hidden_states, args)


def checkpoints(step: Step) -> dict[Kind, Callable[[Module], Module]]:
    """What a step puts the modules of a kind in."""
    found: dict[Kind, Callable[[Module], Module]] = {}
    if step.checkpointing == "attention":
        found["attention"] = CheckpointedAttention
    if step.mlp_chunks > 1:
        found["mlp"] = partial(ChunkedMLP, count=step.mlp_chunks)
    return found
