"""The allocations of a step on a CPU, replayed: every tensor has a mapping of its own."""

from __future__ import annotations

from ...ledger import Events, Origin, whole
from ...steps.step import run
from ..engine import Job
from ..replay import KINDS, PARAMETER, STATE, STATES, Timeline, kind_of, state_sizes
from ..snapshot import BlockState, Segment, Snapshot, loaded

PAGE = 4096
"""Bytes of a page: mappings begin at its multiples. None begins at zero."""


class Mappings:
    """An allocator that gives every tensor a mapping of its own, which is returned when the tensor is freed."""

    def __init__(self, snapshot: Snapshot, timeline: Timeline | None = None) -> None:
        self.snapshot, self.timeline = snapshot, timeline
        self.allocated = self.peak = 0
        self._next_address = PAGE
        self._live: dict[int, tuple[int, int]] = {}
        """By address, the bytes and the kind of each live tensor."""
        self._kinds = [0] * len(KINDS)

    def malloc(self, nbytes: int, kind: int, origin: Origin) -> int:
        """The address of a new tensor of at least one byte. ``kind`` is an index into ``KINDS``."""
        address = self._next_address
        self._next_address += -(-nbytes // PAGE) * PAGE
        self._live[address] = nbytes, kind
        self.snapshot.segment("segment_alloc", address, nbytes)
        self.snapshot.allocated(address, nbytes, kind, origin)
        self._add(nbytes, kind)
        return address

    def free(self, address: int) -> None:
        """Free a tensor."""
        nbytes, kind = self._live.pop(address)
        self.snapshot.freed(address)
        self.snapshot.segment("segment_free", address, nbytes)
        self._add(-nbytes, kind)

    def _add(self, nbytes: int, kind: int) -> None:
        self.allocated += nbytes
        self.peak = max(self.peak, self.allocated)
        if self.timeline is not None:
            self._kinds[kind] += nbytes
            self.timeline.live.append(tuple(self._kinds))
            self.timeline.reserved.append(self.allocated)

    def segments(self) -> list[Segment]:
        """The mappings by address."""
        return [
            Segment(address, nbytes, (BlockState(0, nbytes, True),), small=False)
            for address, (nbytes, _) in self._live.items()
        ]


def replay(job: Job, timeline: Timeline | None = None, snapshot: Snapshot | None = None) -> int:
    """Note the allocations of a step with every layer, after those of what is resident. Returns the peak in bytes.

    With ``gradient_accumulation_steps``, and where the loop holds the output, forward and backward run twice, since the
    second run finds what the first one left.
    """
    plan, step = job.plan, job.step
    ledger = step.ledger(unrolled=True, events=Events(with_origins=True))
    run(step, job.sizes(), job.method, plan.batch, plan.seq, ledger=ledger)
    events = ledger.events
    assert events is not None
    snapshot = Snapshot() if snapshot is None else snapshot
    allocator, addresses = Mappings(snapshot, timeline), dict[int, int]()
    names = {p.storage.event: p.name for p in ledger.parameters}
    start = events.marks["forward"]

    def play(first: int, stop: int) -> None:
        for entry in events.order[first:stop]:
            if entry < 0:
                allocator.free(addresses.pop(~entry))
                continue
            resident = first < start
            kind = PARAMETER if resident else kind_of(events, entry)
            origin = loaded(names.get(entry, "buffers")) if resident else events.origins[entry]
            addresses[entry] = allocator.malloc(events.sizes[entry], kind, origin)

    def enter(part: str) -> None:
        snapshot.part = part
        if timeline is not None:
            timeline.parts.append((len(timeline.live), part))

    snapshot.step = 1
    enter("load")
    play(0, start)
    for nbytes in filter(None, map(whole, state_sizes(job.step, job.method, ledger))):
        allocator.malloc(nbytes, STATE, STATES._replace(phase="load"))
    marks = sorted((at, part) for part, at in events.marks.items())
    for (at, part), (stop, _) in zip(marks, [*marks[1:], (len(events.order), "")], strict=True):
        enter(part)
        play(at, stop)
    snapshot.taken(allocator.allocated)
    snapshot.segments = allocator.segments()
    return allocator.peak
