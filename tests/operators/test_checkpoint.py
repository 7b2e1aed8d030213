"""A checkpointed block.

Witness: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from estimator import operators as ops
from estimator.steps.checkpointing import checkpoint, reentrant
from tests.helpers.operator_rules import (
    BF16,
    F32,
    Cases,
    agree,
    varied,
)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@varied(
    [((4, 6), (50, 24), (72, 24), (24, 72)), ((1, 40), (50, 24), (72, 24), (24, 72))],
    [("int64", F32, F32, F32), ("int64", BF16, BF16, BF16)],
    swaps=[None] * 4,
)
def test_checkpoint(given: Cases, blocks: int) -> None:
    """Blocks with a residual, behind an embedding."""

    def expression(ids: Any, table: Any, up: Any, down: Any, op: Any, embed: Any, recomputed: Any) -> Any:
        def block(x: Any) -> Any:
            y = op.linear(x, up)
            return op.add(x, op.linear(op.mul(op.silu(y), y), down))

        hidden = embed(ids, table)
        for _ in range(blocks):
            hidden = recomputed(block, hidden)
        return hidden

    torch_ops = SimpleNamespace(linear=functional.linear, silu=functional.silu, mul=torch.mul, add=torch.add)
    agree(
        lambda *x: expression(*x, ops, ops.embedding, lambda block, h: checkpoint(block, h)),
        lambda *x: expression(
            *x, torch_ops, functional.embedding, lambda block, h: torch_checkpoint(block, h, use_reentrant=False)
        ),
        *given,
    )


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@varied(
    [((4, 6), (50, 24), (72, 24), (24, 72)), ((1, 40), (50, 24), (72, 24), (24, 72))],
    [("int64", F32, F32, F32), ("int64", BF16, BF16, BF16)],
    swaps=[None] * 4,
)
def test_reentrant_checkpoint_of_two_results(given: Cases, used: bool) -> None:
    """The second result, as a layer's cache, lives on; its gradient is zeros where nothing uses it."""

    def expression(ids: Any, table: Any, up: Any, down: Any, op: Any, embed: Any, recomputed: Any) -> Any:
        def block(x: Any) -> Any:
            y = op.linear(op.silu(op.linear(x, up)), down)
            return op.add(x, y), y

        hidden, kept = embed(ids, table), []
        for _ in range(3):
            hidden, other = recomputed(block, hidden)
            kept.append(other)
        return op.add(op.mul(hidden, hidden), kept[1]) if used else op.mul(hidden, hidden)

    torch_ops = SimpleNamespace(linear=functional.linear, silu=functional.silu, mul=torch.mul, add=torch.add)
    agree(
        lambda *x: expression(*x, ops, ops.embedding, lambda block, h: reentrant(block, h)),
        lambda *x: expression(
            *x, torch_ops, functional.embedding, lambda block, h: torch_checkpoint(block, h, use_reentrant=True)
        ),
        *given,
    )
