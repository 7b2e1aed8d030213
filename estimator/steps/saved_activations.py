"""Saved activations as integers, quantised in groups (``estimator/witnesses/reference/activations.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Union
from weakref import WeakKeyDictionary, ref

from ..ledger import FLOATING, ITEMSIZE, Hooks, Ledger, Shape, Size, Storage, Tensor, ceiling
from .offloading import saved_on_host

BITS = {"int8": 8, "int4": 4}


class _Quantised:
    """Codes of one byte [groups, size], or [groups, size / 2] for 4 bits; scale and zero point [groups, 1]."""

    def __init__(self, count: Size, dtype: str, bits: int, parts: tuple[Tensor, ...]) -> None:
        self.count, self.dtype, self.bits, self.parts = count, dtype, bits, parts


class _View(NamedTuple):
    of: _Quantised
    shape: Shape
    strides: Shape | None


_Held = Union[Tensor, _View]


class _Store:
    def __init__(self, bits: int, group_size: int) -> None:
        self.bits, self.group_size = bits, group_size
        self._known: WeakKeyDictionary[Storage, ref[_Quantised]] = WeakKeyDictionary()

    def pack(self, tensor: Tensor) -> _Held:
        ledger, storage = tensor.ledger, tensor.storage
        kept = storage.resident or not tensor.requires_grad
        if kept or tensor.dtype not in FLOATING or len(tensor.shape) < 2:
            return ledger.save(tensor)
        known = self._known.get(storage)
        quantised = None if known is None else known()
        if quantised is None:
            quantised = self._quantise(ledger, storage.nbytes // ITEMSIZE[tensor.dtype], tensor.dtype)
            self._known[storage] = ref(quantised)
        return _View(quantised, tensor.shape, tensor.strides)

    def _quantise(self, ledger: Ledger, count: Size, dtype: str) -> _Quantised:
        groups = ceiling(count, self.group_size)
        work = ledger.empty((groups, self.group_size), "float32")
        low, high = ledger.empty((groups, 1), "float32"), ledger.empty((groups, 1), "float32")
        scale, zero = ledger.empty((groups, 1), "bfloat16"), ledger.empty((groups, 1), "bfloat16")
        codes = ledger.empty((groups, self.group_size * self.bits // 8), "uint8")
        if self.bits == 4:
            ledger.transient(codes.nbytes)  # the lower half of each byte
        del work, low, high
        return _Quantised(count, dtype, self.bits, (ledger.save(codes), ledger.save(scale), ledger.save(zero)))

    def unpack(self, held: _Held) -> Tensor:
        return held if isinstance(held, Tensor) else _dequantise(held)


def _dequantise(held: _View) -> Tensor:
    codes, scale, zero = held.of.parts
    ledger = codes.ledger
    groups, packed = codes.shape
    work = ledger.empty((groups, packed * 8 // held.of.bits), "float32")
    if held.of.bits == 4:
        ledger.transient(codes.nbytes)  # half of the codes at a time
    for part in (scale, zero):
        ledger.transient(part.numel * ITEMSIZE["float32"])
    storage = work.storage
    if held.of.dtype != "float32":
        storage = ledger.empty((held.of.count,), held.of.dtype).storage
    return Tensor(storage, held.shape, held.of.dtype, held.strides)


@contextmanager
def held_as(ledger: Ledger, kind: str, group_size: int) -> Iterator[None]:
    """Hold the activations saved in this context as ``kind`` says: ``int8``, ``int4``, ``on-host`` or ``as-is``."""
    if kind == "as-is":
        yield
        return
    if kind == "on-host":
        with saved_on_host(ledger):
            yield
        return
    store = _Store(BITS[kind], group_size)
    ledger.hooks.append(Hooks(store.pack, store.unpack))
    yield
    ledger.hooks.pop()
