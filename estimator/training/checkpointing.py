"""Gradient checkpointing, non-reentrant (``torch/utils/checkpoint.py``; transformers' default).

The scope's saved tensors are not kept: one input, and the CPU's random state, are. The first node
of the scope that wants a saved tensor in backward runs the forward again, up to the last tensor
that was saved; each recomputed tensor goes when its node has used it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..ledger import Counted, Hooks, Ledger, Tensor

RNG_STATE_BYTES = 5056
"""``torch.get_rng_state()`` of the CPU's Mersenne Twister."""


class _StopRecomputation(Exception):
    pass


class _Frame:
    def __init__(self, function: Callable[..., Tensor], hidden: Tensor, args: tuple[Any, ...], kept: Tensor) -> None:
        ledger = hidden.ledger
        self.ledger, self.function, self.args, self.kept = ledger, function, args, kept
        self.count = 0
        self.recomputed: dict[int, Tensor] | None = None
        self.rng_state = ledger.empty((RNG_STATE_BYTES,), "uint8")
        ledger.module = "checkpoint"
        self.held, self.unpack_input = ledger.pack(hidden, "_NoopSaveInputs")
        self.requires_grad, self.node = hidden.requires_grad, hidden.node
        self.autocast = ledger.autocast

    def pack(self, tensor: Tensor) -> int:
        self.count += 1
        return self.count - 1

    def unpack(self, index: int) -> Tensor:
        if self.recomputed is None:
            self.recomputed = {}
            self._recompute(self.ledger)
        return self.recomputed.pop(index)

    def _recompute(self, ledger: Ledger) -> None:
        recomputed = self.recomputed
        assert recomputed is not None

        def keep(tensor: Tensor) -> Tensor:
            recomputed[len(recomputed)] = tensor.alias()
            if len(recomputed) == self.count:
                raise _StopRecomputation
            return recomputed[len(recomputed) - 1]

        hidden = self.unpack_input(self.held).alias()
        hidden.requires_grad, hidden.node = self.requires_grad, self.node
        outer = (
            ledger.phase,
            ledger.scope,
            ledger.grad_enabled,
            ledger.autocast,
            ledger.autocast_cache,
            ledger.autocast_casts,
        )
        ledger.phase, ledger.grad_enabled = "recomputation", True
        ledger.autocast, ledger.autocast_cache, ledger.autocast_casts = self.autocast, {}, Counted()
        ledger.hooks.append(Hooks(keep, lambda held: held))
        rng_state = ledger.empty((RNG_STATE_BYTES,), "uint8")  # fork_rng's copy
        with suppress(_StopRecomputation):
            self.function(hidden, *self.args)
        ledger.hooks.pop()
        del rng_state
        ledger.phase, ledger.scope, ledger.grad_enabled, ledger.autocast = outer[:4]
        ledger.autocast_cache, ledger.autocast_casts = outer[4:]


def checkpoint(function: Callable[..., Tensor], hidden: Tensor, args: tuple[Any, ...], kept: Tensor) -> Tensor:
    """Run ``function(hidden, *args)`` and save only ``hidden`` for its backward.

    Other arguments, and ``kept`` (an argument the function makes no use of), stay alive as well.
    """
    frame = _Frame(function, hidden, args, kept)
    ledger = hidden.ledger
    ledger.hooks.append(Hooks(frame.pack, frame.unpack))
    out = function(hidden, *args)
    ledger.hooks.pop()
    return out
