"""Sequences of requests for the caching allocator, the same in every process and Python version, and the
settings they run under. ``benchmarks/c10_allocator/record.py`` ran PyTorch's allocator over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from estimator.engines.torch_cuda.caching_allocator import MIB, NEWEST, TIES, Block, CachingAllocator, OutOfMemory, Ties
from tests.helpers.files import DATA

RECORD = DATA / "allocator_record.json"
EVERY = 100
"""One row in so many is kept in the record; peaks carry what happens between."""

Request = tuple[str, int, int]
"""``m`` number bytes, ``f`` number 0, or ``e`` 0 0: ``empty_cache``."""
Row = tuple[int, int, int, int, int]
"""Out-of-memory errors so far, then bytes allocated and reserved and the peaks of both."""


class Setting(NamedTuple):
    expandable: bool
    capacity: int | None
    max_split: int | None = None
    device: int | None = None

    def allocator(self, ties: Ties = TIES[NEWEST]) -> CachingAllocator:
        return CachingAllocator(self.expandable, self.capacity, self.max_split, self.device, ties)


SETTINGS = {
    "default": Setting(False, None),
    "default, 700 MiB": Setting(False, 700 * MIB),
    "max_split_size": Setting(False, None, 64 * MIB),
    "max_split_size, 700 MiB": Setting(False, 700 * MIB, 64 * MIB),
    "expandable": Setting(True, None),
    "expandable, 700 MiB": Setting(True, 700 * MIB),
    "expandable, 700 MiB of 1000 MiB": Setting(True, 700 * MIB, None, 1000 * MIB),
    "expandable, max_split_size, 700 MiB": Setting(True, 700 * MIB, 64 * MIB),
}


def _random(seed: int) -> Callable[[int], int]:
    """A linear congruential generator (Knuth's MMIX constants): the next number below a bound."""
    state = seed

    def below(bound: int) -> int:
        nonlocal state
        state = (6364136223846793005 * state + 1442695040888963407) % (1 << 64)
        return (state >> 33) % bound

    return below


def make_requests(seed: int, size: Callable[[Callable[[int], int]], int], count: int = 1200) -> list[Request]:
    below = _random(seed)
    live: list[int] = []
    found: list[Request] = []
    for number in range(count):
        chance = below(1000)
        if chance < 3:
            found.append(("e", 0, 0))
        elif chance < 540 or not live:
            found.append(("m", number, size(below)))
            live.append(number)
        else:
            at = (0, len(live) - 1, below(len(live)))[below(3)]
            found.append(("f", live.pop(at), 0))
    return found


LIMITS = (512, MIB, 2 * MIB, 10 * MIB, 18 * MIB, 19 * MIB, 20 * MIB, 44 * MIB, 64 * MIB, 84 * MIB)
SEQUENCES = {
    "any size": make_requests(1, lambda below: 1 + below(1 << (10 + below(18)))),
    "small": make_requests(2, lambda below: 1 + below(MIB + 1)),
    "at the limits": make_requests(3, lambda below: LIMITS[below(len(LIMITS))] + (-512, 0, 0, 1, 512)[below(5)] or 1),
    "few sizes": make_requests(4, lambda below: (3, 7, 11, 25, 40, 66)[below(6)] * MIB - 12345),
}


def replay(requests: list[Request], allocator: CachingAllocator) -> Iterator[Row]:
    live: dict[int, Block] = {}
    failures = 0
    for action, number, nbytes in requests:
        if action == "e":
            allocator.empty_cache()
        elif action == "f":
            if number in live:
                allocator.free(live.pop(number))
        else:
            try:
                live[number] = allocator.malloc(nbytes)
            except OutOfMemory:
                failures += 1
        yield (
            failures,
            allocator.allocated,
            allocator.reserved,
            allocator.peak_allocated,
            allocator.peak_reserved,
        )
