"""Saved tensors in the host's memory while a step does not need them.

``torch.autograd.graph.save_on_cpu(pin_memory=True)``, a pair of saved-tensor hooks: each node's tensor is copied
to a pinned block of its own, of the view's shape, and comes back as a new contiguous tensor when the node runs.
So a tensor that two nodes save is there twice, and weights that products save go there as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import operators as ops
from ..ledger import ITEMSIZE, Hooks, Ledger, Tensor, product


def block_bytes(nbytes: int) -> int:
    """What pinned memory takes for a tensor: the next power of two, by default (``CachingHostAllocator.h: allocate``,
    ``pinned_max_round_threshold``; releases 2.6 to 2.13).
    """
    return 1 << (nbytes - 1).bit_length() if nbytes else 0


class _OnHost:
    """A tensor in pinned memory, for as long as a node or a checkpoint holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.ledger, self.shape, self.dtype, self.copies = (
            tensor.ledger,
            tensor.shape,
            tensor.dtype,
            tensor.ledger.copies,
        )
        self._take(1)

    def _take(self, times: int) -> None:
        nbytes = product(self.shape) * ITEMSIZE[self.dtype]
        if isinstance(nbytes, int) and isinstance(self.copies, int):  # powers of two have no formula
            self.ledger.pinned.take(block_bytes(nbytes), times * self.copies)

    def __del__(self) -> None:
        self._take(-1)


def _pack(tensor: Tensor) -> _OnHost:
    with tensor.ledger.no_grad():
        ops.contiguous(tensor)  # copied on the device first where it is not (Copy.cu: copy_requires_temporaries)
    return _OnHost(tensor)


def _unpack(held: _OnHost) -> Tensor:
    return held.ledger.empty(held.shape, held.dtype)


@contextmanager
def saved_on_host(ledger: Ledger) -> Iterator[None]:
    """What is saved here, and by no hooks within, is held in the host's memory."""
    ledger.hooks.append(Hooks(_pack, _unpack))
    yield
    ledger.hooks.pop()
