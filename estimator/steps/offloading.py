"""Saved tensors in the host's memory until backward needs them.

``torch.autograd.graph.save_on_cpu(pin_memory=True)`` is a pair of saved-tensor hooks. Each tensor that a node saves is
copied to pinned memory, and comes back as a new contiguous tensor when the node runs. A tensor that two nodes save is
copied twice. Weights that matrix products save are copied too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import operators as ops
from ..ledger import ITEMSIZE, Hooks, Ledger, Size, Tensor, product
from ..ledger.sizes import only_bounded


def block_bytes(nbytes: int) -> int:
    """Bytes of the pinned block for a tensor: by default the next power of two (``CachingHostAllocator.h: allocate``,
    ``pinned_max_round_threshold``; releases 2.6 to 2.13).
    """
    return 1 << (nbytes - 1).bit_length() if nbytes else 0


def pin(ledger: Ledger, nbytes: Size, count: Size) -> None:
    """Take pinned memory for ``count`` tensors of ``nbytes`` each; a negative count gives it back.

    Sizes that are symbols are left out.
    """
    if isinstance(nbytes, int) and isinstance(count, int):
        ledger.pinned.take(block_bytes(nbytes), count)
    else:
        only_bounded()  # the next power of two is no polynomial


class OnHost:
    """A tensor in pinned memory, for as long as a node or a checkpoint holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.ledger, self.shape, self.dtype = tensor.ledger, tensor.shape, tensor.dtype
        self.copies = self.ledger.copies
        self._take(1)

    def _take(self, times: int) -> None:
        pin(self.ledger, product(self.shape) * ITEMSIZE[self.dtype], times * self.copies)

    def __del__(self) -> None:
        self._take(-1)


def _pack(tensor: Tensor) -> OnHost:
    with tensor.ledger.no_grad():
        ops.contiguous(tensor)  # if it is not, it is first copied on the device (Copy.cu: copy_requires_temporaries)
    return OnHost(tensor)


def _unpack(held: OnHost) -> Tensor:
    return held.ledger.empty(held.shape, held.dtype)


@contextmanager
def saved_on_host(ledger: Ledger) -> Iterator[None]:
    """Hold in the host's memory what is saved in this context, unless hooks within it take it."""
    ledger.hooks.append(Hooks(_pack, _unpack))
    yield
    ledger.hooks.pop()
