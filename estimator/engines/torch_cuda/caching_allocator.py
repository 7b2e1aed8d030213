"""PyTorch's CUDA caching allocator, replayed: what ``torch.cuda.memory_reserved`` shows for a sequence of requests.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp`` and the constants those of
``c10/core/AllocatorConfig.h``, for one device, one stream, no CUDA graphs and no memory
pools, with two options of ``PYTORCH_ALLOC_CONF``: ``expandable_segments`` and ``max_split_size_mb``.
The others have their defaults, with which ``roundup_power2_divisions`` and
``garbage_collection_threshold`` do nothing.

A request is rounded up to 512 bytes. Up to 1 MiB it comes from the small pool, above from the large
one. The pool's best-fitting free block serves it and is split when enough remains; a pool without a
fitting block gets a new segment. A freed block merges with free neighbours of its segment and stays
with the pool: memory returns to the device only as a whole segment without a live block, in
``empty_cache`` or when the device has no room for a new one.

With expandable segments each pool is one range of addresses, mapped by granules where a request
needs more room, so that neighbours merge across what else would be segment boundaries. A granule is
given back once no live block touches it. The range has 9/8 of the device's memory; where its gaps are
too small for a request, there is another.

Addresses are made up: every segment's is above those before. Which of the free blocks of one size is
taken depends on PyTorch's release (``TIES``), and a process's reserved bytes on that.

``benchmarks/c10_allocator/record.py`` compares all this with PyTorch's own allocator, to the byte.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from sys import maxsize
from typing import Literal, NamedTuple

MIB = 1 << 20
ROUNDING = 512
"""Requests are rounded up to it (``kMinBlockSize``); the small pool and expandable segments split off no less."""
SMALL_REQUEST = MIB
"""Largest rounded request of the small pool (``kSmallSize``); the large pool splits off only more than it."""
SMALL_SEGMENT = 2 * MIB
"""Segment, or granule, of the small pool (``kSmallBuffer``)."""
LARGE_SEGMENT = 20 * MIB
"""Segment of the large pool for requests below ``OWN_SEGMENT``, or its granule (``large_segment_size_mb``)."""
OWN_SEGMENT = 10 * MIB
"""From this request on a segment is the request's own (``kMinLargeAlloc``) ..."""
OWN_SEGMENT_ROUNDING = 2 * MIB
"""... rounded up to a multiple of this (``kRoundLarge``)."""
OVERSIZE_SLACK = 20 * MIB
"""A request of ``max_split_size`` and more takes a free block less than this larger than itself, whole
(``max_non_split_rounding_mb``)."""
ENDLESS = 1 << 50
"""Device memory that stands for no limit."""

Ties = Literal["address", "block", "segment"]
"""Which of the free blocks of one size comes first.

- ``address``: the one at the lowest address (``BlockComparatorSize``). The driver hands addresses out
  downwards, so of two segments it is the newer, and within a segment the lower block.
- ``block``: the one that was made first (``BlockComparatorRegistrationCounter``, pull request 178362). A
  request that splits a free block makes one, for itself.
- ``segment``: the one in the oldest segment, then the lowest (``BlockComparatorSizeCounterAddress``, pull
  request 183591).
"""
TIES: dict[str, Ties] = {
    **dict.fromkeys(("2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11"), "address"),
    "2.12": "block",
    **dict.fromkeys(("2.13", "2.14"), "segment"),
}
"""Ties by release: the comparator that each one's ``libc10_cuda.so`` has, which ``record.py`` runs."""
NEWEST = "2.14"
"""The release that is taken where none is named."""


class Block:
    """A piece of a segment. ``malloc`` gives it out and ``free`` takes it back; nothing else should touch it."""

    __slots__ = ("address", "allocated", "mapped", "next", "pool", "prev", "rank", "size")

    def __init__(self, pool: _Pool, address: int, size: int, rank: int, mapped: bool = True) -> None:
        self.pool = pool
        self.address = address
        self.size = size
        self.rank = rank
        self.mapped = mapped
        self.allocated = False
        self.prev: Block | None = None
        self.next: Block | None = None

    @property
    def end(self) -> int:
        """Address after the block's last byte."""
        return self.address + self.size

    @property
    def reach(self) -> int:
        """Bytes the block has or can have once the unmapped block behind it is mapped."""
        return self.size + (self.next.size if self.next and not self.next.mapped else 0)


class BlockState(NamedTuple):
    """A block within its segment: offset and size in bytes, and whether it is in use."""

    offset: int
    size: int
    allocated: bool


class Segment(NamedTuple):
    """Memory taken from the device as one piece, address and size in bytes, with the blocks that tile it."""

    address: int
    size: int
    blocks: tuple[BlockState, ...]


class OutOfMemory(Exception):
    """No segment could be had for a request, even after all free segments were given back.

    All in bytes: ``requested`` as the caller asked (PyTorch's message names the segment it tried instead),
    ``allocated`` and ``reserved`` at that moment, and the ``capacity`` given to the allocator.
    """

    def __init__(self, requested: int, allocated: int, reserved: int, capacity: int) -> None:
        super().__init__(f"{requested} B requested; {allocated} B allocated, {reserved} B reserved of {capacity} B")
        self.requested = requested
        self.allocated = allocated
        self.reserved = reserved
        self.capacity = capacity


class _Pool:
    """Blocks of one size class: the free ones by size, rank and address, the unmapped ones by address."""

    def __init__(self, small: bool) -> None:
        self.small = small
        self.granule = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.free: list[tuple[int, int, int, Block]] = []
        self.unmapped: list[tuple[int, Block]] = []

    def add(self, block: Block) -> None:
        if block.mapped:
            insort(self.free, (block.size, block.rank, block.address, block))
        else:
            insort(self.unmapped, (block.address, block))

    def remove(self, block: Block) -> None:
        if block.mapped:
            del self.free[bisect_left(self.free, (block.size, block.rank, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def insert(self, block: Block) -> Block:
        """Put a block that is in neither list into its own, merged with neighbours of its kind; returns the whole."""
        before, after = block.prev, block.next
        if before and not before.allocated and before.mapped == block.mapped:
            self.remove(before)
            _absorb_next(before)
            before.rank = block.rank
            block = before
        if after and not after.allocated and after.mapped == block.mapped:
            self.remove(after)
            _absorb_next(block)
        self.add(block)
        return block


class CachingAllocator:
    """The allocator of one CUDA device, as a process that works on one stream sees it.

    Attributes, in bytes: ``allocated`` and ``reserved`` are what ``torch.cuda.memory_allocated`` and
    ``memory_reserved`` return, ``peak_allocated`` and ``peak_reserved`` what ``max_memory_allocated`` and
    ``max_memory_reserved`` do.

    ``capacity``: bytes the device has for segments, ``None`` without limit. ``max_split_size``: bytes, of
    ``PYTORCH_ALLOC_CONF=max_split_size_mb``, ``None`` without limit as is PyTorch's default. ``device_memory``:
    bytes the device has in all, which sets how long the ranges of expandable segments are; ``capacity`` if not
    given. ``ties``: which of equal free blocks comes first.
    """

    def __init__(
        self,
        expandable_segments: bool = False,
        capacity: int | None = None,
        max_split_size: int | None = None,
        device_memory: int | None = None,
        ties: Ties = TIES[NEWEST],
    ) -> None:
        self.expandable_segments = expandable_segments
        self.capacity = capacity
        self.device_memory = device_memory or capacity or ENDLESS
        self.max_split_size = maxsize if max_split_size is None else max_split_size
        self.ties = ties
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._large, self._small = _Pool(small=False), _Pool(small=True)
        self._heads: dict[int, Block] = {}  # the first block of every segment or range, by address
        self._next_address = self._made = 0

    def malloc(self, nbytes: int) -> Block:
        """A block for ``nbytes`` bytes, of which there must be at least one: PyTorch takes none for an empty tensor.

        Raises ``OutOfMemory`` when ``capacity`` leaves no room for another segment after the free ones
        are given back; what was given back stays so, as in PyTorch.
        """
        size = _rounded(nbytes, ROUNDING)
        pool = self._small if size <= SMALL_REQUEST else self._large
        block = self._fitting(pool, size) or self._new(pool, size)
        if block is None and self._release_oversize(pool, size):
            block = self._new(pool, size)
        if block is None:
            self.empty_cache()
            block = self._new(pool, size)
        if block is None:
            assert self.capacity is not None
            raise OutOfMemory(nbytes, self.allocated, self.reserved, self.capacity)
        if self._splits(block, size):
            pool.add(_cut(block, size))
            self._rank(block)
        block.allocated = True
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def free(self, block: Block) -> None:
        """Give a block back to its pool, once. Raises ``ValueError`` for a block that is not in use."""
        if not block.allocated:
            raise ValueError("the block is not in use: was it freed before?")
        block.allocated = False
        self.allocated -= block.size
        block.pool.insert(block)

    def empty_cache(self) -> None:
        """``torch.cuda.empty_cache``: give every segment, or granule, without a block in use back to the device."""
        for pool in self._large, self._small:
            for *_, block in list(pool.free):
                if self.expandable_segments:
                    self._unmap(block)
                elif not block.prev and not block.next:
                    self._release(block)

    def reset_peaks(self) -> None:
        """``torch.cuda.reset_peak_memory_stats``: peaks start again from what is allocated and reserved now."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def segments(self) -> list[Segment]:
        """All segments by address, as ``torch.cuda.memory_snapshot`` has them.

        A run of mapped granules counts as one segment with expandable segments.
        """
        found = []
        for head in self._heads.values():
            for run in _mapped_runs(head):
                states = tuple(BlockState(block.address - run[0].address, block.size, block.allocated) for block in run)
                found.append(Segment(run[0].address, sum(block.size for block in run), states))
        return sorted(found)

    def _fitting(self, pool: _Pool, size: int) -> Block | None:
        """Take the best-fitting free block from the pool (``get_free_block``)."""
        free = pool.free
        at = bisect_left(free, (size,))
        if at == len(free):
            return None
        if self.expandable_segments:
            # A block that can still grow counts with the size it can grow to, so that a closed gap goes first.
            while at + 1 < len(free) and free[at + 1][3].reach < free[at][3].reach:
                at += 1
        block = free[at][3]
        if size < self.max_split_size <= block.size or self.max_split_size <= size <= block.size - OVERSIZE_SLACK:
            return None
        del free[at]
        return block

    def _splits(self, block: Block, size: int) -> bool:
        """Whether what a request leaves of its block becomes a free block (``should_split``)."""
        if block.pool.small or self.expandable_segments:
            return block.size - size >= ROUNDING
        return size < self.max_split_size and block.size - size > SMALL_REQUEST

    def _new(self, pool: _Pool, size: int) -> Block | None:
        """A block on memory newly taken from the device, ``None`` if it has no room (``alloc_block``)."""
        if self.expandable_segments:
            return self._expanded(pool, size)
        segment = pool.granule if size < OWN_SEGMENT else _rounded(size, OWN_SEGMENT_ROUNDING)
        return self._place(pool, segment) if self._reserve(segment) else None

    def _place(self, pool: _Pool, size: int, mapped: bool = True) -> Block:
        """A segment, or an unmapped range for expandable segments, at addresses above all others."""
        self._made += 1
        rank = -self._made if self.ties == "address" and mapped else self._made
        block = self._heads[self._next_address] = Block(pool, self._next_address, size, rank, mapped)
        self._next_address = _rounded(block.end, LARGE_SEGMENT)  # granules begin at multiples of their size
        return block

    def _rank(self, made: Block) -> None:
        """Give a block that was cut off another a rank of its own, if blocks have one; else it has its segment's."""
        if self.ties == "block":
            self._made += 1
            made.rank = self._made

    def _expanded(self, pool: _Pool, size: int) -> Block | None:
        """The lowest run of free and unmapped blocks that has room, mapped (``try_allocate_expandable_block``)."""
        block = self._lowest_run(pool, size)
        if not block.mapped:
            mapped = self._map(block, min(size, block.size))
            if mapped is None:
                return None
            block = mapped
        while block.size < size:
            assert block.next is not None
            mapped = self._map(block.next, min(size - block.size, block.next.size))
            if mapped is None:
                return None  # what was mapped on the way stays mapped
            block = mapped
        pool.remove(block)
        return block

    def _lowest_run(self, pool: _Pool, size: int) -> Block:
        """First block of the lowest run that takes the request, if need be a new range (``find_expandable_block``)."""
        for _, block in pool.unmapped:
            start = block.prev if block.prev and not block.prev.allocated else block
            room = 0
            following: Block | None = start
            while following and not following.allocated and room < size:
                room += following.size
                following = following.next
            if room >= size:
                return start
        block = self._place(pool, _rounded(self.device_memory + self.device_memory // 8, pool.granule), mapped=False)
        pool.add(block)
        return block

    def _map(self, block: Block, size: int) -> Block | None:
        """Back the first ``size`` bytes of an unmapped block, rounded up to granules (``map_block``)."""
        size = _rounded(size, block.pool.granule)
        if not self._reserve(size):
            return None
        block.pool.remove(block)
        if size < block.size:
            rest = _cut(block, size)
            self._rank(rest)
            block.pool.add(rest)
        block.mapped = True
        return block.pool.insert(block)

    def _unmap(self, block: Block) -> None:
        """Give back the granules that lie wholly in a free block, and the range once it is empty (``unmap_block``)."""
        granule = block.pool.granule
        start, end = _rounded(block.address, granule), block.end // granule * granule
        if start >= end:
            return
        block.pool.remove(block)
        if block.address < start:
            front, block = block, _cut(block, start - block.address)
            self._rank(front)
            front.pool.add(front)
        if end < block.end:
            rest = _cut(block, end - block.address)
            self._rank(rest)
            rest.pool.add(rest)
        block.mapped = False
        self.reserved -= block.size
        block = block.pool.insert(block)
        if not block.prev and not block.next:
            block.pool.remove(block)
            del self._heads[block.address]

    def _release(self, block: Block) -> None:
        """Give back the segment that a free block fills (``release_block``)."""
        block.pool.remove(block)
        del self._heads[block.address]
        self.reserved -= block.size

    def _release_oversize(self, pool: _Pool, size: int) -> bool:
        """Give back just enough oversize free blocks for the request (``release_available_cached_blocks``)."""
        if self.max_split_size == maxsize or self.expandable_segments:
            return False
        at = bisect_left(pool.free, (size,))
        if at < len(pool.free):
            self._release(pool.free[at][3])
            return True
        released = 0
        while pool.free and released < size and pool.free[-1][0] >= self.max_split_size:
            released += pool.free[-1][0]
            self._release(pool.free[-1][3])
        return released >= size

    def _reserve(self, size: int) -> bool:
        if self.capacity is not None and self.reserved + size > self.capacity:
            return False
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True


def _rounded(size: int, unit: int) -> int:
    """The least multiple of ``unit`` that is not below ``size``."""
    return -(-size // unit) * unit


def _cut(block: Block, size: int) -> Block:
    """Shorten a block to ``size`` bytes; returns the rest, its neighbour."""
    rest = Block(block.pool, block.address + size, block.size - size, block.rank, block.mapped)
    rest.prev, rest.next = block, block.next
    if rest.next:
        rest.next.prev = rest
    block.next = rest
    block.size = size
    return rest


def _absorb_next(block: Block) -> None:
    gone = block.next
    assert gone is not None
    block.size += gone.size
    block.next = gone.next
    if block.next:
        block.next.prev = block


def _mapped_runs(head: Block) -> Iterator[list[Block]]:
    """Runs of adjacent mapped blocks of the range that begins with ``head``."""
    run: list[Block] = []
    block: Block | None = head
    while block:
        if block.mapped:
            run.append(block)
        if run and (not block.mapped or not block.next):
            yield run
            run = []
        block = block.next
