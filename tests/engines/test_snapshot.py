"""Entries of a memory snapshot, as ``torch.cuda.memory._record_memory_history`` writes them (PyTorch's memory_viz)."""

from __future__ import annotations

from estimator.engines.snapshot import Snapshot


def test_the_end_of_a_step_and_a_request_that_failed() -> None:
    """A snapshot is taken at no address; a request that failed has none, but the bytes that the device had left."""
    snapshot = Snapshot()
    snapshot.segment("segment_alloc", 1 << 20, 2048)
    snapshot.taken(700)
    snapshot.out_of_memory(4096, 100)
    asked, taken, failed = snapshot.trace
    assert (asked["action"], asked["addr"], asked["size"]) == ("segment_alloc", 1 << 20, 2048)
    assert (taken["action"], taken["addr"], taken["size"]) == ("snapshot", 0, 700)
    assert (failed["action"], failed["size"], failed["device_free"]) == ("oom", 4096, 100)
    assert "addr" not in failed
    assert [entry["time_us"] for entry in snapshot.trace] == [0, 1, 2]
