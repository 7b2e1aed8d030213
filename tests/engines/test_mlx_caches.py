"""The caches of mlx-lm. Witness: ``mlx_lm/models/cache.py``, worked out by hand: what is held, and what is given."""

from __future__ import annotations

from typing import Any

from estimator.engines.mlx.arrays import Array
from estimator.engines.mlx.generation import CacheOptions, KVCache, QuantizedKVCache, RotatingKVCache, quantize


def added(cache: Any, tokens: int) -> tuple[int, int]:
    """The tokens that a cache holds and gives after so many more."""
    new = Array((1, 2, tokens, 64), "float16")
    keys, values = cache.update_and_fetch(new, new)
    keys, values = (one[0] if isinstance(one, list) else one for one in (keys, values))
    held = cache.arrays()
    assert keys.shape == values.shape
    assert held[0].shape == held[-3 if isinstance(cache, QuantizedKVCache) else -1].shape
    return held[0].shape[2], keys.shape[2]


def passed(cache: Any, tokens: int) -> None:
    for _ in range(tokens):
        assert cache.has_room
        cache.pass_over()


def test_a_cache_grows_by_256_tokens() -> None:
    """What a part of a step leaves free is dropped when it grows."""
    cache = KVCache()
    assert not cache.has_room
    assert added(cache, 5) == (256, 5)
    passed(cache, 251)
    assert not cache.has_room
    assert added(cache, 1) == (512, 257)
    assert added(cache, 300) == (257 + 512, 557)
    assert cache.has_room
    assert added(cache, 212) == (769, 769)
    assert not cache.has_room
    assert (cache.mask(1, None, False), cache.mask(2, None, False)) == (None, "causal")
    assert isinstance(cache.mask(2, None, True), Array)
    assert isinstance(cache.mask(1, 16, False), Array)


def test_a_cache_that_rotates_keeps_the_first() -> None:
    """The room ends at its size, then the oldest but the first four are written over."""
    cache = RotatingKVCache(300, 4)
    assert not cache.has_room
    assert added(cache, 100) == (100, 100)
    assert not cache.has_room
    assert added(cache, 1) == (300, 101)
    passed(cache, 199)
    assert (cache.index, cache.offset) == (300, 300)
    assert added(cache, 1) == (300, 300)
    assert (cache.index, cache.offset) == (5, 301)
    assert added(cache, 3) == (302, 302)
    assert added(cache, 1) == (300, 300)
    assert cache.index == 5
    passed(cache, 296)
    assert (cache.index, cache.offset) == (5, 601)


def test_a_cache_that_rotates_grows_to_its_size() -> None:
    """In steps of 256 while tokens come one by one; a part behind them is put together with those that are there."""
    cache = RotatingKVCache(300)
    assert added(cache, 1) == (256, 1)
    passed(cache, 255)
    assert not cache.has_room
    assert added(cache, 1) == (300, 257)
    assert cache.index == 257
    assert added(cache, 5) == (262, 262)
    assert cache.mask(1, None, False) is None
    assert cache.mask(38, None, False) == "causal"
    assert isinstance(cache.mask(39, None, False), Array)
    assert isinstance(cache.mask(2, None, True), Array)


def test_integers_of_a_cache() -> None:
    """Four of 8 bits in 32, a scale and a bias for each 64 numbers."""
    shapes = [one.shape for one in quantize(Array((1, 2, 7, 128), "float16"), 8, 64)]
    assert shapes == [(1, 2, 7, 32), (1, 2, 7, 2), (1, 2, 7, 2)]
    cache = QuantizedKVCache(4, 32)
    assert added(cache, 6) == (256, 6)
    assert [one.shape[3] for one in cache.arrays()] == [8, 2, 2] * 2
    assert added(cache, 300) == (6 + 512, 306)
    assert added(cache, 212) == (518, 518)
    assert not cache.has_room
    plain = KVCache()
    added(plain, 256)
    of_plain: Any = plain.to_quantized(CacheOptions(None, 4, 32, 0))
    assert (of_plain.bits, of_plain.group, of_plain.offset) == (4, 32, 256)
    assert added(of_plain, 1) == (512, 257)
    passed(of_plain, 255)
    assert not of_plain.has_room
