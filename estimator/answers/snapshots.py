"""A plan's process replayed allocation by allocation, as a timeline and as PyTorch's memory snapshot."""

from __future__ import annotations

from dataclasses import dataclass

from ..engines.replay import Phase, Timeline
from ..engines.snapshot import Snapshot, pickled
from ..plans.plan import Plan
from ..plans.resolve import resolve


@dataclass(frozen=True)
class Replayed:
    """A process that was replayed. Sizes are bytes; on a CPU nothing is reserved beyond what is allocated."""

    timeline: Timeline
    snapshot: Snapshot | None
    allocated_peak: int
    reserved_peak: int
    phases: tuple[Phase, ...] = ()
    """On a GPU, the phases of loading and of the last step."""
    failed: str = ""
    """A sentence that says where the process runs out of memory, if it does."""
    expandable_segments: bool = False

    def snapshot_file(self) -> bytes:
        """The memory snapshot as a file."""
        assert self.snapshot is not None
        return pickled(self.snapshot.to_dict(self.expandable_segments))


def replayed(plan: Plan, with_snapshot: bool = False) -> Replayed:
    """Replay a plan's process: on a GPU within the plan's budget and over several steps, on a CPU one step."""
    engine, timeline = plan.engine, Timeline()
    taken = Snapshot() if with_snapshot else None
    used = engine.replay(resolve(plan), engine.batches(plan), engine.capacity(plan), timeline, taken)
    failed = "" if used.out_of_memory is None else f"Out of memory in {used.out_of_memory}."
    expandable = plan.expandable_segments
    return Replayed(timeline, taken, used.allocated_peak, used.reserved_peak, used.phases, failed, expandable)
