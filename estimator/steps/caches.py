"""The caches of ``generate``, to be read beside ``transformers/cache_utils.py``.

A cache object here serves one forward pass. It starts with the keys and values that each layer that is run holds then
(none before a prefill). Layers use it in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, NamedTuple

from ..ledger import ITEMSIZE, Counted, Ledger, Shape, Size, Tensor
from ..ledger.sizes import compared, smaller
from ..operators import selecting
from ..programs.attention_functions import Cache, behind


class Layer(NamedTuple):
    """A layer that is run: how many layers it stands for, and its sliding window in tokens, if it has one.

    ``number`` is its own among all layers, ``segment`` that of the segment that it is run in (``Ledger.segment``).
    """

    copies: Size
    window: int | None
    number: int = 0
    segment: int = -1


@contextmanager
def running(ledger: Ledger, layer: Layer) -> Iterator[None]:
    """Make what a layer has outside of its own calls: counted for all its copies, and in the segment that it is in."""
    ledger.segment = layer.segment
    with ledger.counted(layer.copies):
        yield
    ledger.segment = -1


Pair = tuple[Tensor, Tensor]
"""Keys and values, [B, kv_heads, tokens, D]."""


class DynamicCache(Cache):
    """A cache that grows with each token: ``DynamicLayer``, or ``DynamicSlidingWindowLayer`` if there is a window."""

    static: ClassVar[bool] = False
    """Whether it has its full size from the start (``is_compileable``)."""
    quantised: ClassVar[bool] = False
    """Whether it holds other numbers than it is given. Then old keys live until the values are copied, too."""

    def __init__(
        self, ledger: Ledger, layers: Sequence[Layer], capacity: Size, past: Size = 0, held: Iterable[Pair] = ()
    ) -> None:
        super().__init__(ledger, held)
        self._all = list(layers)
        self._own = Counted(ledger)
        for layer in layers:
            with running(ledger, layer):
                self._own.add(ledger.empty((self.numbers_bytes(layer, past),), "uint8"))
        self.capacity, self.past = capacity, past
        self.layers = list(layers)
        self.dtypes = ("", "")
        """The dtypes of the keys and of the values that it was given."""

    def by_layer(self) -> dict[Layer, list[Tensor]]:
        """What it has of each layer; before a forward pass what the layer has then."""
        numbers, held = ([x for x, _ in counted] for counted in (self._own, self._held))
        pairs = self._past or [[*pair] for pair in zip(held[::2], held[1::2], strict=True)]
        own = numbers[-len(self._all) :]
        return {layer: [number, *pair] for layer, number, pair in zip(self._all, own, pairs, strict=True)}

    def reorder(self, rows: Tensor) -> None:
        """``reorder_cache`` by row numbers [B]: each layer's keys, then its values, are copied, and what is not seen is
        left out.
        """
        for place, layer in enumerate(self._all):
            with running(self._ledger, layer):
                before: list[Tensor] = []
                for at in (2 * place, 2 * place + 1):
                    if not self.quantised:
                        before.clear()
                    read = selecting(rows)
                    before.append(self.copy(at, self._seen(layer, [*self._held][at][0])))
                    del read
                del before

    def _seen(self, layer: Layer, x: Tensor) -> Shape:
        """The shape of what a layer shows of its keys or values."""
        batch, heads, tokens, dim = x.shape
        return batch, heads, self.held(layer.window, tokens, self.capacity, reordered=True, prefilled=False)[0], dim

    @classmethod
    def numbers_bytes(cls, layer: Layer, past: Size) -> int:
        """Bytes of the 0-dim tensors in a layer's cache: here the window's size."""
        return 0 if layer.window is None else ITEMSIZE["int64"]

    @staticmethod
    def keys(window: int | None, past: Size, seq: Size, capacity: Size) -> Size:
        """How many keys ``seq`` tokens see that follow ``past`` tokens (``get_mask_sizes``)."""
        return past + seq if window is None else smaller(past, window - 1) + seq

    @staticmethod
    def held(window: int | None, past: Size, capacity: Size, reordered: bool, prefilled: bool) -> tuple[Size, Size]:
        """How many tokens a layer's keys have after ``past`` tokens, and how many their storage has.

        The keys of a window are a view of those before. ``prefilled``: one forward pass made all ``past`` tokens.
        ``reordered``: beam search has copied the cache since, so the storage has no more than the view.
        """
        if window is None or compared(past, window) < 0:
            return past, past
        return window - 1, window - 1 if reordered else past if prefilled else window

    @staticmethod
    def dtype(dtype: str) -> str:
        """The dtype in which keys and values of ``dtype`` are stored."""
        return dtype

    def update(self, key: Tensor, value: Tensor) -> Pair:
        self.dtypes = key.dtype, value.dtype
        return self.store(key, value)

    def store(self, key: Tensor, value: Tensor) -> Pair:
        """Append to the next layer's keys and values; returns what attention reads."""
        layer = self.layers.pop(0)
        if layer.window is None or not self._past:
            return super().update(key, value)
        past = self._past.pop(0)
        keys, values = (behind(old, new) for old, new in zip(past, (key, value), strict=True))
        del past[0], past[0]  # a window's layer has both until it cuts the keys, and then the values
        return self.keep(keys), self.keep(values)

    @staticmethod
    def on_device(layers: Sequence[Layer]) -> Sequence[Layer]:
        """The layers whose keys and values are on the device when a forward pass starts that is behind others."""
        return layers


class StaticCache(DynamicCache):
    """A cache of full size from the start, written in place: ``StaticLayer``, ``StaticSlidingWindowLayer``."""

    static = True

    @classmethod
    def numbers_bytes(cls, layer: Layer, past: Size) -> int:
        """``cumulative_length``."""
        return ITEMSIZE["int64"]

    @staticmethod
    def keys(window: int | None, past: Size, seq: Size, capacity: Size) -> Size:
        if window is None:
            return capacity
        room = smaller(window, capacity)
        if compared(past, room) >= 0:
            return room + seq - 1
        return room if compared(past + seq, room) < 0 else past + seq

    @staticmethod
    def held(window: int | None, past: Size, capacity: Size, reordered: bool, prefilled: bool) -> tuple[Size, Size]:
        room = capacity if window is None else smaller(window, capacity)
        return room, room

    def store(self, key: Tensor, value: Tensor) -> Pair:
        layer = self.layers.pop(0)
        ledger, (batch, heads, seq, dim) = key.ledger, key.shape
        room, _ = self.held(layer.window, self.past, self.capacity, False, False)
        if self._past:
            keys, values = self._past.pop(0)
        else:
            keys = ledger.empty((batch, heads, room, dim), key.dtype)
            values = ledger.empty((batch, heads, room, dim), value.dtype)
        self.keep(keys)
        self.keep(values)
        if layer.window is not None and compared(self.past, room) >= 0:
            # The window is rolled by one token in a new tensor, and copied back.
            new_keys = ledger.empty(keys.shape, keys.dtype)
            new_values = ledger.empty(values.shape, values.dtype)
            index = ledger.empty((1,), "int64")  # the place of the new token
            del new_keys, new_values, index
        elif layer.window is not None and compared(self.past + seq, room) > 0:
            return key, value  # a prompt longer than the window sees itself; the cache copies its last tokens
        else:
            positions = ledger.empty((seq,), "int64")
            positions = ledger.empty(positions.shape, "int64")  # + cumulative_length
            del positions
        return keys, values


class QuantizedCache(DynamicCache):
    """A cache in 8-bit floats, which is dequantised for each forward pass: ``Fp8QuantizedLayer``."""

    quantised = True

    @classmethod
    def numbers_bytes(cls, layer: Layer, past: Size) -> int:
        """A float32 scale for the keys and one for the values, unless the cache is empty."""
        return 2 * ITEMSIZE["float32"] if past else 0

    @staticmethod
    def dtype(dtype: str) -> str:
        return "float8_e4m3fn"

    def store(self, key: Tensor, value: Tensor) -> Pair:
        if not self._past:
            self._own.add(key.ledger.empty((2,), "float32"))
            self._held.add(_quantised(key, calibrates=True))
            self._held.add(_quantised(value, calibrates=True))
            return key, value
        held_key, held_value = self._past.pop(0)
        new = _quantised(key), _quantised(value)  # live until store returns
        batch, heads, tokens, dim = held_key.shape
        shape = batch, heads, tokens + new[0].shape[2], dim
        keys = self._held.add(key.ledger.empty(shape, held_key.dtype))
        values = self._held.add(key.ledger.empty(shape, held_value.dtype))
        return _dequantised(keys, key.dtype), _dequantised(values, value.dtype)


def _quantised(x: Tensor, calibrates: bool = False) -> Tensor:
    """``_quantize``: [B, kv_heads, S, D] to 8 bits, by one scale. ``calibrates``: find the scale first."""
    ledger = x.ledger
    if calibrates:
        magnitude = ledger.empty(x.shape, x.dtype)
        del magnitude
    whole = x if x.dtype == "float32" else ledger.empty(x.shape, "float32")
    scaled = ledger.empty(whole.shape, "float32")
    del whole
    return ledger.empty(scaled.shape, "float8_e4m3fn")


def _dequantised(x: Tensor, dtype: str) -> Tensor:
    """``_dequantize`` to ``dtype``."""
    ledger = x.ledger
    whole = ledger.empty(x.shape, "float32")
    scaled = ledger.empty(whole.shape, "float32")
    del whole
    return scaled if dtype == "float32" else ledger.empty(scaled.shape, dtype)


class OffloadedCache(DynamicCache):
    """``DynamicCache(offloading=True)``: layers rest on the host, but for the one that runs and the one behind it.

    Before a layer adds its keys and values, those of the next one are copied to the device, on a stream of their own
    (``Cache.prefetch``). The last layer fetches those of the first for the next pass. A layer's own leave the device
    with what attends to them (``Cache.offload``).
    """

    def __init__(
        self, ledger: Ledger, layers: Sequence[Layer], capacity: Size, past: Size = 0, held: Iterable[Pair] = ()
    ) -> None:
        super().__init__(ledger, layers, capacity, past)
        self._ahead = [x for pair in held for x in pair]
        """The keys and the values of the layer that is next."""

    def keep(self, x: Tensor) -> Tensor:
        return x

    def store(self, key: Tensor, value: Tensor) -> Pair:
        layer, own = self.layers[0], self._ahead
        self._ahead = self._fetched(key, value)
        if self.past and not own:  # of the only layer
            own, self._ahead = self._ahead, []
        self._past = [own] if own else []
        del own
        pair = super().store(key, value)
        for x in pair:
            batch, heads, tokens, dim = x.shape
            seen, _ = self.held(layer.window, tokens, self.capacity, True, False)
            if compared(seen, tokens) < 0:  # a view is copied on the device first (Copy.cu: copy_requires_temporaries)
                x.ledger.empty((batch, heads, seen, dim), x.dtype)
        return pair

    def _fetched(self, *like: Tensor) -> list[Tensor]:
        """The keys and the values of the layer behind the one that runs, [B, kv_heads, tokens, D]; empty where it has
        none yet.
        """
        index = len(self._all) - len(self.layers) + 1
        wraps = 1 < index == len(self._all)
        past = self.past + like[0].shape[2] if wraps else self.past
        if not past:
            return []
        tokens, _ = self.held(self._all[index % len(self._all)].window, past, self.capacity, True, False)
        with self._ledger.on_stream("prefetch"):
            return [self._ledger.empty((*x.shape[:2], tokens, x.shape[3]), x.dtype) for x in like]

    def by_layer(self) -> dict[Layer, list[Tensor]]:
        numbers = [x for x, _ in self._own]
        found = {layer: [number] for layer, number in zip(self._all, numbers, strict=True)}
        found[self._all[0]] += self._ahead
        return found

    def reorder(self, rows: Tensor) -> None:
        """Those of the first layer, which are there for the next pass; the others are copied on the host."""
        for layer in self.on_device(self._all):
            with running(self._ledger, layer):
                for place in range(len(self._ahead)):  # a name for a tensor would keep it
                    read = selecting(rows)
                    self._ahead[place] = self._ledger.empty(self._ahead[place].shape, self._ahead[place].dtype)
                    del read

    @staticmethod
    def on_device(layers: Sequence[Layer]) -> Sequence[Layer]:
        return [layers[0]._replace(copies=1)] if len(layers) > 1 else ()

    @staticmethod
    def held(window: int | None, past: Size, capacity: Size, reordered: bool, prefilled: bool) -> tuple[Size, Size]:
        """The host has no more than what is seen."""
        seen, _ = DynamicCache.held(window, past, capacity, reordered, prefilled)
        return seen, seen


class OffloadedStaticCache(OffloadedCache, StaticCache):
    """``StaticCache(offloading=True)`` of a model without windows, whose layers would stay on the device."""

    held = staticmethod(StaticCache.held)


CACHES: dict[str, type[DynamicCache]] = {
    "dynamic": DynamicCache,
    "static": StaticCache,
    "quantized": QuantizedCache,
    "offloaded": OffloadedCache,
    "offloaded_static": OffloadedStaticCache,
}
"""The cache of each ``cache_implementation``."""
