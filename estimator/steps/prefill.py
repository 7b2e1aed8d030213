"""A forward pass over whole prompts (prefill), as ``estimator/witnesses/measure.py: _Prefill`` runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ledger import Ledger, Size
from ..programs.attention import Cache
from .batch import Batch


def step(
    ledger: Ledger,
    batch: Callable[[], Batch],
    forward: Callable[[Batch], tuple[Any, ...]],
    previous_output: bool,
) -> tuple[Batch, tuple[Any, ...]]:
    """Run ``model.eval()`` under ``torch.inference_mode()``; returns the batch and the model's output, which are held.

    The output is the logits [B, S, V] of all positions and, perhaps, the cache. ``previous_output``: the output of the
    forward pass before is live too, as in a loop that gives both the same name.
    """
    ledger.grad_enabled = ledger.training = False
    ledger.inference_mode = True
    previous = forward(batch()) if previous_output else None  # noqa: F841 (held until the next output is there)
    made = batch()
    return made, forward(made)


def cache_bytes(output: tuple[Any, ...]) -> Size:
    """Bytes of the KV cache that a model returned."""
    return sum((part.nbytes for part in output if isinstance(part, Cache)), 0)
