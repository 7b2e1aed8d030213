"""PyTorch's CUDA caching allocator, replayed: ``torch.cuda.memory_reserved`` for a sequence of requests.

The rules are those of ``c10/cuda/CUDACachingAllocator.cpp``, the constants those of ``c10/core/AllocatorConfig.h``.
They hold for one device, without CUDA graphs and memory pools. Each stream has pools of its own: a block goes back to
the stream that it was allocated on. Of ``PYTORCH_ALLOC_CONF`` there are
``expandable_segments`` and ``max_split_size_mb``; the other options have their defaults.

A request is rounded up to 512 bytes. It is served by the small pool up to 1 MiB, else by the large pool. The pool's
best-fitting free block is taken, and split when enough of it remains. A pool without a fitting block gets a new
segment. A freed block merges with free neighbours in its segment and stays in the pool. Memory returns to the device
only as whole free segments: in ``empty_cache``, or when the device has no room for a new segment.

With expandable segments each pool is one range of addresses. It is mapped in granules where a request needs more room,
so that all neighbours can merge. A granule that no allocated block touches can be given back. The range is 9/8 of the
device's memory long. Where no gap is large enough for a request, the pool gets another range.

Addresses are made up: each new segment lies above the others. Which of several free blocks of one size is taken depends
on PyTorch's release (``TIES``), and the reserved bytes of a process depend on that.

``benchmarks/c10_allocator/record.py`` compares all this with PyTorch's own allocator, to the byte.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Literal

from ..snapshot import BlockState, Segment

MIB = 1 << 20
ROUNDING = 512
"""Requests are rounded up to a multiple of it (``kMinBlockSize``). In the small pool and with expandable segments, a
block is split where at least so much remains."""
SMALL_REQUEST = MIB
"""The largest rounded request of the small pool (``kSmallSize``). In the large pool a block is split where more than
so much remains."""
SMALL_SEGMENT = 2 * MIB
"""The segment, or granule, of the small pool (``kSmallBuffer``)."""
LARGE_SEGMENT = 20 * MIB
"""The granule of the large pool, or its segment for requests below ``OWN_SEGMENT`` (``large_segment_size_mb``)."""
OWN_SEGMENT = 10 * MIB
"""Requests of this size or more get a segment of their own (``kMinLargeAlloc``), ..."""
OWN_SEGMENT_ROUNDING = 2 * MIB
"""... rounded up to a multiple of this (``kRoundLarge``)."""
OVERSIZE_SLACK = 20 * MIB
"""A request of ``max_split_size`` or more takes a free block only if the block is less than this larger than the
request, and takes it whole (``max_non_split_rounding_mb``)."""
ENDLESS = 1 << 50
"""Device memory that stands for no limit."""

Ties = Literal["address", "block", "segment"]
"""Which of several free blocks of one size is taken.

- ``address``: the one at the lowest address (``BlockComparatorSize``). The driver hands out addresses downwards, so
  this is the block in the newest segment, and the lowest block within a segment.
- ``block``: the one that was made first (``BlockComparatorRegistrationCounter``, pull request 178362). A request that
  splits a free block makes a new block.
- ``segment``: the lowest one in the oldest segment (``BlockComparatorSizeCounterAddress``, pull request 183591).
"""
TIES: dict[str, Ties] = {
    **dict.fromkeys(("2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11"), "address"),
    "2.12": "block",
    **dict.fromkeys(("2.13", "2.14"), "segment"),
}
"""``Ties`` by release, from the comparator in each release's ``libc10_cuda.so``, which ``record.py`` runs."""
NEWEST = "2.14"
"""The release that is assumed where none is named."""


_ADDRESS, _SPOT = 64, 112
"""A free block's key is one number: its size in the bits from ``_SPOT`` on, its rank, which may be negative, in those
from ``_ADDRESS`` on, and its address. Comparing numbers is quicker than comparing tuples."""
_ADDRESSES = (1 << _ADDRESS) - 1
_HALF = 1 << (_SPOT - 1)


def _spot(rank: int, address: int) -> int:
    return (rank << _ADDRESS) + address


def _smallest_key(size: int) -> int:
    """What no key of a block of this size is below."""
    return (size << _SPOT) - _HALF


class Block:
    """A part of a segment, returned by ``malloc`` and given back by ``free``; callers change nothing in it."""

    __slots__ = ("allocated", "granules", "mapped", "next", "pool", "prev", "size", "spot")

    def __init__(
        self,
        pool: _Pool,
        spot: int,
        size: int,
        mapped: bool = True,
        prev: Block | None = None,
        next_: Block | None = None,
    ) -> None:
        self.pool = pool
        self.size = size
        self.spot = spot
        """Its rank and its address (``_spot``). By this, free blocks of one size are taken in turn."""
        self.mapped = mapped
        self.allocated = False
        self.granules = 0
        """Bytes of the segments that many equal blocks take; then the block stands for them (``CachingAllocator``)."""
        self.prev = prev
        self.next = next_

    @property
    def address(self) -> int:
        """The address of its first byte."""
        return self.spot & _ADDRESSES

    @property
    def rank(self) -> int:
        """What comes before the address where one of several free blocks of one size is taken."""
        return self.spot >> _ADDRESS

    @property
    def key(self) -> int:
        """Its place among the free blocks."""
        return (self.size << _SPOT) + self.spot

    @property
    def end(self) -> int:
        """The address behind the block's last byte."""
        return self.address + self.size

    @property
    def reach(self) -> int:
        """Bytes of the block with the unmapped block behind it, which could be mapped."""
        return self.size + (self.next.size if self.next and not self.next.mapped else 0)


class OutOfMemory(Exception):
    """The device has no room for a request's segment, even after all free segments were given back.

    All in bytes: ``requested`` by the caller (PyTorch's message has the segment's size instead), ``allocated`` and
    ``reserved`` at that moment, and the allocator's ``capacity``.
    """

    def __init__(self, requested: int, allocated: int, reserved: int, capacity: int) -> None:
        super().__init__(f"{requested} B requested; {allocated} B allocated, {reserved} B reserved of {capacity} B")
        self.requested, self.allocated, self.reserved, self.capacity = requested, allocated, reserved, capacity


class _Pool:
    """The free blocks of a pool, by their keys, and its unmapped blocks, by address."""

    def __init__(self, small: bool, expandable_segments: bool) -> None:
        self.small = small
        self.unsplit = ROUNDING - 1 if small or expandable_segments else SMALL_REQUEST
        """The most bytes that a request leaves of a block and that do not become a block of their own."""
        self.granule = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.spare = 0
        """Bytes of free segments of one granule each that many equal blocks had taken."""
        self.free: list[int] = []
        """The keys of the free blocks, in order."""
        self.blocks: dict[int, Block] = {}
        """The free blocks, by their keys."""
        self.unmapped: list[tuple[int, Block]] = []

    def add(self, block: Block) -> None:
        if block.mapped:
            key = block.key
            insort(self.free, key)
            self.blocks[key] = block
        else:
            insort(self.unmapped, (block.address, block))

    def remove(self, block: Block) -> None:
        if block.mapped:
            key = block.key
            del self.free[bisect_left(self.free, key)], self.blocks[key]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def insert(self, block: Block) -> Block:
        """Merge a block with its free, or unmapped, neighbours and add the result, which is returned, to its list."""
        before, after, mapped = block.prev, block.next, block.mapped
        if before is not None and not before.allocated and before.mapped == mapped:
            self.remove(before)
            _absorb_next(before)
            if before.rank != block.rank:
                before.spot = _spot(block.rank, before.address)
            block = before
        if after is not None and not after.allocated and after.mapped == mapped:
            self.remove(after)
            _absorb_next(block)
        self.add(block)
        return block


class CachingAllocator:
    """The allocator of one CUDA device in a process.

    ``allocated``, ``reserved``, ``peak_allocated`` and ``peak_reserved`` are the bytes that ``memory_allocated``,
    ``memory_reserved``, ``max_memory_allocated`` and ``max_memory_reserved`` of ``torch.cuda`` return.

    ``capacity``: bytes of the device for segments; ``None`` for no limit. ``max_split_size``: ``max_split_size_mb`` of
    ``PYTORCH_ALLOC_CONF`` in bytes; ``None``, as PyTorch's default, for no limit. ``device_memory``: all bytes of the
    device, from which the ranges of expandable segments have their length; by default the ``capacity``. ``ties``: which
    of several free blocks of one size is taken.
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
        self.max_split_size = ENDLESS if max_split_size is None else max_split_size
        self.ties = ties
        self._takes_first = not expandable_segments and max_split_size is None  # of the free blocks with room
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self.gave_back = False
        """Whether a request found no room before cached memory was given back to the device."""
        self._pools: dict[tuple[str, bool], _Pool] = {}
        """The pools of each stream, the large and the small one."""
        self._waiting: list[tuple[int, Block]] = []
        self._heads: dict[int, Block] = {}  # the first block of every segment or range, by address
        self._next_address = self._made = 0
        self.watch: Callable[[str, int, int], None] = lambda action, address, size: None
        """Called when memory is taken from the device or given back, with PyTorch's name for it (``TraceEntry``), the
        address and the bytes.
        """

    def malloc(self, nbytes: int, copies: int = 1, stream: str = "") -> Block:
        """A block for ``nbytes`` bytes, at least one: PyTorch allocates nothing for an empty tensor.

        ``copies``: it stands for so many equal blocks. ``stream``: whose memory it takes; empty for the default one.

        Raises ``OutOfMemory`` when ``capacity`` leaves no room for another segment. The free segments have then been
        given back, as in PyTorch.
        """
        size = rounded(nbytes)
        pool = self._pool(stream, size <= SMALL_REQUEST)
        if copies > 1:
            return self._many(pool, size, copies, stream)
        free = pool.free
        at = bisect_left(free, _smallest_key(size))
        if at == len(free):
            block = self._new_or_given_back(pool, size, nbytes)
        elif self._takes_first:
            block = pool.blocks.pop(free.pop(at))
        else:
            block = self._fitting(pool, size, at) or self._new_or_given_back(pool, size, nbytes)
        return self._take(block, size)

    def free(self, block: Block, until: int | None = None) -> None:
        """Give a block back to its pool. Raises ``ValueError`` for a block that is not allocated.

        ``until``: another stream uses it (``record_stream``). It is freed, but taken again only once the event of this
        number is ``reached``.
        """
        if not block.allocated:
            raise ValueError("the block is not allocated: was it freed before?")
        self.allocated -= block.size
        if until is not None and not block.granules:
            self._waiting.append((until, block))
            return
        block.allocated = False
        if block.granules:
            block.pool.spare += block.granules
        else:
            block.pool.insert(block)

    def play(
        self, order: Sequence[int], sizes: Sequence[int], blocks: dict[int, Block], copies: Mapping[int, int] = {}
    ) -> None:
        """``malloc`` and ``free`` for the entries of a log (``Events``), on the default stream; ``blocks`` are those of
        its allocations, ``copies`` for how many blocks some of them stand.
        """
        if not self._takes_first or self.ties == "block":
            one_by_one(self, order, sizes, blocks, copies)
            return
        # The same in one piece: calls would take half of the time.
        small, large = self._pool("", True), self._pool("", False)
        live, peak = self.allocated, self.peak_allocated
        for entry in order:
            if entry >= 0:
                if not (nbytes := sizes[entry]):
                    continue
                size = -(-nbytes // ROUNDING) * ROUNDING
                pool = small if size <= SMALL_REQUEST else large
                if entry in copies:
                    self.allocated, self.peak_allocated = live, peak
                    blocks[entry] = self.malloc(nbytes, copies[entry])
                    live, peak = self.allocated, self.peak_allocated
                    continue
                free, at = pool.free, bisect_left(pool.free, (size << _SPOT) - _HALF)
                if at < len(free):
                    block = pool.blocks.pop(free.pop(at))
                else:
                    self.allocated = live
                    block = self._new_or_given_back(pool, size, nbytes)
                if (left := block.size - size) > pool.unsplit:
                    after, spot = block.next, block.spot + size
                    rest = block.next = Block(pool, spot, left, True, block, after)
                    if after is not None:
                        after.prev = rest
                    block.size = size
                    key = (left << _SPOT) + spot
                    insort(free, key)
                    pool.blocks[key] = rest
                block.allocated = True
                blocks[entry] = block
                live += block.size
                if live > peak:
                    peak = live
            elif (one := blocks.pop(~entry, None)) is not None:
                block, pool = one, one.pool
                live -= block.size
                block.allocated = False
                if block.granules:
                    pool.spare += block.granules
                    continue
                free, before, after = pool.free, block.prev, block.next
                if before is not None and not before.allocated:
                    key = (before.size << _SPOT) + before.spot
                    del free[bisect_left(free, key)], pool.blocks[key]
                    before.size += block.size
                    before.next = after
                    if after is not None:
                        after.prev = before
                    block = before
                if after is not None and not after.allocated:
                    key = (after.size << _SPOT) + after.spot
                    del free[bisect_left(free, key)], pool.blocks[key]
                    block.size += after.size
                    block.next = after = after.next
                    if after is not None:
                        after.prev = block
                key = (block.size << _SPOT) + block.spot
                insort(free, key)
                pool.blocks[key] = block
        self.allocated, self.peak_allocated = live, peak

    def pass_by(self, most: int, more: int) -> None:
        """Count what is known to find and to leave the same free blocks: ``most`` bytes are allocated beyond those now,
        and ``more`` in the end.
        """
        self.peak_allocated = max(self.peak_allocated, self.allocated + most)
        self.allocated += more

    def small_state(self, blocks: Mapping[int, Block]) -> Hashable:
        """What decides how requests of the default stream's small pool go on, where a log has these blocks."""
        pool = self._pool("", True)
        return *pool.free, *((number, block.spot) for number, block in blocks.items() if block.pool is pool)

    def _pool(self, stream: str, small: bool) -> _Pool:
        pool = self._pools.get((stream, small))
        if pool is None:
            pool = self._pools[stream, small] = _Pool(small, self.expandable_segments)
        return pool

    def reached(self, event: int) -> None:
        """Blocks that wait for this event, or for one before it, can be taken (``process_events``)."""
        waiting, self._waiting = self._waiting, []
        for until, block in waiting:
            if until <= event:
                block.allocated = False
                block.pool.insert(block)
            else:
                self._waiting.append((until, block))

    def empty_cache(self) -> None:
        """``torch.cuda.empty_cache``: give all free segments, or granules, back to the device.

        All events are waited for (``synchronize_and_free_events``).
        """
        self.reached(max((until for until, _ in self._waiting), default=0))
        for pool in self._pools.values():
            self.reserved -= pool.spare
            pool.spare = 0
            for block in [pool.blocks[key] for key in pool.free]:
                if self.expandable_segments:
                    self._unmap(block)
                elif not block.prev and not block.next:
                    self._release(block)

    def copied(self, capacity: int | None) -> tuple[CachingAllocator, dict[Block, Block]]:
        """An allocator of segments in the same state with another ``capacity``, and its block for each of this one's.

        Those that stand for many are left out.
        """
        other, blocks = copy(self), dict[Block, Block]()
        other.capacity = capacity
        other._pools = {kind: _Pool(pool.small, self.expandable_segments) for kind, pool in self._pools.items()}
        pool_of = {pool: other._pools[kind] for kind, pool in self._pools.items()}
        for head in self._heads.values():
            block: Block | None = head
            before: Block | None = None
            while block is not None:
                one = blocks[block] = Block(pool_of[block.pool], block.spot, block.size)
                one.allocated, one.prev = block.allocated, before
                if before is not None:
                    before.next = one
                before, block = one, block.next
        for pool, one_pool in pool_of.items():
            one_pool.spare = pool.spare
            one_pool.free = [*pool.free]
            one_pool.blocks = {key: blocks[block] for key, block in pool.blocks.items()}
        other._waiting = [(until, blocks[block]) for until, block in self._waiting]
        other._heads = {address: blocks[head] for address, head in self._heads.items()}
        return other, blocks

    def reset_peaks(self) -> None:
        """``torch.cuda.reset_peak_memory_stats``: the peaks become the bytes allocated and reserved now."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def segments(self) -> list[Segment]:
        """All segments by address, as in ``torch.cuda.memory_snapshot``; with expandable segments, all runs of mapped
        granules.
        """
        found = []
        for head in self._heads.values():
            for run in _mapped_runs(head):
                states = tuple(BlockState(block.address - run[0].address, block.size, block.allocated) for block in run)
                found.append(Segment(run[0].address, sum(block.size for block in run), states, head.pool.small))
        return sorted(found)

    def _fitting(self, pool: _Pool, size: int, at: int) -> Block | None:
        """Take the best-fitting free block from the pool (``get_free_block``), the one ``at`` this place or behind."""
        free, blocks = pool.free, pool.blocks
        if self.expandable_segments:
            # A block that can still grow counts with the size that it can grow to: others are taken first.
            while at + 1 < len(free) and blocks[free[at + 1]].reach < blocks[free[at]].reach:
                at += 1
        block = blocks[free[at]]
        if size < self.max_split_size <= block.size or self.max_split_size <= size <= block.size - OVERSIZE_SLACK:
            return None
        del blocks[free.pop(at)]
        return block

    def _new(self, pool: _Pool, size: int) -> Block | None:
        """A block of memory newly taken from the device; ``None`` if the device has no room (``alloc_block``)."""
        if self.expandable_segments:
            return self._expanded(pool, size)
        segment = _segment_for(pool, size)
        if pool.spare >= segment == pool.granule:
            pool.spare -= segment
            return self._place(pool, segment)
        return self._place(pool, segment) if self._reserve(segment) else None

    def _many(self, pool: _Pool, size: int, copies: int, stream: str) -> Block:
        """A block that stands for ``copies`` blocks of ``size`` bytes.

        Where no free block has room for all, they are in segments of their own, each with as many blocks as fit.
        """
        whole = size * copies
        if self.expandable_segments:
            return self.malloc(whole, stream=stream)
        segment = _segment_for(pool, size)
        segment_blocks = segment // size
        granules = -(-copies // segment_blocks) * segment
        if pool.spare < granules:
            at = bisect_left(pool.free, _smallest_key(whole))
            if at < len(pool.free) and (block := self._fitting(pool, whole, at)) is not None:
                return self._take(block, whole)
            needed = granules - pool.spare
            if not self._reserve(needed):
                self.gave_back = True
                self.empty_cache()
                needed = granules
                if not self._reserve(needed):
                    raise OutOfMemory(whole, self.allocated, self.reserved, self.capacity or 0)
            pool.spare += needed
        pool.spare -= granules
        rest = segment - segment_blocks * size
        unsplit = rest if not pool.small and rest <= SMALL_REQUEST else 0  # the last block of a segment has it, too
        block = Block(pool, -1, whole + granules // segment * unsplit)
        block.granules = granules
        return self._take(block, block.size)

    def _take(self, block: Block, size: int) -> Block:
        """Allocate a block for a request. What is left of it may become a free block (``should_split``)."""
        pool = block.pool
        if block.size - size > pool.unsplit and (size < self.max_split_size or pool.unsplit < ROUNDING):
            pool.add(_cut(block, size))
            if self.ties == "block":
                self._new_rank(block)
        block.allocated = True
        self.allocated = allocated = self.allocated + block.size
        if allocated > self.peak_allocated:
            self.peak_allocated = allocated
        return block

    def _new_or_given_back(self, pool: _Pool, size: int, nbytes: int) -> Block:
        """A block of memory newly taken from the device, for which cached memory may have to be given back."""
        block = self._new(pool, size)
        if block is None and self._release_oversize(pool, size):
            block, self.gave_back = self._new(pool, size), True
        self.gave_back |= block is None
        if block is None:
            self.empty_cache()
            block = self._new(pool, size)
        if block is None:
            assert self.capacity is not None
            raise OutOfMemory(nbytes, self.allocated, self.reserved, self.capacity)
        return block

    def _place(self, pool: _Pool, size: int, mapped: bool = True) -> Block:
        """A new segment, or an unmapped range for expandable segments, above all other addresses."""
        self._made += 1
        rank = -self._made if self.ties == "address" and mapped else self._made
        block = self._heads[self._next_address] = Block(pool, _spot(rank, self._next_address), size, mapped)
        self._next_address = rounded(block.end, LARGE_SEGMENT)  # granules begin at multiples of their size
        if mapped:
            self.watch("segment_alloc", block.address, size)
        return block

    def _new_rank(self, block: Block) -> None:
        """Give a block that was split off a rank of its own, where ranks are of blocks and not of segments."""
        if self.ties == "block":
            self._made += 1
            block.spot = _spot(self._made, block.address)

    def _add_new(self, block: Block) -> None:
        self._new_rank(block)
        block.pool.add(block)

    def _expanded(self, pool: _Pool, size: int) -> Block | None:
        """A block in the lowest run of free and unmapped blocks with room (``try_allocate_expandable_block``)."""
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
                return None  # the granules mapped before stay mapped
            block = mapped
        pool.remove(block)
        return block

    def _lowest_run(self, pool: _Pool, size: int) -> Block:
        """The first block of the lowest run with room for the request, else a new range (``find_expandable_block``)."""
        for _, block in pool.unmapped:
            start = block.prev if block.prev and not block.prev.allocated else block
            room = 0
            following: Block | None = start
            while following and not following.allocated and room < size:
                room += following.size
                following = following.next
            if room >= size:
                return start
        block = self._place(pool, rounded(self.device_memory + self.device_memory // 8, pool.granule), mapped=False)
        pool.add(block)
        return block

    def _map(self, block: Block, size: int) -> Block | None:
        """Map the first ``size`` bytes of an unmapped block, rounded up to granules (``map_block``)."""
        size = rounded(size, block.pool.granule)
        if not self._reserve(size):
            return None
        block.pool.remove(block)
        if size < block.size:
            self._add_new(_cut(block, size))
        block.mapped = True
        self.watch("segment_map", block.address, size)
        return block.pool.insert(block)

    def _unmap(self, block: Block) -> None:
        """Give back the granules that lie wholly in a free block, and a range without blocks (``unmap_block``)."""
        granule = block.pool.granule
        start, end = rounded(block.address, granule), block.end // granule * granule
        if start >= end:
            return
        block.pool.remove(block)
        if block.address < start:
            front, block = block, _cut(block, start - block.address)
            self._add_new(front)
        if end < block.end:
            self._add_new(_cut(block, end - block.address))
        block.mapped = False
        self.reserved -= block.size
        self.watch("segment_unmap", block.address, block.size)
        block = block.pool.insert(block)
        if not block.prev and not block.next:
            block.pool.remove(block)
            del self._heads[block.address]

    def _release(self, block: Block) -> None:
        """Give back the segment of a free block that is all of it (``release_block``)."""
        block.pool.remove(block)
        del self._heads[block.address]
        self.reserved -= block.size
        self.watch("segment_free", block.address, block.size)

    def _release_oversize(self, pool: _Pool, size: int) -> bool:
        """Give back as many oversize free blocks as the request needs (``release_available_cached_blocks``)."""
        if self.max_split_size == ENDLESS or self.expandable_segments:
            return False
        at = bisect_left(pool.free, _smallest_key(size))
        if at < len(pool.free):
            self._release(pool.blocks[pool.free[at]])
            return True
        released = 0
        while pool.free and released < size and (largest := pool.blocks[pool.free[-1]]).size >= self.max_split_size:
            released += largest.size
            self._release(largest)
        return released >= size

    def _reserve(self, size: int) -> bool:
        if self.capacity is not None and self.reserved + size > self.capacity:
            return False
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True


def one_by_one(
    allocator: Any, order: Sequence[int], sizes: Sequence[int], blocks: dict[int, Any], copies: Mapping[int, int] = {}
) -> None:
    """``CachingAllocator.play`` by calls of any allocator's ``malloc`` and ``free``."""
    for entry in order:
        if entry >= 0:
            if sizes[entry]:
                blocks[entry] = allocator.malloc(sizes[entry], copies.get(entry, 1))
        elif (gone := blocks.pop(~entry, None)) is not None:
            allocator.free(gone)


def rounded(size: int, unit: int = ROUNDING) -> int:
    """``size`` rounded up to a multiple of ``unit``."""
    return -(-size // unit) * unit


def _segment_for(pool: _Pool, size: int) -> int:
    """Bytes of a new segment for a request of ``size`` bytes (``get_allocation_size``)."""
    return pool.granule if size < OWN_SEGMENT else rounded(size, OWN_SEGMENT_ROUNDING)


def _cut(block: Block, size: int) -> Block:
    """Shorten a block to ``size`` bytes. Returns the rest as a new block behind it."""
    after = block.next
    rest = Block(block.pool, block.spot + size, block.size - size, block.mapped, block, after)
    if after is not None:
        after.prev = rest
    block.next = rest
    block.size = size
    return rest


def _absorb_next(block: Block) -> None:
    gone = block.next
    assert gone is not None
    block.size += gone.size
    block.next = after = gone.next
    if after is not None:
        after.prev = block


def _mapped_runs(head: Block) -> Iterator[list[Block]]:
    """The runs of adjacent mapped blocks in the range that begins with ``head``."""
    run: list[Block] = []
    block: Block | None = head
    while block:
        if block.mapped:
            run.append(block)
        if run and (not block.mapped or not block.next):
            yield run
            run = []
        block = block.next
