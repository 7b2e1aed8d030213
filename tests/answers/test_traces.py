"""Totals of a part of a recorded trace. ``test_compare_snapshot.py`` asks about whole snapshots."""

from __future__ import annotations

from estimator.answers.snapshot_comparison import WINDOW, Allocation, Trace, _offsets


def test_totals_from_one_allocation_to_another() -> None:
    """By hand: 100 bytes are allocated, then 50, which are freed, then 30."""
    allocations = [Allocation(0, 100, None, []), Allocation(1, 50, 2, []), Allocation(3, 30, None, [])]
    trace = Trace(allocations, [0, 100, 150, 100, 130], [0, 200, 200, 200, 300], 0)
    assert trace.totals(0, 3) == {"allocations": 3, "live_at_start": 0, "peak": 150, "reserved_peak": 300}
    assert trace.totals(1, 2) == {"allocations": 1, "live_at_start": 100, "peak": 150, "reserved_peak": 200}
    assert trace.totals(2, 3) == {"allocations": 1, "live_at_start": 100, "peak": 130, "reserved_peak": 300}
    assert [trace.entry_of(number) for number in range(4)] == [0, 1, 3, 4]


def test_where_a_step_may_begin_in_a_recording() -> None:
    """By hand: a step of which the recording has no start, and one that another step precedes."""
    step = list(range(500))
    assert _offsets(step, step) == {0: len(step) - WINDOW + 1}
    assert _offsets(step[100:], step) == {-100: len(step) - 100 - WINDOW + 1}
    assert _offsets([7] * 50 + step, step)[50] == len(step) - WINDOW + 1
    assert _offsets(step[: WINDOW - 1], step) == {}
