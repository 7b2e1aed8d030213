"""Saved activations kept as integers: groups with a scale and a zero point, as in ActNN (arXiv 2104.14129).

A pair of saved-tensor hooks. They quantise the tensors that GACT (arXiv 2206.11357) does: floating tensors of two or
more dimensions that require a gradient, except parameters and buffers. Other tensors stay as they are: statistics
without a gradient (log-sum-exp, the loss's total weight), masks, tokens and vectors.

A storage is quantised once, for all nodes and views, as long as a node still holds the result and nothing has written
to the storage. Each node dequantises it for itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Union

import torch
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(eq=False)
class Quantised:
    """The elements of a storage: codes [groups, size], for 4 bits [groups, size / 2]; scale and zero [groups, 1]."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    count: int
    dtype: torch.dtype
    bits: int


@dataclass(frozen=True)
class View:
    """A node's view of a quantised storage."""

    of: Quantised
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


BITS = {"int8": 8, "int4": 4}
Held = Union[torch.Tensor, View]


def quantise(flat: torch.Tensor, bits: int, group_size: int) -> Quantised:
    """The elements [n], each rounded to one of ``2**bits`` levels between the least and the largest of its group."""
    levels = 2**bits - 1
    count = flat.numel()
    groups = -(-count // group_size)
    work = torch.zeros(groups * group_size)
    work[:count].copy_(flat)
    work = work.view(groups, group_size)
    low, high = torch.aminmax(work, dim=1, keepdim=True)
    high.sub_(low).div_(levels).clamp_(min=torch.finfo(torch.float32).tiny)
    scale, zero = high.to(torch.bfloat16), low.to(torch.bfloat16)
    work.sub_(low.copy_(zero)).div_(high.copy_(scale)).round_().clamp_(0, levels)
    if bits == 8:
        return Quantised(work.to(torch.uint8), scale, zero, count, flat.dtype, bits)
    codes = work[:, 1::2].to(torch.uint8).bitwise_left_shift_(4)
    codes.bitwise_or_(work[:, ::2].to(torch.uint8))
    return Quantised(codes, scale, zero, count, flat.dtype, bits)


def dequantise(held: Quantised) -> torch.Tensor:
    """The elements [n] in the dtype that they had."""
    codes = held.codes
    if held.bits == 8:
        work = codes.to(torch.float32)
    else:
        work = torch.empty(codes.shape[0], codes.shape[1] * 2)
        work[:, ::2].copy_(codes.bitwise_and(15))
        work[:, 1::2].copy_(codes.bitwise_right_shift(4))
    work.mul_(held.scale.float()).add_(held.zero.float())
    return work.view(-1)[: held.count].to(held.dtype)


class Store:
    """The hooks of one forward pass. ``resident`` are the addresses of the storages of parameters and buffers."""

    def __init__(self, bits: int, group_size: int, resident: Collection[int]) -> None:
        self.bits, self.group_size, self.resident = bits, group_size, resident
        self._known: dict[int, tuple[StorageWeakRef, int, weakref.ref[Quantised]]] = {}

    def pack(self, tensor: torch.Tensor) -> Held:
        """The object that a node holds for a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        kept = storage._cdata in self.resident or not tensor.requires_grad
        if kept or not tensor.is_floating_point() or tensor.dim() < 2:
            return tensor.detach()  # a result that held itself would never be freed
        quantised = self._quantised(tensor, storage)
        return View(quantised, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def unpack(self, held: Held) -> torch.Tensor:
        """The tensor for a node's backward."""
        if isinstance(held, torch.Tensor):
            return held
        return dequantise(held.of).as_strided(held.shape, held.strides, held.offset)

    def _quantised(self, tensor: torch.Tensor, storage: Any) -> Quantised:
        known = self._known.get(storage._cdata)
        if known is not None and not known[0].expired() and known[1] == tensor._version:
            quantised = known[2]()
            if quantised is not None:
                return quantised
        count = storage.nbytes() // tensor.element_size()
        quantised = quantise(tensor.detach().as_strided((count,), (1,), 0), self.bits, self.group_size)
        # The weak reference also keeps the address from being used again.
        self._known[storage._cdata] = StorageWeakRef(storage), tensor._version, weakref.ref(quantised)
        return quantised


def held_tensors(held: Held) -> tuple[torch.Tensor, ...]:
    """The tensors that a node keeps alive."""
    return (held,) if isinstance(held, torch.Tensor) else (held.of.codes, held.of.scale, held.of.zero)
