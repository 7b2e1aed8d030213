"""Generation: ``mlx_lm/generate.py: generate_step``, with the caches of ``models/cache.py``.

A prompt is run in chunks. Of each chunk only the caches are evaluated, so that the last layer's MLP and the head run
for the last token alone. A cache grows by 256 tokens, and while it is joined to what is new, both are alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import InputError
from . import arrays as mx
from .arrays import Array
from .evaluation import Evaluator, constants_of, count_references
from .models import Model, causal_mask

STEP = 256
"""Tokens that a cache grows by."""


class CacheOptions(NamedTuple):
    """Options of ``generate_step`` about caches."""

    max_kv_size: int | None
    kv_bits: int | None
    kv_group_size: int
    quantized_kv_start: int


def _mask(length: int, offset: int, written: bool, window: int | None) -> Any:
    """``cache.py: create_attention_mask``."""
    if window is not None or (length > 1 and written):
        return causal_mask(length, offset, window)
    return None if length == 1 else "causal"


def _end(a: Array, start: int, stop: int) -> Array:
    return mx.slice_axis(a, -2, start, stop)


class KVCache:
    """``KVCache``: keys and values, with room for later tokens."""

    def __init__(self) -> None:
        self.keys: Array | None = None
        self.values: Array | None = None
        self.offset = 0

    def arrays(self) -> list[Array]:
        return [a for a in (self.keys, self.values) if a is not None]

    def replace(self, arrays: Sequence[Array]) -> None:
        if arrays:
            self.keys, self.values = arrays

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Any, Any]:
        before, self.offset = self.offset, self.offset + keys.shape[2]
        self.keys = self._grown(self.keys, keys, before)
        self.values = self._grown(self.values, values, before)
        return self._fetched(self.keys), self._fetched(self.values)

    def _grown(self, held: Array | None, new: Array, before: int) -> Array:
        if held is None or self.offset > held.shape[2]:
            room = -(-new.shape[2] // STEP) * STEP
            more = mx.full((*new.shape[:2], room, new.shape[3]), 0, new.dtype)
            if held is not None:
                held = _end(held, 0, before) if before % STEP else held
                more = mx.concatenate([held, more], 2)
            held = more
        start, stop = (0, 0, before, 0), (*held.shape[:2], self.offset, held.shape[3])
        return mx.slice_update(held, new, start, stop)

    def _fetched(self, held: Array) -> Array:
        return _end(held, 0, self.offset) if self.offset < held.shape[2] else held

    def mask(self, length: int, window: int | None, written: bool) -> Any:
        return _mask(length, self.offset, written, window)

    @property
    def has_room(self) -> bool:
        """Whether a token can be added without moving what is there."""
        return self.keys is not None and self.offset < self.keys.shape[2]

    def pass_over(self) -> None:
        """Go on by one token that is like the one before."""
        self.offset += 1

    def to_quantized(self, options: CacheOptions) -> KVCache | QuantizedKVCache:
        assert options.kv_bits is not None
        found = QuantizedKVCache(options.kv_bits, options.kv_group_size)
        found.offset = self.offset
        found.replace([part for a in self.arrays() for part in quantize(a, options.kv_bits, options.kv_group_size)])
        return found


def quantize(a: Array, bits: int, group: int) -> list[Array]:
    """``mx.quantize``: integers, scales and biases."""
    rows, columns = a.shape[:-1], a.shape[-1]
    shapes = [(*rows, columns * bits // 32), *[(*rows, columns // group)] * 2]
    return mx.made(mx.Primitive("Quantize", (bits, group)), [a], shapes, ["uint32", a.dtype, a.dtype])


class QuantizedKVCache:
    """``QuantizedKVCache``: integers of 32 bits, scales and biases."""

    def __init__(self, bits: int, group: int) -> None:
        self.bits, self.group, self.offset = bits, group, 0
        self.parts: list[Array] = []

    def arrays(self) -> list[Array]:
        return self.parts

    def replace(self, arrays: Sequence[Array]) -> None:
        self.parts = list(arrays)

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Any, Any]:
        before, self.offset = self.offset, self.offset + keys.shape[2]
        length = keys.shape[2]
        new = [part for a in (keys, values) for part in quantize(a, self.bits, self.group)]
        if not self.parts or self.offset > self.parts[0].shape[2]:
            room = -(-length // STEP) * STEP
            fresh = [mx.full((*part.shape[:2], room, part.shape[3]), 0, part.dtype) for part in new]
            if self.parts:
                held = [_end(part, 0, before) for part in self.parts] if before % STEP else self.parts
                fresh = [mx.concatenate(pair, -2) for pair in zip(held, fresh, strict=True)]
            self.parts = fresh
        for i, part in enumerate(new):
            held_part = self.parts[i]
            stop = (*held_part.shape[:2], self.offset, held_part.shape[3])
            self.parts[i] = mx.slice_update(held_part, part, (0, 0, before, 0), stop)
        found = self.parts
        if self.offset != found[0].shape[2]:
            found = [_end(part, 0, self.offset) for part in found]
        return found[:3], found[3:]

    def mask(self, length: int, window: int | None, written: bool) -> Any:
        return _mask(length, self.offset, written, window)

    @property
    def has_room(self) -> bool:
        """As of a ``KVCache``."""
        return self.offset < self.parts[0].shape[2]

    def pass_over(self) -> None:
        """As a ``KVCache``."""
        self.offset += 1

    def to_quantized(self, options: CacheOptions) -> QuantizedKVCache:
        return self

    def attention(self, q: Array, keys: list[Array], values: list[Array], scale: float, mask: Any) -> Array:
        """``base.py: quantized_scaled_dot_product_attention``."""
        batch, heads, length, dim = q.shape
        own = keys[0].shape[-3]
        repeats = heads // own
        q = q * scale
        if repeats > 1:
            q = mx.reshape(q, (batch, own, repeats, length, dim))
            keys, values = ([mx.expand_dims(part, -3) for part in parts] for parts in (keys, values))
        scores = mx.quantized_matmul(q, keys, True, self.bits, self.group)
        if mask is not None:
            if isinstance(mask, str):
                rows, columns = scores.shape[-2:]
                low = mx.expand_dims(mx.arange(columns - rows, columns), -1)
                mask = mx.binary("GreaterEqual", low, mx.expand_dims(mx.arange(0, columns), 0), "bool")
            scores = mx.where(mask, scores, mx.scalar(-1e30, scores.dtype))
        out = mx.quantized_matmul(mx.softmax(scores), values, False, self.bits, self.group)
        return mx.reshape(out, (batch, heads, length, dim)) if repeats > 1 else out


class RotatingKVCache(KVCache):
    """``RotatingKVCache``: the last tokens, of which the first ``keep`` stay."""

    def __init__(self, size: int, keep: int = 0) -> None:
        super().__init__()
        self.size, self.keep, self.index = size, keep, 0

    def update_and_fetch(self, keys: Array, values: Array) -> tuple[Any, Any]:
        if keys.shape[2] == 1:
            return self._in_place(keys, values)
        if self.keys is None or self.values is None:
            self.keys, self.values = keys, values
        else:
            self.keys, self.values = self._ordered(self.keys), self._ordered(self.values)
            trim = self.keys.shape[2] - self.size + 1
            self.keys, self.values = self._trimmed(trim, self.keys, keys), self._trimmed(trim, self.values, values)
        self.offset += keys.shape[2]
        self.index = self.keys.shape[2]
        return self.keys, self.values

    def _ordered(self, a: Array) -> Array:
        if self.index == a.shape[2]:
            return a
        if self.index < self.offset:
            parts = [_end(a, 0, self.keep), _end(a, self.index, a.shape[2]), _end(a, self.keep, self.index)]
            return mx.concatenate([part for part in parts if part.shape[2]], 2)
        return _end(a, 0, self.index)

    def _trimmed(self, trim: int, a: Array, more: Array | None = None) -> Array:
        parts = [_end(a, 0, self.keep), _end(a, trim + self.keep, a.shape[2])] if trim > 0 else [a]
        return mx.concatenate([*parts, *([more] if more is not None else [])], 2)

    def _in_place(self, keys: Array, values: Array) -> tuple[Array, Array]:
        before = self.offset
        if self.keys is None or (before >= self.keys.shape[2] and self.keys.shape[2] < self.size):
            room = min(STEP, self.size - before)
            fresh = [mx.full((*a.shape[:2], room, a.shape[3]), 0, a.dtype) for a in (keys, values)]
            held = self.arrays()
            self.keys, self.values = (
                [mx.concatenate(pair, 2) for pair in zip(held, fresh, strict=True)] if held else fresh
            )
            self.index = before
        assert self.values is not None
        trim = self.keys.shape[2] - self.size
        if trim > 0:
            self.keys, self.values = self._trimmed(trim, self.keys), self._trimmed(trim, self.values)
            self.index = self.size
        if self.index == self.size:
            self.index = self.keep
        start, stop = (0, 0, self.index, 0), (*self.keys.shape[:2], self.index + 1, self.keys.shape[3])
        self.keys = mx.slice_update(self.keys, keys, start, stop)
        self.values = mx.slice_update(self.values, values, start, stop)
        self.offset += 1
        self.index += 1
        return self._fetched(self.keys), self._fetched(self.values)

    def mask(self, length: int, window: int | None, written: bool) -> Any:
        if length > 1:
            window = window or self.size
            offset = min(self.size - 1, self.offset)
            return causal_mask(length, offset, window) if offset + length > window or written else "causal"
        return None

    @property
    def has_room(self) -> bool:
        held = 0 if self.keys is None else self.keys.shape[2]
        return held == self.size or self.offset < held < self.size

    def pass_over(self) -> None:
        self.offset += 1
        self.index = (self.keep if self.index == self.size else self.index) + 1

    def to_quantized(self, options: CacheOptions) -> RotatingKVCache:
        """Raises ``InputError``, where mlx-lm raises ``NotImplementedError``."""
        raise InputError(
            f"kv_bits: {options.kv_bits} does not go with a cache that rotates, which mlx-lm cannot quantise; leave "
            "kv_bits and max_kv_size out, or set quantized_kv_start behind the prompt"
        )


def make_caches(model: Model, options: CacheOptions) -> list[Any]:
    """``make_prompt_cache``: a model with layers of a window says which caches it has."""
    config = model.config
    if config["model_type"] in ("llama", "mistral", "gemma3_text"):
        return [RotatingKVCache(config["sliding_window"]) if layer.sliding else KVCache() for layer in model.layers]
    if options.max_kv_size is not None:
        return [RotatingKVCache(options.max_kv_size, 4) for _ in model.layers]
    return [KVCache() for _ in model.layers]


@dataclass
class Usage:
    """Bytes of a call."""

    parameters: int
    kv_cache: int
    peak: int
    """Above what was there before."""
    moments: Mapping[str, int]


def generate(model: Model, prompt: int, tokens: int, chunk: int, options: CacheOptions, evaluator: Evaluator) -> Usage:
    """A call of ``generate_step`` for one sequence.

    Tokens differ in what is cached before them alone. So the first and the last are run, and those for which a cache
    grows or is quantised.
    """
    slots = [(module, name) for module in model.modules() for name in module.arrays]
    for module, name in slots:
        evaluator.hold(module[name])
        module[name].refs += 1
    resident = evaluator.allocator.active
    evaluator.allocator.peak = resident
    caches = make_caches(model, options)
    moments: dict[str, int] = {}

    def run(length: int, moment: str, last: bool) -> None:
        nonlocal caches
        evaluator.allocator.peak = evaluator.allocator.active
        old = [a for cache in caches for a in cache.arrays()]
        ids = Array((1, length), "int32")
        evaluator.hold(ids)
        ids.refs = 1
        logits = model(ids, caches)
        if options.kv_bits is not None:
            caches = [
                cache.to_quantized(options) if cache.offset >= options.quantized_kv_start else cache for cache in caches
            ]
        outputs = [a for cache in caches for a in cache.arrays()]
        named = list(outputs)
        if last:
            logits = mx.squeeze(mx.slice_axis(logits, 1, length - 1, length), (1,))
            logprobs = mx.subtract(logits, _logsumexp(logits))
            sampled = mx.squeeze(Array((1, 1), "uint32", mx.Primitive("ArgReduce"), (logprobs,)), (1,))
            outputs = named = [sampled, mx.squeeze(logprobs, (0,))]
            named = [*named, *(a for cache in caches for a in cache.arrays())]
        count_references(named)
        for a in named:
            a.refs += 1
        for a in constants_of(named):
            a.refs += 1
            evaluator.hold(a)
        for a in old:
            evaluator.drop(a)
        evaluator.evaluate(outputs)
        evaluator.drop(ids)
        if last:
            for a in outputs:
                evaluator.drop(a)
        moments[moment] = max(moments.get(moment, 0), evaluator.allocator.peak - resident)

    left = prompt - 1
    while left:
        length = min(chunk, left)
        run(length, "prompt", False)
        evaluator.allocator.clear()
        left -= length
    for i in range(tokens + 1):
        starts = any(cache.offset == options.quantized_kv_start for cache in caches)
        if i < 2 or i == tokens or starts or not all(cache.has_room for cache in caches):
            run(1, "token", True)
            continue
        for cache in caches:
            cache.pass_over()
    return Usage(
        sum(module[name].nbytes for module, name in slots if name[0] != "_"),
        sum(a.nbytes for cache in caches for a in cache.arrays()),
        max(moments.values()),
        moments,
    )


def _logsumexp(a: Array) -> Array:
    # Of all axes; with one row MLX takes the kernel of the last axis.
    return Array((1, 1), a.dtype, mx.Primitive("LogSumExp"), (a,))
